"""Write and read ``metrics.jsonl``, the log of a run (torch-free).

One JSON object a line, appended and flushed. No time, no host: a run that was killed and resumed leaves the very bytes
of the undisturbed one. Values that are not finite are the literals NaN, Infinity and -Infinity, as Python's json,
pandas and jq read them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from sora.errors import UserError
from sora.files import as_user_error, write_text

METRICS = "metrics.jsonl"


def logging_to(path: Path) -> AbstractContextManager[None]:
    """Turn an error at a file of a run folder into one sentence."""
    return as_user_error(path, "cannot be written", "free some space, or set paths.runs to another folder")


class MetricsLogger:
    """Append to the ``metrics.jsonl`` of each run of a pack.

    Without :meth:`resume_at` an older file is replaced: at the first line, so that a training that never begins
    destroys nothing.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.paths = [Path(folder) / METRICS for folder in folders]
        self._files: list[IO[str]] = []
        self._mode = "w"

    def resume_at(self, step: int, evaluated: bool = True) -> None:
        """Cut each file back to ``step``, atomically; without the evaluation of that step unless ``evaluated``."""
        for path in self.paths:
            if path.exists():
                kept = [
                    text
                    for text, line in _lines(path)
                    if line["step"] < step or (line["step"] == step and (evaluated or line["kind"] != "eval"))
                ]
                write_text(path, "".join(kept))
        self._mode = "a"

    def log(self, replica: int, line: Mapping[str, Any]) -> None:
        """Append a line and hand it to the operating system, so that a killed process loses nothing it logged."""
        with logging_to(self.paths[replica]):
            if not self._files:
                for path in self.paths:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._files.append(path.open(self._mode, encoding="utf-8"))
            self._files[replica].write(json.dumps(line) + "\n")
            self._files[replica].flush()

    def sync(self) -> None:
        """Force the files to disk, so that no checkpoint that follows is newer than its lines."""
        for path, file in zip(self.paths, self._files, strict=False):
            with logging_to(path):
                os.fsync(file.fileno())

    def close(self) -> None:
        """Force the files to disk and close them."""
        files, self._files = self._files, []
        for path, file in zip(self.paths, files, strict=False):  # fewer when one could not be opened
            with logging_to(path), file:
                file.flush()
                os.fsync(file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a ``metrics.jsonl``; a last line that a kill cut short is left out.

    Raises:
        UserError: the file is missing, or a line is not what :class:`MetricsLogger` writes (file:line).
    """
    return [line for _, line in _lines(Path(path))]


def as_json(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``line`` as JSON would give it back: numbers of numpy and 0-d tensors become Python's.

    Raises TypeError for a value that JSON has no type for.
    """
    plain: dict[str, Any] = json.loads(json.dumps(line, default=number))
    return plain


def number(value: Any) -> Any:
    """Return the Python number of a 0-d array or tensor: ``default`` of json.dumps."""
    if getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be logged")


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (text with its newline, object) of each complete line."""
    with as_user_error(path, "cannot be read", "restore the file, or delete the run folder and train the run again"):
        texts = path.read_bytes().decode("utf-8", errors="replace").splitlines(keepends=True)
    for number, text in enumerate(texts, start=1):
        if number == len(texts) and not text.endswith("\n"):
            return
        try:
            line = json.loads(text)
            if not isinstance(line["step"], int) or not isinstance(line["kind"], str):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f"{path}:{number} is not a line of metrics (a JSON object with an integer step and a kind): "
                "restore the file, or delete the run folder and train the run again"
            ) from None
        yield text, line
