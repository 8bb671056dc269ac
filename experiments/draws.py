"""Scores of a study's runs on resampled test items, from the logits next to their records."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments import bootstrap
from experiments.labels import Column
from experiments.stats import NONE, Floats, Interval
from experiments.study import Study
from sora.runs.records import Arrays


@dataclass(frozen=True)
class Draws:
    """One column's scores in points, [B, R], of R runs on the same B resamples of its items.

    ``constant``: points of one class given to every item, the class that scores best on the items as they are, and
    ``constant_draws`` [B] the same on the resamples; NaN for a regression.
    """

    scores: Floats
    place: dict[str, int]  # run id -> column of ``scores``
    constant: float = math.nan
    constant_draws: Floats | None = None

    def of(self, run_ids: Sequence[str]) -> Floats | None:
        """[B, len(run_ids)], or None where a run's items are not known."""
        if not len(run_ids) or any(run_id not in self.place for run_id in run_ids):
            return None
        return self.scores.T[[self.place[run_id] for run_id in run_ids]].T  # rows are fast to copy

    def difference(self, run_ids: Sequence[str], others: Sequence[str], stream: int = 0) -> Floats | None:
        """[B] mean differences to the others, run by run, over resampled seeds; None where items are not known."""
        first, second = self.of(run_ids), self.of(others)
        return None if first is None or second is None else bootstrap.mean_over_seeds(first - second, stream=stream)

    def interval(self, run_ids: Sequence[str]) -> Interval:
        """95 % over seeds and items for the mean of the runs; NaN where a run's items are not known."""
        scores = self.of(run_ids)
        return NONE if scores is None else bootstrap.percentile(bootstrap.mean_over_seeds(scores))

    def above_constant(self, run_ids: Sequence[str]) -> Interval:
        """95 % over seeds and items for the mean of the runs minus the constant answer on the same items, or NaN."""
        scores = self.of(run_ids)
        if scores is None or self.constant_draws is None:
            return NONE
        return bootstrap.percentile(bootstrap.mean_over_seeds(scores) - self.constant_draws)


def draws(study: Study, runs: pd.DataFrame) -> dict[str, Draws]:
    """Label of a column -> the scores of ``runs`` on its resampled items; computed once for the same runs.

    Left out are metrics that are no sums over items, items that belong together (questions), and runs whose logits
    cannot be used or are of other items than those of most runs, which is noted.
    """
    done = runs[runs["done"]]
    key = "draws", frozenset(done["run_id"])
    if key not in study.memo:
        found: dict[str, Draws] = {}
        for task, part in done.groupby("task", sort=False):
            found |= _of_task(study, study.columns(str(task)), list(dict.fromkeys(part["run_id"])))
        study.memo[key] = found
    return dict(study.memo[key])


def _of_task(study: Study, columns: Sequence[Column], run_ids: Sequence[str]) -> dict[str, Draws]:
    wanted = [column for column in columns if column.metric in bootstrap.METRICS]
    loaded = [(run_id, study.arrays(run_id)) for run_id in run_ids] if wanted else []
    found = {}
    for column in wanted:
        usable = [
            (run_id, arrays)
            for run_id, arrays in loaded
            if arrays is not None and f"{column.split}_logits" in arrays and f"{column.split}_groups" not in arrays
        ]
        if usable := _same_items(study, column, usable):
            found[column.label] = _resampled(column, usable)
    return found


def _same_items(study: Study, column: Column, usable: list[tuple[str, Arrays]]) -> list[tuple[str, Arrays]]:
    ids = [arrays[f"{column.split}_ids"].tobytes() for _, arrays in usable]
    common = max(ids, key=ids.count) if ids else b""
    for (run_id, _), each in zip(usable, ids, strict=True):
        if each != common:
            study.problems.append(f"{study.paths[run_id]}: its {column.split} items are not those of most runs here")
    return [pair for pair, each in zip(usable, ids, strict=True) if each == common]


def _resampled(column: Column, usable: list[tuple[str, Arrays]]) -> Draws:
    table = []
    for _, arrays in usable:
        logits, labels = arrays[f"{column.split}_logits"], arrays[f"{column.split}_labels"]
        table.append(bootstrap.features(column.metric, _predicted(logits), labels, logits.shape[1]))
    place = {run_id: index for index, (run_id, _) in enumerate(usable)}
    items, classes = len(table[0]), logits.shape[1]
    points = []
    if classes > 1:
        constant = [bootstrap.features(column.metric, np.full(items, each), labels, classes) for each in range(classes)]
        points = [100 * float(bootstrap.combine(column.metric, each.sum(0), items)) for each in constant]
        table.append(constant[int(np.argmax(points))])
    # Each task draws items of its own: at the same places of their files, the draws of two tasks would be correlated.
    drawn = zlib.crc32(f"{column.task} {column.split}".encode())
    scores = 100 * bootstrap.resample(table, column.metric, bootstrap.resamples_for(items), drawn)
    if not points:
        return Draws(scores, place)
    return Draws(scores[:, :-1], place, max(points), scores[:, -1])


def _predicted(logits: NDArray[np.floating]) -> NDArray[np.generic]:
    """As ``sora.tasks.metrics.predict``: the lowest of the largest classes, or the one output of a regression."""
    if logits.shape[1] == 1:
        return logits[:, 0].astype(np.float64)
    return np.asarray(np.argmax(np.where(np.isfinite(logits), logits, -np.inf), axis=1))
