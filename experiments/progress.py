"""How far a study is: what it has, lacks, what failed, what runs now, and what the rest may cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from experiments.study import Study
from sora.cluster.run_lock import holder

RUNNING, STOPPED, FAILED, WAITING, UNUSABLE = "running", "stopped", "failed", "not started", "unusable"
TODO = (FAILED, STOPPED, WAITING)


@dataclass(frozen=True)
class Progress:
    """A study's runs by what became of them.

    Attributes:
        runs: the study's, with ``state`` (``done`` or one of the above) and what the run folder says about it
        (``words``).
        seconds: estimated time of the runs that have to be computed, each alone on such devices as made the others, at
            its share of their pack's time. unknown: how many of them have a method and task that never finished.
    """

    study: Study
    runs: pd.DataFrame
    seconds: float
    unknown: int


def progress(study: Study, folder: Path) -> Progress:
    """Where ``study`` stands; ``folder`` is that of the run folders (paths.runs)."""
    runs = study.runs.copy()
    states = [
        ("done", "") if done else _open(folder / run_id, reason)
        for run_id, done, reason in zip(runs["run_id"], runs["done"], runs["reason"], strict=True)
    ]
    runs["state"], runs["words"] = zip(*states, strict=True) if states else ((), ())
    runs["seconds"] = seconds(runs)
    kinds = runs.groupby(["method", "task"])["seconds"].transform("mean")
    wanted = kinds[~runs["done"] & (runs["state"] != UNUSABLE)]
    return Progress(study, runs, float(wanted.sum()), int(wanted.isna().sum()))


def seconds(runs: pd.DataFrame) -> pd.Series:
    """Each run's share of its pack's time: set-up, training and evaluation, divided by the runs of the pack."""
    parts = runs[["time.setup_s", "time.train_s", "time.eval_s"]].astype(float)
    return parts.sum(axis=1, skipna=False) / runs["pack.size"].astype(float)


def _open(folder: Path, reason: str) -> tuple[str, str]:
    """State and words of a run without a record."""
    if reason != "not run":
        return UNUSABLE, reason
    file = folder / "status.json"
    try:
        status = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(status, dict):
            return STOPPED, f"{file} holds no object"
    except FileNotFoundError:
        return WAITING, ""
    except (OSError, ValueError) as error:
        return STOPPED, f"{file} cannot be read ({error})"
    if owner := holder(folder):
        return RUNNING, owner
    if status.get("status") == "failed":
        return FAILED, str(status.get("reason", "no reason was written"))
    return STOPPED, f"{status.get('status')} since {status.get('time')}, and no process is at work on it"


def described(progress: Progress, commands: int, shown_as: Callable[[str], str] = str) -> str:
    """The progress in words, with at most ``commands`` commands of what is to be run.

    ``shown_as``: turns a command of a manifest into one that runs where the user stands.
    """
    runs, study = progress.runs, progress.study
    states = runs.loc[~runs["done"], "state"].value_counts(sort=False)
    counts = [f"{runs['done'].sum()} done", *(f"{n} {state}" for state, n in states.items())]
    marks = {"diverged": runs["diverged"].sum(), "one-class": runs["one_class"].sum()}
    flagged = "".join(f", {count} {word}" for word, count in marks.items() if count)
    lines = [study.key, f"  {len(runs)} runs: {', '.join(counts)}" + (f" (of those done{flagged})" if flagged else "")]
    for state in (FAILED, STOPPED, RUNNING, UNUSABLE):
        for _, run in runs[runs["state"] == state].iterrows():
            axes = " ".join(f"{axis}={run[axis]}" for axis in study.axes)
            lines.append(f"  {state}: {run['run_id']} {axes}: {run['words']}")
    if not runs["done"].all() and (progress.seconds or progress.unknown):
        lines.append(f"  the rest: {_cost(progress)}")
    todo = list(runs.loc[runs["state"].isin(TODO), "command"]) if commands else []
    lines += [f"  {shown_as(command)}" for command in todo[:commands]]
    if len(todo) > commands:
        lines.append(f"  and {len(todo) - commands} more; --commands {len(todo)} lists them")
    return "\n".join(lines)


def _cost(progress: Progress) -> str:
    parts = []
    if progress.seconds:
        devices = " or ".join(sorted(set(progress.runs["provenance.device"].dropna())))
        parts.append(
            f"about {duration(progress.seconds)} on {devices}, going by the finished runs of each method and task"
        )
    if progress.unknown:
        parts.append(f"{progress.unknown} runs of a method and task that never finished, whose time is not known")
    return "; ".join(parts)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
