"""Log the training of a pack: ``metrics.jsonl``, progress for people, W&B where it is asked for.

Three loggers, one file each. metrics.py and progress.py write into the run folders, and their errors end the training.
wandb.py may fail in any way: it is dropped with one line, and the training goes on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from sora.cluster.signals import Preempted
from sora.training.logging.metrics import MetricsLogger, number, read_metrics
from sora.training.logging.progress import ProgressLogger, columns, summary

__all__ = ["Tracker", "columns", "read_metrics", "summary"]


class Tracker:
    """Hand what one pack logs to every logger, as a context manager.

    Args:
        folders, labels: of each replica: its run folder, made when missing; its name for people, such as ``seed 0``.
        total_steps: optimiser steps of the whole training.
        interactive: draw a bar; None = when standard error is a terminal.
        remotes: loggers that may fail, with the methods of WandbLogger (wandb.py).

    Raises:
        UserError: a run folder cannot be written (permissions, full disk), ``metrics.jsonl`` is damaged.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        labels: Sequence[str],
        total_steps: int,
        interactive: bool | None = None,
        *,
        remotes: Sequence[Any] = (),
    ) -> None:
        self._metrics = MetricsLogger(folders)
        self._progress = ProgressLogger(folders, labels, total_steps, interactive)
        self._remotes = list(remotes)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(stopped_by="" if kind is None else "a signal" if kind is Preempted else kind.__name__)

    def resume_at(self, step: int, *, evaluated: bool = True) -> None:
        """Go on from the checkpoint of ``step``: remove later lines, and hand the others to the remotes once more.

        The evaluation of ``step`` itself goes too, unless it was ``evaluated``. Call this before anything is logged.
        """
        self._metrics.resume_at(step, evaluated)
        self._progress.first_step = step
        for replica, path in enumerate(self._metrics.paths if self._remotes else ()):
            for line in read_metrics(path) if path.exists() else ():
                self._to_remotes("log", replica, line)

    def log(self, replica: int, step: int, kind: str, **values: Any) -> None:
        """Log one line of one replica: numbers (0-d arrays too), texts, None, and mappings and lists of these."""
        text = json.dumps({"step": step, "kind": kind} | values, default=number)
        self._progress.start()
        self._metrics.log(replica, text)
        self._to_remotes("log", replica, json.loads(text))

    def summarize(self, replica: int, **values: Any) -> None:
        """Hand the record of a finished run to the remotes."""
        self._to_remotes("summarize", replica, values)

    def progress(self, step: int, text: str | None = None) -> None:
        """Show that ``step`` optimiser steps are done; ``text`` (see :func:`summary`) stays until replaced."""
        self._progress.update(step, text)

    def print(self, text: str) -> None:
        """Print a line for people and add it, with the time, to every run's log.txt."""
        self._progress.print(text)

    def sync(self) -> None:
        """Force ``metrics.jsonl`` to disk."""
        self._metrics.sync()

    def close(self, stopped_by: str = "") -> None:
        """Write the last line and close every logger, whatever one of them raises."""
        with contextlib.ExitStack() as stack:  # unwound in reverse order, also when a callback raises
            stack.callback(self._metrics.close)
            stack.callback(self._to_remotes, "close")
            stack.callback(self._progress.close, stopped_by)

    def _to_remotes(self, call: str, *arguments: Any) -> None:
        for remote in list(self._remotes):
            try:
                getattr(remote, call)(*arguments)
            except Exception as error:  # a service may fail in any way; the training does not depend on it
                self._remotes.remove(remote)
                name = type(remote).__name__
                self.print(f"warning: {name}.{call} failed ({error}); the training goes on without it")
                if call != "close":
                    with contextlib.suppress(Exception):  # one line is enough
                        remote.close()
