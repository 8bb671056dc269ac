"""Is a method better than a baseline, on these seeds and items, and could the comparison have shown it?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from experiments import bootstrap, stats
from experiments.draws import Draws
from experiments.scores import by_seed, long, paired
from experiments.stats import Floats, Interval
from experiments.study import Study
from experiments.tables import SIGNED, Table

ALPHA = 0.05
AVERAGE = "average"
Side = Mapping[str, pd.DataFrame]  # label of a number -> the runs of one setting by their seeds, with run_id and points


@dataclass(frozen=True)
class Comparison:
    """A setting minus its baseline on one number, in points; ``label``: of the number, or ``average`` of the tasks."""

    label: str
    mean: float
    by_seed: tuple[Floats, ...]  # [S] differences of each task, or of what stands for all of them
    over_seeds: Interval
    over_items: bootstrap.Difference  # and seeds; of NaN where a run has no score or no items
    improvement: float
    draws: Floats | None

    @property
    def seeds(self) -> int:
        """How many both have, on the task with fewest."""
        return min(map(len, self.by_seed))


def sides(study: Study, runs: pd.DataFrame, key: str) -> dict[object, Side]:
    """The runs of each value of ``key``, on the first number of each task."""
    rows = long(study, runs, first=True)
    return {
        value: {str(label): by_seed(part) for label, part in each.groupby("label", sort=False)}
        for value, each in rows.groupby(key, sort=False)
    }


def compare(
    label: str,
    a: pd.DataFrame,
    b: pd.DataFrame,
    drawn: Draws | None,
    *,
    stream: int = 0,
    only: Sequence[object] | None = None,
) -> Comparison | None:
    """``a`` minus ``b`` over the seeds both have; None where they have none in common.

    ``stream``: comparisons of one stream and as many seeds draw them together. ``only``: these seeds alone, in this
    order.
    """
    pairs = paired(a, b, ["run_id", "points"])
    if pairs.empty:
        return None
    pairs = pairs if only is None else pairs.loc[list(only)]
    x, y = pairs["points"].to_numpy(float), pairs["points_b"].to_numpy(float)
    mean, draws = float(x.mean() - y.mean()), None
    if drawn is not None and not np.isnan(x - y).any():
        draws = drawn.difference(list(pairs["run_id"]), list(pairs["run_id_b"]), stream)
    over_items = bootstrap.NOTHING if draws is None else bootstrap.summary(mean, draws)
    improvement = stats.probability_of_improvement(x, y)
    return Comparison(label, mean, (x - y,), stats.t_interval(x - y), over_items, improvement, draws)


def compared(study: Study, a: Side, b: Side, drawn: Mapping[str, Draws]) -> list[Comparison]:
    """Each task's first number, and where all tasks have one the average over them."""
    labels = study.first_labels
    pairs = {label: (a[label], b[label]) for label in labels if label in drawn and label in a and label in b}
    seeds = [list(x.index.intersection(y.index, sort=False)) for x, y in pairs.values()]
    # One seed gives adapters the same start on every task: over tasks that share seeds an average is one over those.
    apart = len(set().union(*seeds)) == sum(map(len, seeds))
    found = [
        each
        for label, pair in pairs.items()
        if (each := compare(label, *pair, drawn[label], stream=labels.index(label) if apart else 0))
        and each.draws is not None
    ]
    if len(found) < len(labels) or len(found) < 2:
        return found
    if apart:
        return [*found, _average(found, together=False)]
    common = [each for each in seeds[0] if all(each in other for other in seeds)]
    shared = [compare(label, *pair, drawn[label], only=common) for label, pair in pairs.items()] if common else []
    whole = [each for each in shared if each is not None and each.draws is not None]
    return [*found, _average(whole, together=True)] if len(whole) == len(found) else found


def _average(found: Sequence[Comparison], together: bool) -> Comparison:
    """Over the tasks; ``together``: they share their seeds, so that what varies is each seed's own average."""
    drawn = [each.draws for each in found if each.draws is not None]
    draws = np.mean([each[: min(map(len, drawn))] for each in drawn], axis=0)
    mean, improvement = (
        float(np.mean(values)) for values in zip(*((e.mean, e.improvement) for e in found), strict=True)
    )
    gaps = tuple(gap for each in found for gap in each.by_seed)
    if together:
        gaps = (np.mean(gaps, axis=0),)
    over_items = bootstrap.summary(mean, draws)
    return Comparison(AVERAGE, mean, gaps, stats.t_interval_of_average(gaps), over_items, improvement, draws)


