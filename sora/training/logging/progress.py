"""Show how a training goes, on standard error and in each run's ``log.txt`` (torch-free).

On a terminal a bar; elsewhere a line at either end, those that are printed, and one after a minute without any.
Standard output belongs to the caller.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sora.training.logging.metrics import logging_to

LOG = "log.txt"
QUIET = 60.0  # seconds after which a log that nobody draws a bar in says how far the training is


class ProgressLogger:
    """Draw the bar and write the lines; see :class:`sora.training.logging.Tracker` for the arguments."""

    def __init__(
        self, folders: Sequence[Path], labels: Sequence[str], total_steps: int, interactive: bool | None = None
    ) -> None:
        self.first_step = 0
        self._paths = [Path(folder) / LOG for folder in folders]
        self._labels, self._total = list(labels), total_steps
        interactive = sys.stderr.isatty() if interactive is None else interactive
        self._bar = Progress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True, force_terminal=interactive or None, highlight=False, markup=False),
            expand=True,
            refresh_per_second=4,
            disable=not interactive,
        )
        self._started: float | None = None  # None before the first line and after the last
        self._printed = 0.0  # when the last line was
        self._step, self._text = 0, ""

    def start(self) -> None:
        """Write the first line, once."""
        if self._started is not None:
            return
        self._started, self._step = time.monotonic(), self.first_step
        many = f"{len(self._labels)} runs as one pack" if len(self._labels) > 1 else "1 run"
        where = f"steps {self._step + 1} to {self._total}" if self._step else f"{self._total} steps"
        self.print(f"training {many} ({', '.join(self._labels)}): {where}")
        self._task = self._bar.add_task("", total=self._total, completed=self._step, text="")
        self._bar.start()

    def update(self, step: int, text: str | None = None) -> None:
        """Move the bar to ``step``; ``text`` stays until replaced."""
        self.start()
        self._step = step
        self._text = self._text if text is None else text
        self._bar.update(self._task, completed=step, text=self._text)
        if self._bar.disable and time.monotonic() - self._printed > QUIET and step > self.first_step:
            seconds = (time.monotonic() - (self._started or 0.0)) / (step - self.first_step)
            left = math.ceil(seconds * (self._total - step) / 60)
            self.print(f"step {step} of {self._total}: {seconds:.2g} s a step, about {left} min left")

    def print(self, text: str) -> None:
        """Print a line, above the bar, and add it to every log.txt."""
        self._printed = time.monotonic()
        self._bar.console.print(text, soft_wrap=True)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        for path in self._paths:
            with logging_to(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a", encoding="utf-8") as file:
                    file.write(f"{stamp}  {text}\n")

    def close(self, stopped_by: str = "") -> None:
        """Write the last line, once, if there was a first."""
        if self._started is None:
            return
        self._bar.stop()
        seconds, self._started = round(time.monotonic() - self._started), None
        how = f"stopped by {stopped_by} at" if stopped_by else "finished at"
        text = f"; {self._text}" if self._text else ""
        self.print(f"{how} step {self._step} of {self._total} after {seconds // 60}:{seconds % 60:02d}{text}")


def columns(values: Mapping[str, Sequence[float]]) -> str:
    """Describe each replica's numbers: ``accuracy 0.731 0.72; live ranks 48 51``."""
    return "; ".join(f"{name.replace('_', ' ')} {' '.join(map(_short, each))}" for name, each in values.items())


def summary(values: Mapping[str, Sequence[float]]) -> str:
    """Describe means over the replicas that are finite, for the bar; nan where none is."""
    finite = {name: [float(value) for value in each if math.isfinite(value)] for name, each in values.items()}
    return columns({name: [sum(each) / len(each) if each else math.nan] for name, each in finite.items()})


def _short(value: float) -> str:
    count = math.isfinite(value) and value == round(value) and abs(value) >= 2
    return f"{value:.0f}" if count else f"{value:.4g}"
