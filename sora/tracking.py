"""What one pack says while it runs: ``metrics.jsonl`` (the truth), ``log.txt`` (for people), a progress bar.

Every run of the pack has its own folder::

    <paths.runs>/<run id>/
        metrics.jsonl    one JSON object a line, appended and flushed; no time, no host: a killed and
                         resumed run leaves byte for byte the file of the uninterrupted one
        log.txt          the lines a person may want, each with its time; never truncated

JSON knows no NaN and no infinity. A non-finite value is written as ``null`` and named, with what it was,
under ``nonfinite``: ``{"step": 7, "kind": "train", "loss": null, "nonfinite": {"loss": "nan"}}``. The column
stays numeric for every reader of JSON lines, and :func:`read_metrics` gives the floats back. A value inside a
mapping or a list is named by its path, ``select/f1``, with ``/`` and ``~`` inside a name escaped as in a JSON
Pointer (RFC 6901).

A mirror (such as W&B) is one more :class:`Sink`. Mirrors are best effort: one that raises is reported once
and dropped, while an error of ``metrics.jsonl`` itself ends the training.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sora.errors import TakenOver, UserError
from sora.untrusted import parse_json

METRICS = "metrics.jsonl"
LOG = "log.txt"
KINDS = ("train", "eval")
_RESERVED = {"step", "kind", "nonfinite"}
_NONFINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Sink(Protocol):
    """Somewhere the lines of a pack go. ``replica`` counts from 0 in the order of the run folders."""

    def resume_at(self, step: int) -> None:
        """Forget whatever was logged after ``step``: the run goes on from there."""

    def log(self, replica: int, line: dict[str, Any]) -> None:
        """Take one line, valid JSON already."""

    def summarize(self, replica: int, values: Mapping[str, Any]) -> None:
        """Take what a finished run comes to; not called for one that failed."""

    def close(self) -> None:
        """Called once, also when the training raised."""


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
        with _told("write", self._paths[replica]):
            if self._files is None:
                self._files = []
                for path in self._paths:
                    self._files.append(path.open(self._mode, encoding="utf-8"))
            file = self._files[replica]
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()

    def close(self) -> None:
        """Force the files to disk and close them."""
        files, self._files, self._mode = self._files or [], None, "a"
        for path, file in zip(self._paths, files, strict=False):  # fewer when one could not be opened
            with _told("write", path), file:
                file.flush()
                os.fsync(file.fileno())


class Tracker:
    """Progress and metrics of one pack, as a context manager.

    Parameters
    ----------
    run_dirs
        one folder for each replica; created when missing.
    labels
        what a person calls each replica, such as ``"seed 0"``; as many as folders.
    total_steps
        optimiser steps of the whole training.
    interactive
        draw a progress bar; None = when standard error is a terminal. Otherwise one line at the start, one at
        the end and at most one for each evaluation. All of it goes to standard error: standard output belongs
        to the caller.
    mirrors
        further sinks beside ``metrics.jsonl``.

    Raises
    ------
    UserError
        when a run folder cannot be written (permissions, full disk) or ``metrics.jsonl`` is damaged.
    """

    def __init__(
        self,
        run_dirs: list[Path],
        labels: list[str],
        total_steps: int,
        interactive: bool | None = None,
        *,
        mirrors: Sequence[Sink] = (),
    ) -> None:
        if len(run_dirs) != len(labels) or not run_dirs:
            raise ValueError(f"{len(run_dirs)} run folders, {len(labels)} labels: one label for each folder")
        self.run_dirs = [Path(folder) for folder in run_dirs]
        self.labels = list(labels)
        self.total_steps = total_steps
        self.interactive = sys.stderr.isatty() if interactive is None else interactive
        for folder in self.run_dirs:
            with _told("create", folder):
                folder.mkdir(parents=True, exist_ok=True)
        self._truth = JsonlSink(self.run_dirs)
        self._mirrors = list(mirrors)
        self._console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._started: float | None = None
        self._step = 0
        self._text = ""
        self._evaluation: dict[int, dict[str, Any]] = {}  # replica -> line not yet announced
        self._announced = -1  # step of the last evaluation a line was printed for
        self._closed = False

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(stopped_by="" if kind is None else kind.__name__, silent=isinstance(error, TakenOver))

    def resume_at(self, step: int, *, evaluated: bool = True) -> None:
        """Go on from the checkpoint of ``step``: lines of later steps are removed, as they will come again.

        So is the evaluation of ``step`` unless it was ``evaluated``.

        To be called before anything is logged; a training from scratch does not call it.
        """
        if self._started is not None:
            raise RuntimeError("resume_at() comes before the first log() and progress()")
        self._truth.resume_at(step, evaluated)
        self._to_mirrors("resume_at", step)
        self._step = step

    def log(self, replica: int, step: int, kind: str = "train", **values: Any) -> None:
        """Append one line for one replica.

        ``values`` are numbers, strings, booleans, None, 0-d arrays, or mappings and sequences of these. A 0-d
        tensor on an accelerator is copied here, which synchronises: the loop gathers what it logs first.
        """
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}: one of {KINDS}")
        if clash := _RESERVED & values.keys():
            raise ValueError(f"{sorted(clash)} are the tracker's own keys")
        self._start()
        nonfinite: dict[str, str] = {}
        line: dict[str, Any] = {"step": int(step), "kind": kind}
        line |= {key: _plain(value, _escape(key), nonfinite) for key, value in values.items()}
        if nonfinite:
            line["nonfinite"] = nonfinite
        self._truth.log(replica, line)
        self._to_mirrors("log", replica, line)
        if kind == "eval":
            if any(other["step"] != line["step"] for other in self._evaluation.values()):
                self._announce()
            told = copy.deepcopy(line)
            _restore(told)  # so that what is not finite is told from what the method does not have
            self._evaluation[replica] = self._evaluation.get(replica, {}) | told
            if len(self._evaluation) == len(self.labels):
                self._announce()

    def summarize(self, replica: int, **values: Any) -> None:
        """Tell the mirrors what a finished run comes to; the truth of that is its record."""
        self._to_mirrors("summarize", replica, values)

    def progress(self, step: int, text: str | None = None) -> None:
        """Say that ``step`` optimiser steps are done; ``text`` (see :func:`summary`) stays until replaced."""
        self._start()
        self._step = step
        if text is not None:
            self._text = text
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=self._text)
        if any(line["step"] < step for line in self._evaluation.values()):
            self._announce()  # a replica that diverged sends no line: do not wait for it

    def say(self, line: str) -> None:
        """Print a line for people and add it, with the time, to every run's log.txt."""
        console = self._bar.console if self._bar is not None else self._console
        console.print(line, soft_wrap=True)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        for folder in self.run_dirs:
            with _told("write", folder / LOG), (folder / LOG).open("a", encoding="utf-8") as file:
                file.write(f"{stamp}  {line}\n")

    def close(self, stopped_by: str = "", silent: bool = False) -> None:
        """Write the last line, unless ``silent``, and close every sink, whatever one raises. Again: does nothing."""
        if self._closed:
            return
        self._closed = True
        with contextlib.ExitStack() as stack:  # unwound in reverse order, also when a callback raises
            stack.callback(self._truth.close)
            stack.callback(self._to_mirrors, "close")
            stack.callback(self._finish, stopped_by, silent)

    def _start(self) -> None:
        if self._started is not None:
            return
        self._started = time.monotonic()
        many = f"{len(self.labels)} runs as one pack" if len(self.labels) > 1 else "1 run"
        where = f"steps {self._step + 1} to {self.total_steps}" if self._step else f"{self.total_steps} steps"
        self.say(f"training {many} ({', '.join(self.labels)}): {where}")
        if self.interactive:
            self._bar = Progress(
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                TextColumn("ETA"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=Console(stderr=True, force_terminal=True, highlight=False, markup=False),
                expand=True,
                refresh_per_second=4,
            )
            self._task = self._bar.add_task("", total=self.total_steps, completed=self._step, text="")
            self._bar.start()

    def _finish(self, stopped_by: str, silent: bool) -> None:
        if self._started is None:
            return
        try:
            if not silent:
                self._announce()
        finally:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None
        if silent:
            return
        seconds = round(time.monotonic() - self._started)
        how = f"stopped by {stopped_by} at" if stopped_by else "finished at"
        text = f"; {self._text}" if self._text else ""
        took = f"{seconds // 60}:{seconds % 60:02d}"
        self.say(f"{how} step {self._step} of {self.total_steps} after {took}{text}")

    def _announce(self) -> None:
        """One line for the evaluation that was collected, unless its step had one already."""
        lines, self._evaluation = list(self._evaluation.values()), {}
        if not lines or lines[0]["step"] <= self._announced:
            return
        self._announced = lines[0]["step"]
        columns: dict[str, list[float]] = {}
        for line in lines:
            for key, value in _numbers(line):
                columns.setdefault(key, []).append(value)
        first = list(columns.items())[:4]
        shown = "; ".join(f"{key} {' '.join(map(_short, column))}" for key, column in first)
        self.say(f"step {self._announced} of {self.total_steps}: {shown}")

    def _to_mirrors(self, call: str, *arguments: Any) -> None:
        for mirror in list(self._mirrors):
            try:
                getattr(mirror, call)(*arguments)
            except Exception as error:  # a mirror may fail in any way; the training does not depend on it
                self._mirrors.remove(mirror)
                name = type(mirror).__name__
                self.say(f"warning: {name}.{call} failed ({error}); metrics.jsonl goes on without it")
                if call != "close":
                    with contextlib.suppress(Exception):  # it was reported already
                        mirror.close()


def summary(**columns: Sequence[float]) -> str:
    """The text beside the bar: ``loss 0.412  accuracy 0.731``, means over the replicas that are finite.

    Underscores in a name become spaces (``live_ranks``). A column with nothing finite shows ``nan``.
    """
    parts = []
    for name, column in columns.items():
        finite = [float(value) for value in column if math.isfinite(float(value))]
        parts.append(f"{name.replace('_', ' ')} {_short(sum(finite) / len(finite) if finite else math.nan)}")
    return "  ".join(parts)


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
            _restore(values)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise UserError(
                f"{path}: nonfinite at step {values['step']} names no value of its line: restore the file, or delete "
                "the run folder and train the run again."
            ) from None
        restored.append(values)
    return restored


def _restore(values: dict[str, Any]) -> None:
    """Put the numbers that JSON does not know back into a line."""
    for pointer, name in values.pop("nonfinite", {}).items():
        *parents, last = (key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/"))
        node: Any = values
        for key in parents:
            node = node[int(key) if isinstance(node, list) else key]
        node[int(last) if isinstance(node, list) else last] = _NONFINITE[name]


def _parsed(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(text with its newline, object) of each complete line."""
    with _told("read", path):
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


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _plain(value: Any, name: str, nonfinite: dict[str, str]) -> Any:
    """``value`` as JSON knows it; a non-finite float becomes None and is entered into ``nonfinite``."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)  # numpy's float64 is a float, and prints differently
        nonfinite[name] = "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
        return None
    if isinstance(value, Mapping):
        return {str(k): _plain(item, f"{name}/{_escape(str(k))}", nonfinite) for k, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}/{i}", nonfinite) for i, item in enumerate(value)]
    if getattr(value, "ndim", None) == 0:
        return _plain(value.item(), name, nonfinite)
    raise TypeError(f"{name}: a {type(value).__name__} cannot be logged")


def _numbers(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """(dotted name, number) of every number in an evaluation line, non-finite values restored."""
    for key, value in line.items():
        if not prefix and key in _RESERVED:
            continue
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)


def _short(value: float) -> str:
    count = math.isfinite(value) and value == round(value) and abs(value) >= 2
    return f"{value:.0f}" if count else f"{value:.4g}"


def _replace(path: Path, text: str) -> None:
    """Write ``text`` beside ``path`` and rename: a reader, or a kill, sees the old file or the new one."""
    beside = path.with_name(path.name + ".tmp")
    with _told("write", path):
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)


@contextlib.contextmanager
def _told(verb: str, path: Path) -> Iterator[None]:
    """Turn an error of the file system into one sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Cannot {verb} {path}: {error.strerror or error}. "
            "Free some space there, or give another folder with paths.runs=..."
        ) from error
