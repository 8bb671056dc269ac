"""How far a study is: what it has, lacks, what failed, what runs now, and what the rest may cost."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments.study import Record, Run, Study
from sora import stats
from sora.cluster.run_lock import holder

RUNNING, STOPPED, FAILED, WAITING, UNUSABLE = "running", "stopped", "failed", "not started", "unusable"


@dataclass(frozen=True)
class Open:
    """A run without a record: its state, and what its run folder says about it."""

    run: Run
    state: str
    words: str = ""


@dataclass(frozen=True)
class Progress:
    """A study's runs by what became of them.

    ``seconds``: estimated time of the runs that have to be computed, each alone on such devices as made the others, at
    its share of their pack's time; ``unknown``: how many of them are of a kind (method and task) that never finished.
    """

    study: Study
    done: Sequence[Run]
    open: Sequence[Open]
    seconds: float
    unknown: int
    devices: Sequence[str]
    marks: Mapping[str, int] = field(default_factory=dict)

    def state(self, state: str) -> list[Open]:
        """The open runs in that state."""
        return [each for each in self.open if each.state == state]


def progress(study: Study, runs: Path) -> Progress:
    """Where ``study`` stands; ``runs`` is the folder of run folders (paths.runs)."""
    done = [run for run in study.runs if run.record is not None]
    unfinished = [_open(run, runs) for run in study.runs if run.record is None]
    known = _seconds_by_kind(study, done)
    wanted = [known.get(_kind(study, each.run), math.nan) for each in unfinished if each.state != UNUSABLE]
    records = [run.record for run in done if run.record is not None]
    marks = {
        "diverged": sum(record["status"] == "diverged" for record in records),
        "one-class": sum(record["flags"]["one_class"] for record in records),
    }
    return Progress(
        study,
        done,
        unfinished,
        math.fsum(each for each in wanted if not math.isnan(each)),
        sum(math.isnan(each) for each in wanted),
        sorted({str(record["provenance"]["device"]) for record in records}),
        {word: count for word, count in marks.items() if count},
    )


def _open(run: Run, runs: Path) -> Open:
    if run.reason != "not run":
        return Open(run, UNUSABLE, run.reason)
    folder = runs / run.run_id
    try:
        said = json.loads((folder / "status.json").read_text(encoding="utf-8"))
        if not isinstance(said, dict):
            return Open(run, STOPPED, f"{folder / 'status.json'} holds no object")
    except FileNotFoundError:
        return Open(run, WAITING)
    except (OSError, ValueError) as error:
        return Open(run, STOPPED, f"{folder / 'status.json'} cannot be read ({error})")
    status, since = str(said.get("status")), str(said.get("time"))
    if owner := holder(folder):
        return Open(run, RUNNING, owner)
    if status == "failed":
        return Open(run, FAILED, str(said.get("reason", "no reason was written")))
    return Open(run, STOPPED, f"{status} since {since}, and no process is at work on it")


def _kind(study: Study, run: Run) -> tuple[str, str]:
    return str(study.value(run, "method")), str(study.value(run, "task"))


def _seconds_by_kind(study: Study, done: Sequence[Run]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], list[float]] = {}
    for run in done:
        if run.record is not None:
            found.setdefault(_kind(study, run), []).append(seconds(run.record))
    return {kind: stats.mean(values) for kind, values in found.items()}


def seconds(record: Record) -> float:
    """A run's share of its pack's time: set-up, training and evaluation, divided by the runs of the pack."""
    return math.fsum(record["time"].values()) / float(record["pack"]["size"])


def told(progress: Progress, commands: int, shown_as: Mapping[str, str] | None = None) -> str:
    """The progress in words, with at most ``commands`` commands of what is to be run.

    ``shown_as``: command of a manifest -> the one that runs where the user stands.
    """
    shown_as = shown_as or {}
    study = progress.study
    states = Counter(each.state for each in progress.open)
    counts = [f"{len(progress.done)} done", *(f"{n} {state}" for state, n in states.items())]
    marks = "".join(f", {count} {word}" for word, count in progress.marks.items())
    lines = [
        study.key,
        f"  {len(study.runs)} runs: {', '.join(counts)}" + (f" (of those done{marks})" if marks else ""),
    ]
    for state in (FAILED, STOPPED, RUNNING, UNUSABLE):
        for each in progress.state(state):
            axes = " ".join(f"{key}={value}" for key, value in each.run.axes.items())
            lines.append(f"  {state}: {each.run.run_id} {axes}: {each.words}")
    todo = [each for each in progress.open if each.state in (FAILED, STOPPED, WAITING)]
    if progress.open and (progress.seconds or progress.unknown):
        lines.append(f"  the rest: {_cost(progress)}")
    if todo and commands:
        lines += [f"  {shown_as.get(each.run.command, each.run.command)}" for each in todo[:commands]]
        if len(todo) > commands:
            lines.append(f"  and {len(todo) - commands} more; --commands {len(todo)} lists them")
    return "\n".join(lines)


def _cost(progress: Progress) -> str:
    parts = []
    if progress.seconds:
        where = f" on {' or '.join(progress.devices)}" if progress.devices else ""
        parts.append(f"about {duration(progress.seconds)}{where}, going by the finished runs of each method and task")
    if progress.unknown:
        parts.append(f"{progress.unknown} runs like none that has finished, so that their time is not known")
    return "; ".join(parts)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
