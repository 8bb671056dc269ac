"""Write and read ``metrics.jsonl``, the log of a run (torch-free).

One JSON object a line, appended and flushed. No time, no host: a run that was killed and resumed leaves the very bytes
of the undisturbed one. Values that are not finite are the literals NaN, Infinity and -Infinity, as Python's json,
pandas and jq read them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

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
                    line
                    for line in read_metrics(path)
                    if line["step"] < step or (line["step"] == step and (evaluated or line["kind"] != "eval"))
                ]
                write_text(path, "".join(f"{json.dumps(line)}\n" for line in kept))
        self._mode = "a"

    def log(self, replica: int, text: str) -> None:
        """Append a line and hand it to the operating system, so that a killed process loses nothing it logged."""
        with logging_to(self.paths[replica]):
            if not self._files:
                for path in self.paths:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._files.append(path.open(self._mode, encoding="utf-8"))
            self._files[replica].write(f"{text}\n")
            self._files[replica].flush()

    def sync(self) -> None:
        """Force the files to disk, so that no checkpoint that follows is newer than its lines."""
        for path, file in zip(self.paths, self._files, strict=False):  # fewer when one could not be opened
            with logging_to(path):
                os.fsync(file.fileno())

    def close(self) -> None:
        """Force the files to disk and close them."""
        files, self._files = self._files, []
        for path, file in zip(self.paths, files, strict=False):
            with logging_to(path), file:
                os.fsync(file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a ``metrics.jsonl``; a last line that a kill cut short is left out.

    Raises UserError where the file is missing or damaged.
    """
    advice = "restore the file, or move it away: a run goes on from its checkpoint without those lines"
    with as_user_error(path, "cannot be read", advice):
        texts = Path(path).read_text(encoding="utf-8", errors="replace").split("\n")
    lines = []
    for place, text in enumerate(texts[:-1], start=1):
        with as_user_error(f"{path}:{place}", "is no line of metrics", advice, (ValueError,)):
            line = json.loads(text)
            if not (isinstance(line, dict) and {"step", "kind"} <= line.keys()):
                raise ValueError("not an object with step and kind")
        lines.append(line)
    return lines


def number(value: Any) -> Any:
    """Return the Python number of a 0-d array or tensor: ``default`` of json.dumps."""
    if getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be logged")
