"""How far a study is: what it has, lacks, what failed, what runs now, and what the rest may cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from experiments.study import Study
from sora.cluster.run_lock import holder

DONE, RUNNING, STOPPED, FAILED = "done", "running", "stopped", "failed"
WAITING, UNUSABLE = "not started", "unusable"
UNDONE = (FAILED, STOPPED, WAITING)


def progress(study: Study, folder: Path) -> pd.DataFrame:
    """The study's runs with their ``state``, one of the above, and what the run folder says about it (``words``).

    ``seconds``: of a finished run its share of its pack's time for set-up, training and evaluation; of one that has to
    be computed the mean of the finished runs of its method and task, NaN where there is none. ``folder``: of the run
    folders (paths.runs).
    """
    runs = study.runs.copy()
    states = [
        (DONE, "") if done else _open(folder / run_id, reason)
        for run_id, done, reason in zip(runs["run_id"], runs["done"], runs["reason"], strict=True)
    ]
    runs["state"], runs["words"] = zip(*states, strict=True) if states else ((), ())
    parts = runs[["time.setup_s", "time.train_s", "time.eval_s"]].astype(float)
    seconds = parts.sum(axis=1, skipna=False) / runs["pack.size"].astype(float)
    alike = seconds.groupby([runs["method"], runs["task"]]).transform("mean")
    return runs.assign(seconds=seconds.where(runs["done"], alike))


def _open(folder: Path, reason: str) -> tuple[str, str]:
    """State and words of a run without a record."""
    if reason != "not run":
        return UNUSABLE, reason
    file = folder / "status.json"
    try:
        status = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return WAITING, ""
    except (OSError, ValueError) as error:
        return STOPPED, f"{file} cannot be read ({error})"
    if not isinstance(status, dict):
        return STOPPED, f"{file} holds no object"
    if owner := holder(folder):
        return RUNNING, owner
    if status.get("status") == "failed":
        return FAILED, str(status.get("reason", "no reason was written"))
    return STOPPED, f"{status.get('status')} since {status.get('time')}, and no process is at work on it"


def described(study: Study, runs: pd.DataFrame, commands: int, shown_as: Callable[[str], str] = str) -> str:
    """The :func:`progress` in words, with at most ``commands`` commands of what is to be run.

    ``shown_as``: turns a command of a manifest into one that runs where the user stands.
    """
    states = runs.loc[~runs["done"], "state"].value_counts(sort=False)
    counts = [f"{runs['done'].sum()} done", *(f"{n} {state}" for state, n in states.items())]
    marks = {"diverged": runs["diverged"].sum(), "one-class": runs["one_class"].sum()}
    flagged = "".join(f", {count} {word}" for word, count in marks.items() if count)
    lines = [study.key, f"  {len(runs)} runs: {', '.join(counts)}" + (f" (of those done{flagged})" if flagged else "")]
    for state in (FAILED, STOPPED, RUNNING, UNUSABLE):
        for _, run in runs[runs["state"] == state].iterrows():
            axes = " ".join(f"{axis}={run[axis]}" for axis in study.axes)
            lines.append(f"  {state}: {run['run_id']} {axes}: {run['words']}")
    if cost := _cost(runs):
        lines.append(f"  the rest: {cost}")
    undone = list(runs.loc[runs["state"].isin(UNDONE), "command"]) if commands else []
    lines += [f"  {shown_as(command)}" for command in undone[:commands]]
    if len(undone) > commands:
        lines.append(f"  and {len(undone) - commands} more; --commands {len(undone)} lists them")
    return "\n".join(lines)


def _cost(runs: pd.DataFrame) -> str:
    """Time of what has to be computed, each run alone on such devices as made the others; empty where nothing has."""
    wanted, parts = runs.loc[~runs["done"] & (runs["state"] != UNUSABLE), "seconds"], []
    if wanted.sum():
        devices = " or ".join(sorted(set(runs["provenance.device"].dropna())))
        words = f"about {duration(wanted.sum())} on {devices}"
        parts.append(f"{words}, going by the finished runs of each method and task")
    if unknown := int(wanted.isna().sum()):
        parts.append(f"{unknown} runs of a method and task that never finished, whose time is not known")
    return "; ".join(parts)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