def comparison_table(
    study: Study, families: Sequence[tuple[str, Side, Mapping[str, Side]]], drawn: Mapping[str, Draws]
) -> Table | None:
    """Settings against a baseline, on the first number of each task; None where nothing can be compared.

    ``families``: the baseline's name, its runs, and the settings by name. Holm's correction is over the tasks of one
    family, and over its averages.
    """
    rows = [
        {"baseline": baseline, "method": name} | _row(each)
        for baseline, b, others in families
        for name, a in others.items()
        for each in compared(study, a, b, drawn)
    ]
    if not rows:
        return None
    data = pd.DataFrame(rows)
    data["p (Holm)"] = data.groupby(["baseline", data["metric"] == AVERAGE])["p"].transform(stats.holm)
    judged_by = data[["difference", "p (Holm)", "t interval", "t interval high"]]
    data["verdict"] = [verdict(*each) for each in judged_by.itertuples(index=False)]
    data = data[[*COLUMNS]]
    seeds = int(data["seeds"].max())
    notes = [
        f"At most {seeds} seeds are compared here. An exact test on {seeds} paired seeds alone could not give a p "
        f"below {stats.smallest_sign_p(seeds):.4g}; where seeds vary more than items, the bootstrap's p is too small "
        "(docs/statistics.md), so the t interval has a say in the verdict.",
        "Not resolved does not mean equal: a difference near or below the smallest gap was hardly within reach.",
        *_left_out(study, drawn),
    ]
    return Table("comparisons", "Comparisons", CAPTION, data, FORMATS, notes)


COLUMNS = (
    *("baseline", "method", "metric", "seeds", "difference", "bootstrap interval", "bootstrap interval high"),
    *("t interval", "t interval high", "p", "p (Holm)", "improvement", "smallest gap", "verdict"),
)
FORMATS = dict.fromkeys(("difference", "bootstrap interval", "t interval"), SIGNED) | dict.fromkeys(
    ("p", "p (Holm)"), "{:.4f}"
)
CAPTION = (
    "Method minus baseline in points, over the seeds both have and the same test items, on the first metric of each "
    "task. p: two-sided, from a bootstrap over seeds and items; Holm: corrected for all tasks and methods against "
    "one baseline, the averages over tasks for one another. Improvement: probability that a run of the method beats "
    "one of the baseline. Smallest gap: the difference that p alone and the t interval alone would each find in 80 % "
    f"of cases. Verdict: better or worse where p (Holm) is below {ALPHA:g} and the t interval leaves out 0 as well."
)


def smallest_gap(each: Comparison) -> float:
    """The difference that items and seeds alone would each show in 80 % of cases; NaN where one of them cannot."""
    gap = float(np.max([stats.detectable_gap(each.over_items.standard_error), stats.seeds_gap(each.by_seed)]))
    return gap if gap > 0 else math.nan


def _row(each: Comparison) -> dict[str, object]:
    return {
        "metric": each.label,
        "seeds": each.seeds,
        "difference": each.mean,
        "bootstrap interval": each.over_items.interval.low,
        "bootstrap interval high": each.over_items.interval.high,
        "t interval": each.over_seeds.low,
        "t interval high": each.over_seeds.high,
        "p": each.over_items.p,
        "improvement": each.improvement,
        "smallest gap": smallest_gap(each),
    }


def verdict(difference: float, p: float, low: float, high: float) -> str:
    """``better`` or ``worse`` where it shows against the items, by p (Holm), and over the seeds, by the t interval."""
    if p >= ALPHA or math.isnan(low) or low <= 0 <= high:
        return "not resolved"
    return "better" if difference > 0 else "worse"


def _left_out(study: Study, drawn: Mapping[str, Draws]) -> list[str]:
    without = [label for task in study.tasks if (label := study.columns(task)[0].label) not in drawn]
    if not without:
        return []
    return [
        f"Left out, and with it the average: {', '.join(without)}, whose metric has no bootstrap over items, or whose "
        "runs have no logits with their records. The details of each cell have its t intervals."
    ]
