"""What one pack says while it runs: ``metrics.jsonl`` (the truth), ``log.txt`` (for people), a progress bar.

Every run of the pack has its own folder::

    <paths.runs>/<run id>/
        metrics.jsonl    what was logged (metrics_file.py)
        log.txt          the lines a person may want, each with its time; never truncated

A mirror (such as W&B) is one more :class:`Sink`. Mirrors are best effort: one that raises is reported once
and dropped, while an error of ``metrics.jsonl`` itself ends the training.
"""

from __future__ import annotations

import contextlib
import copy
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sora.errors import TakenOver
from sora.metrics_file import KINDS, RESERVED, JsonlSink, escape, plain, restore, told

LOG = "log.txt"


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
            with told("create", folder):
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
        if clash := RESERVED & values.keys():
            raise ValueError(f"{sorted(clash)} are the tracker's own keys")
        self._start()
        nonfinite: dict[str, str] = {}
        line: dict[str, Any] = {"step": int(step), "kind": kind}
        line |= {key: plain(value, escape(key), nonfinite) for key, value in values.items()}
        if nonfinite:
            line["nonfinite"] = nonfinite
        self._truth.log(replica, line)
        self._to_mirrors("log", replica, line)
        if kind == "eval":
            if any(other["step"] != line["step"] for other in self._evaluation.values()):
                self._announce()
            shown = copy.deepcopy(line)
            restore(shown)  # so that what is not finite is told from what the method does not have
            self._evaluation[replica] = self._evaluation.get(replica, {}) | shown
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
            with told("write", folder / LOG), (folder / LOG).open("a", encoding="utf-8") as file:
                file.write(f"{stamp}  {line}\n")

    def sync(self) -> None:
        """Force what was logged to disk."""
        self._truth.sync()

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


def _numbers(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """(dotted name, number) of every number in an evaluation line, non-finite values restored."""
    for key, value in line.items():
        if not prefix and key in RESERVED:
            continue
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)


def _short(value: float) -> str:
    count = math.isfinite(value) and value == round(value) and abs(value) >= 2
    return f"{value:.0f}" if count else f"{value:.4g}"
