"""Repetitions of one setting, and the numbers that come of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.artefacts import EMPTY, Cell
from experiments.columns import Column
from experiments.study import Record, Run, Study, commands
from sora import stats


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but seeds.

    ``trials``: how many settings were compared on the select split to choose this one; 1 = nothing was chosen.
    """

    runs: tuple[Run, ...]
    trials: int = 1

    @property
    def records(self) -> list[Record]:
        """Of the runs that have one, in the manifest's order."""
        return [run.record for run in self.runs if run.record is not None]

    @property
    def done(self) -> list[Run]:
        """The runs that have a record."""
        return [run for run in self.runs if run.record is not None]

    @property
    def complete(self) -> bool:
        """Whether no run is missing."""
        return bool(self.runs) and len(self.records) == len(self.runs)

    @property
    def coverage(self) -> str:
        """``3/5``: runs that have a record, of those the manifest names."""
        return f"{len(self.records)}/{len(self.runs)}"

    def scores(self, column: Column, weights: str = "selected") -> list[float]:
        """In points, of the runs that have one; ``weights``: selected | last."""
        return [s for record in self.records if (s := score(record, column, weights)) is not None]

    def mean(self, column: Column, weights: str = "selected") -> float:
        """In points; NaN without a score."""
        found = self.scores(column, weights)
        return stats.mean(found) if found else math.nan

    def remarks(self) -> list[str]:
        """What must be known before the scores are used: diverged and one-class runs, reasons for missing ones."""
        flags = [
            (sum(record["status"] == "diverged" for record in self.records), "diverged"),
            (sum(record["flags"]["one_class"] for record in self.records), "one-class"),
        ]
        reasons = Counter(run.reason for run in self.runs if run.record is None and run.reason != "not run")
        return [
            f"{count} {word}" for count, word in [*flags, *((n, why) for why, n in sorted(reasons.items()))] if count
        ]

    def live(self) -> float:
        """Mean number of live parameters of the selected weights; NaN without a record."""
        found = [record["params"]["live"] for record in self.records]
        return stats.mean(found) if found else math.nan


def score(record: Record, column: Column, weights: str = "selected") -> float | None:
    """The score of one record in points, or None where it has none (not that split, or not finite)."""
    value = record["metrics"][weights].get(column.split, {}).get(column.metric)
    return None if value is None else 100.0 * float(value)


def chosen(study: Study, runs: Sequence[Run], by: Column, *axes: str) -> Group:
    """One group out of ``runs`` that agree on ``axes``: the setting with the best mean on the select split.

    Other settings than one arise where a sweep has an axis besides ``axes`` and the seeds: each is a trial, and the
    number of trials is told, because the best of many looks better than it is. Settings are compared only when every
    run of all of them has a score: a half-finished sweep chooses nothing by accident, before that the first one stands.
    """
    settings: dict[object, list[Run]] = {}
    for run in runs:
        settings.setdefault(study.setting(run, *axes), []).append(run)
    groups = [Group(tuple(each), len(settings)) for each in settings.values()]
    select = Column(by.task, by.metric, "select")
    if any(len(group.scores(select)) < len(group.runs) for group in groups):
        return groups[0]
    return groups[int(np.argmax([group.mean(select) for group in groups]))]


def score_cell(group: Group | None, column: Column, weights: str = "selected") -> Cell:
    """``85.32 ± 0.86 (3/5) [1 diverged]``: mean and population SD in points; the count where runs are missing."""
    if group is None or not group.runs:
        return Cell(EMPTY)
    found = group.scores(column, weights)
    parts = []
    if found:
        parts.append(f"{stats.mean(found):.2f} ± {stats.population_sd(found):.2f}")
    if not group.complete or len(found) < len(group.records) or not found:
        parts.append(f"({group.coverage})" if found else group.coverage)
    if remarks := group.remarks():
        parts.append(f"[{', '.join(remarks)}]")
    extra = {
        "sd": round(stats.population_sd(found), 6) if found else None,
        "n": len(group.records),
        "of": len(group.runs),
        "diverged": sum(record["status"] == "diverged" for record in group.records),
        "one_class": sum(record["flags"]["one_class"] for record in group.records),
    }
    value = round(stats.mean(found), 6) if found else None
    return Cell(" ".join(parts), value, extra, commands(group.runs))


def params_cell(value: float) -> Cell:
    """A number of parameters: ``1.33M``, ``0.91M``, ``47.1k``."""
    if math.isnan(value):
        return Cell(EMPTY)
    if value >= 1e5:
        return Cell(f"{value / 1e6:.2f}M", round(value))
    return Cell(f"{value / 1e3:.1f}k" if value >= 1e3 else f"{value:.0f}", round(value))
