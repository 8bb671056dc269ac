"""Runs with a sparsity schedule: memorization and generalization in percent of the dense model, level by level.

As the paper defines them (Section 4.3): the task's metric on the fixed subset of the training examples (memorization)
and on validation examples (generalization), each divided by its value at level 0, times 100. Of the validation examples
those of the report split are taken: they chose no checkpoint. The authors' code takes the half that did; under the
protocol holdout that would be a part of the training file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from experiments.study import SEEDS, Study
from sora.runs.dataframe import points

SHARES = {"memorization": "train_subset", "generalization": "report"}  # -> split
THIRDS = ("lower", "middle", "upper")
VARIANTS = {  # name -> what it is, in words
    "scheduler": "learning rate warmed up and decayed anew in every level (the paper's Algorithm 1 as read here)",
    "scheduler, constant rate": "the peak learning rate in every level",
    "scheduler, no rate": "learning rate 0 in every level, as the released code runs: gates only shrink",
    "one-shot": "the gates of smallest magnitude zeroed at once, nothing trained again",
}
NAMES = tuple(VARIANTS)
OF_RATE = {"rewarm": NAMES[0], "constant": NAMES[1], "authors_zero": NAMES[2]}
OF_FILE = {"sparsify": NAMES[0], "sparsify_constant": NAMES[1], "sparsify_authors": NAMES[2], "one_shot": NAMES[3]}
LAYER = re.compile(r"\.layer\.(\d+)\.")
COLUMNS = ["task", "name", "settings", "run_id", "seeds", "level", "threshold", "live", "dense", "metric", "report"]
COLUMNS += [*SHARES, *THIRDS]


def named(study: Study) -> pd.DataFrame:
    """The study's runs with ``variant`` (what their schedule is called here), ``settings`` and ``name``, both in one.

    The variant is that of the record, or, before there is one, of the file that is to be used; settings are the values
    on the other axes that vary, such as ``method.r 4``.
    """
    runs = study.runs
    planned = runs.get("schedule", pd.Series(None, runs.index, dtype=object))
    known = runs["schedule.lr"].map(OF_RATE.get).fillna(runs["schedule.kind"]).fillna("none")
    known = known.where(runs["schedule.kind"] != "one_shot", NAMES[3])
    variant = known.where(runs["done"], planned.map(lambda file: OF_FILE.get(file, str(file))))
    axes = study.varied("task", "method", "schedule", "schedule.lr")
    parts = [runs[axis].map(lambda value, axis=axis: f"{axis} {value}") for axis in axes]
    settings = pd.Series([", ".join(row) for row in zip(*parts, strict=True)] if parts else "", runs.index)
    name = variant + settings.map(lambda words: f", {words}" if words else "")
    return runs.assign(variant=variant, settings=settings, name=name)


def levels(study: Study) -> pd.DataFrame:
    """One row for each level of each run.

    Columns: task, name and settings of :func:`named`, run_id, seeds, level, threshold, live, dense (live parameters at
    level 0), metric, memorization, generalization (percent; NaN where the dense value is not above 0), report (points),
    and lower, middle, upper: live share in percent of the ranks in these thirds of the layers.
    """
    rows, runs = [], named(study)
    for _, run in runs[runs["done"]].iterrows():
        record = study.records[run["run_id"]]
        entries, metric = record["level_results"], record["config"]["task"]["select_metric"]
        if not entries and record["status"] == "ok":
            study.problems.append(f"run {run['run_id']} has no levels; {study.name} is about runs with a schedule")
        about = {key: run[key] for key in ("task", "name", "settings", "run_id")} | {"seeds": tuple(run[SEEDS])}
        for entry in entries:
            row = about | {key: entry[key] for key in ("level", "threshold", "live")}
            row |= {"dense": entries[0]["live"], "metric": metric, "report": points(entry["report"].get(metric))}
            for share, split in SHARES.items():
                row[share] = percent(entry[split].get(metric), entries[0][split].get(metric))
            rank = record["config"]["method"].get("r", 0)
            rows.append(row | dict(zip(THIRDS, thirds(entry["ranks"], rank), strict=True)))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"threshold": float})


def percent(value: float | None, dense: float | None) -> float:
    """``value`` in percent of ``dense``; NaN where one is missing or ``dense`` is not above 0."""
    return math.nan if value is None or dense is None or dense <= 0 else 100.0 * value / dense


def thirds(ranks: Mapping[str, int], rank: int) -> tuple[float, float, float]:
    """Live share in percent of the ranks in the lower, middle and upper third of the layers, of ``rank`` a matrix.

    Of L layers the lower third is those below L / 3, the upper one those from 2 L / 3 on.
    """
    layers = [(int(found[1]), live) for name, live in ranks.items() if (found := LAYER.search(f".{name}"))]
    order = sorted({layer for layer, _ in layers})
    parts: list[list[int]] = [[], [], []]
    for layer, live in layers:
        parts[min(2, 3 * order.index(layer) // len(order))].append(live)
    low, middle, high = (100 * sum(part) / (len(part) * rank) if part and rank else math.nan for part in parts)
    return low, middle, high


def by_level(part: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds at each level; NaN where a seed has no value."""
    return part.groupby("level")[["live", "dense", *SHARES, "report", *THIRDS]].agg(lambda x: x.mean(skipna=False))


def interpolated(live: Iterable[float], values: Iterable[float], wanted: float) -> float:
    """The value at ``wanted`` live parameters, linear in log(1 + live) between levels; NaN where fewer than any live.

    Levels with equal counts count once, at their mean. Beyond the largest count its value holds.
    """
    by_live = pd.Series(np.asarray(values, dtype=float)).groupby(np.log1p(np.asarray(live, dtype=float)))
    means = by_live.agg(lambda x: x.mean(skipna=False))
    return float(np.interp(math.log1p(wanted), means.index, means, left=math.nan)) if len(means) else math.nan


def at_share(found: pd.DataFrame, percent: float) -> pd.Series:
    """Each seed's generalization where ``percent`` of its dense model's parameters live; NaN beyond its levels."""
    values = {
        seeds: interpolated(part["live"], part["generalization"], percent / 100 * part["dense"].iloc[0])
        for seeds, part in found.groupby("seeds", sort=False)
    }
    return pd.Series(values, dtype=float)
