"""``metrics.jsonl`` of a run: the truth of what was logged (torch-free).

One JSON object a line, appended and flushed; no time, no host: a killed and resumed run leaves byte for byte the file
of the uninterrupted one.

JSON knows no NaN and no infinity. A non-finite value is written as ``null`` and named, with what it was,
under ``nonfinite``: ``{"step": 7, "kind": "train", "loss": null, "nonfinite": {"loss": "nan"}}``. The column
stays numeric for every reader of JSON lines, and :func:`read_metrics` gives the floats back. A value inside a
mapping or a list is named by its path, ``select/f1``, with ``/`` and ``~`` inside a name escaped as in a JSON
Pointer (RFC 6901).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from sora.errors import UserError
from sora.files import replaced
from sora.untrusted import parse_json

METRICS = "metrics.jsonl"
KINDS = ("train", "eval")
RESERVED = {"step", "kind", "nonfinite"}
_NONFINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class JsonlSink:
    """The truth: one append-only ``metrics.jsonl`` for each run.

    Without :meth:`resume_at` the run starts afresh and an older file is replaced, at the first line rather
    than before, so that a training that never begins destroys nothing.
    """

    def __init__(self, run_dirs: Sequence[Path]) -> None:
        self._paths = [Path(folder) / METRICS for folder in run_dirs]
        self._files: list[IO[str]] | None = None
        self._mode = "w"

    def resume_at(self, step: int, evaluated: bool = True) -> None:
        """Truncate each file to its lines with ``step <= step``, atomically; a torn last line goes too.

        Not ``evaluated``: the evaluation of that very step is to come again, so its line goes as well.
        """

        def stays(values: Mapping[str, Any]) -> bool:
            return values["step"] < step or (values["step"] == step and (evaluated or values["kind"] != "eval"))

        for path in self._paths:
            if path.exists():
                _replace(path, "".join(line for line, values in _parsed(path) if stays(values)))
        self._mode = "a"

    def log(self, replica: int, line: dict[str, Any]) -> None:
        """Append and hand over to the operating system, so that a killed process loses nothing it logged."""
        with told("write", self._paths[replica]):
            if self._files is None:
                self._files = []
                for path in self._paths:
                    self._files.append(path.open(self._mode, encoding="utf-8"))
            file = self._files[replica]
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()

    def sync(self) -> None:
        """Force the files to disk, so that no checkpoint that follows is newer than its lines."""
        for path, file in zip(self._paths, self._files or [], strict=False):
            with told("write", path):
                os.fsync(file.fileno())

    def close(self) -> None:
        """Force the files to disk and close them."""
        files, self._files, self._mode = self._files or [], None, "a"
        for path, file in zip(self._paths, files, strict=False):  # fewer when one could not be opened
            with told("write", path), file:
                file.flush()
                os.fsync(file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``, non-finite values restored; a last line torn by a kill is left out.

    Raises
    ------
    UserError
        when the file is missing or a line is not what the tracker writes (file:line).
    """
    if not Path(path).is_file():
        raise UserError(f"There is no metrics file {path}: give the metrics.jsonl of a run folder.")
    restored = []
    for _, values in _parsed(Path(path)):
        try:
            restore(values)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise UserError(
                f"{path}: nonfinite at step {values['step']} names no value of its line: restore the file, or delete "
                "the run folder and train the run again."
            ) from None
        restored.append(values)
    return restored


def restore(values: dict[str, Any]) -> None:
    """Put the numbers that JSON does not know back into a line."""
    for pointer, name in values.pop("nonfinite", {}).items():
        *parents, last = (key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/"))
        node: Any = values
        for key in parents:
            node = node[int(key) if isinstance(node, list) else key]
        node[int(last) if isinstance(node, list) else last] = _NONFINITE[name]


def _parsed(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(text with its newline, object) of each complete line."""
    with told("read", path):
        lines = path.read_bytes().decode("utf-8", errors="replace").splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith("\n"):
            return  # the process was killed while it wrote this line
        try:
            values = parse_json(line)
            if not isinstance(values["step"], int) or not isinstance(values["kind"], str):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f"{path}:{number} is not a line of metrics (a JSON object with an integer step and a kind): "
                "restore the file, or delete the run folder and train the run again."
            ) from None
        yield line, values


def escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def plain(value: Any, name: str, nonfinite: dict[str, str]) -> Any:
    """``value`` as JSON knows it; a non-finite float becomes None and is entered into ``nonfinite``."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)  # numpy's float64 is a float, and prints differently
        nonfinite[name] = "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
        return None
    if isinstance(value, Mapping):
        return {str(k): plain(item, f"{name}/{escape(str(k))}", nonfinite) for k, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{name}/{i}", nonfinite) for i, item in enumerate(value)]
    if getattr(value, "ndim", None) == 0:
        return plain(value.item(), name, nonfinite)
    raise TypeError(f"{name}: a {type(value).__name__} cannot be logged")


def _replace(path: Path, text: str) -> None:
    """Write ``text``: a reader, or a kill, sees the old file or the new one."""
    with told("write", path), replaced(path) as beside:
        beside.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def told(verb: str, path: Path) -> Iterator[None]:
    """Turn an error of the file system into one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Cannot {verb} {path}: {error.strerror or error}. "
            "Free some space there, or give another folder with paths.runs=..."
        ) from error
