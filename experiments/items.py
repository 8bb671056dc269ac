"""Scores of a study's runs on resampled test items, from the logits beside their records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.columns import Column
from experiments.groups import Group
from experiments.study import SEED_AXES, Run, Study, configured
from sora import bootstrap
from sora.records import Arrays
from sora.stats import Floats, Interval


@dataclass(frozen=True)
class Constant:
    """Points of one class given to every item, the class that scores best on the items as they are."""

    score: float
    resampled: Floats  # [B]


@dataclass(frozen=True)
class ItemScores:
    """One column's scores in points, [B, R], of R runs on the same B resamples of its items."""

    scores: Floats
    place: dict[str, int]  # run id -> column of ``scores``
    constant: Constant | None = None  # None for a regression

    def of(self, runs: Sequence[Run]) -> Floats | None:
        """[B, len(runs)], or None where a run's items are not known."""
        places = [self.place.get(run.run_id) for run in runs]
        if not runs or any(place is None for place in places):
            return None
        return self.scores.T[[place for place in places if place is not None]].T  # rows are fast to copy

    def interval(self, group: Group) -> Interval | None:
        """95 % over seeds and items for the mean of a group, or None."""
        scores = self.of(group.done)
        return None if scores is None else bootstrap.percentile(bootstrap.mean_over_seeds(scores))

    def above_constant(self, group: Group) -> Interval | None:
        """95 % over seeds and items for the mean of a group minus the constant answer on the same items, or None."""
        scores = self.of(group.done)
        if scores is None or self.constant is None:
            return None
        return bootstrap.percentile(bootstrap.mean_over_seeds(scores) - self.constant.resampled)


def item_scores(study: Study, columns: Sequence[Column], runs: Sequence[Run]) -> dict[Column, ItemScores]:
    """For each column of one task: its runs on resampled items.

    A column is left out where its metric is no function of sums over independent items, or no run has its items. Runs
    whose items differ from those of most runs are left out of it, with a problem noted.
    """
    loaded = [(run, arrays) for run in runs if (arrays := study.arrays(run)) is not None]
    result = {}
    for column in columns:
        if column.metric not in bootstrap.METRICS:
            continue
        usable = [(run, arrays) for run, arrays in loaded if f"{column.split}_logits" in arrays]
        if any(f"{column.split}_groups" in arrays for _, arrays in usable):
            continue  # several items of one question are not independent
        usable = _same_items(study, column, usable)
        if usable:
            result[column] = _resampled(column, usable)
    return result


def seeds_of(run: Run) -> tuple[object, ...]:
    """What two runs must share to be paired."""
    assert run.record is not None
    return tuple(configured(run.record, axis) for axis in SEED_AXES)


def paired(a: Group, b: Group) -> tuple[list[Run], list[Run]]:
    """The finished runs of two groups that share their seeds, in one order; repeated seeds count once."""
    first = {seeds_of(run): run for run in a.done}
    second = {seeds_of(run): run for run in b.done}
    common = [seeds for seeds in first if seeds in second]
    return [first[seeds] for seeds in common], [second[seeds] for seeds in common]


def _same_items(study: Study, column: Column, usable: list[tuple[Run, Arrays]]) -> list[tuple[Run, Arrays]]:
    ids = [arrays[f"{column.split}_ids"].tobytes() for _, arrays in usable]
    common = max(ids, key=ids.count) if ids else b""
    for (run, _), each in zip(usable, ids, strict=True):
        if each != common:
            study.problems.append(f"{run.path}: its {column.split} items are not those of the study's other runs")
    return [pair for pair, each in zip(usable, ids, strict=True) if each == common]


def _resampled(column: Column, usable: list[tuple[Run, Arrays]]) -> ItemScores:
    table = []
    for _, arrays in usable:
        logits, labels = arrays[f"{column.split}_logits"], arrays[f"{column.split}_labels"]
        table.append(bootstrap.features(column.metric, _predicted(logits), labels, logits.shape[1]))
    place = {run.run_id: index for index, (run, _) in enumerate(usable)}
    items, classes = len(table[0]), logits.shape[1]
    points = []
    if classes > 1:
        constant = [bootstrap.features(column.metric, np.full(items, each), labels, classes) for each in range(classes)]
        points = [100 * float(bootstrap.combine(column.metric, each.sum(0), items)) for each in constant]
        table.append(constant[int(np.argmax(points))])
    scores = 100 * bootstrap.resample(table, column.metric, bootstrap.resamples_for(items))
    if not points:
        return ItemScores(scores, place)
    return ItemScores(scores[:, :-1], place, Constant(max(points), scores[:, -1]))


def _predicted(logits: NDArray[np.floating]) -> NDArray[np.generic]:
    """As ``sora.tasks.metrics.predict``: the lowest of the largest classes, or the one output of a regression."""
    if logits.shape[1] == 1:
        return logits[:, 0].astype(np.float64)
    return np.asarray(np.argmax(np.where(np.isfinite(logits), logits, -np.inf), axis=1))
