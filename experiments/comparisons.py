"""Is a method better than a baseline, on these seeds and items, and could the comparison have told?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from experiments.artefacts import EMPTY, Cell, Table, number, text
from experiments.captions import caption
from experiments.columns import Column, columns
from experiments.groups import Group, score
from experiments.items import ItemScores, paired, seeds_of
from experiments.lines import Line, every_group, interval_cell, tasks
from experiments.study import Run, Study
from sora import bootstrap, stats
from sora.stats import Floats

BASELINES = ("lora", "full")
ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """A row minus its baseline on one column, in points; ``column`` None = the average over the study's tasks."""

    column: Column | None
    method: str
    found: bootstrap.Difference
    over_seeds: stats.Interval | None
    improvement: float
    draws: Floats
    by_seed: tuple[Floats, ...]  # [S] differences of each task, or of what stands for all of them
    p_holm: float = math.nan

    @property
    def verdict(self) -> str:
        """In words: a difference has to show against the items, by p, and over the seeds, by the t interval.

        p is corrected after Holm.
        """
        if self.p_holm >= ALPHA or self.over_seeds is None or self.over_seeds.low <= 0 <= self.over_seeds.high:
            return "not resolved"
        return "better" if self.found.mean > 0 else "worse"


def against_baselines(rows: Sequence[Line]) -> list[tuple[Line, list[Line]]]:
    """LoRA with all other rows, fine-tuning with all other rows: the families of :func:`comparison_table`."""
    baselines = [row for method in BASELINES for row in rows if row.method == method]
    return [(baseline, [row for row in rows if row is not baseline]) for baseline in baselines]


def comparison_table(
    study: Study, families: Sequence[tuple[Line, Sequence[Line]]], items: dict[Column, ItemScores]
) -> Table | None:
    """Rows against a baseline, on the first column of each task; None where nothing can be compared.

    ``families``: a baseline and its rows; Holm's correction is over one family.
    """
    cells: list[list[Cell]] = []
    counts = []
    for baseline, rows in families:
        found = [comparison for row in rows for comparison in _compared(study, row, baseline, items)]
        for each in _corrected(found):
            cells.append([text(baseline.name), *_cells(each)])
            counts.append(each.found.seeds[0])
    if not cells:
        return None
    seeds = max(counts)
    return Table(
        name="comparisons",
        title="Comparisons",
        caption=caption(
            study,
            "Method minus baseline in points, over the seeds both have and the same test items, on the first metric of "
            "each task. p: two-sided, from a bootstrap over seeds and items; Holm: corrected for all tasks and methods "
            "against one baseline, the averages over tasks for one another. Improvement: probability that a run of the "
            "method beats one of the baseline. Smallest gap: what would be found in 80 % of cases by p and by the t "
            "interval, each alone and uncorrected, the larger of the two. Verdict: better or worse where p (Holm) is "
            f"below {ALPHA:g} and the t interval leaves out 0 as well.",
            groups=every_group([row for baseline, rows in families for row in (baseline, *rows)]),
        ),
        columns=[
            "baseline",
            "method",
            "metric",
            "seeds",
            "difference",
            "bootstrap interval",
            "t interval",
            "p",
            "p (Holm)",
            "improvement",
            "smallest gap",
            "verdict",
        ],
        rows=cells,
        notes=[
            f"At most {seeds} seeds are compared here. An exact test on {seeds} paired seeds alone could not give a p "
            f"below {stats.smallest_sign_p(seeds):.4g}; where seeds vary more than items, the bootstrap's p is too "
            "small (docs/statistics.md), so the t interval has a say in the verdict.",
            "Not resolved does not mean equal: a difference near or below the smallest gap was hardly within reach.",
            *_left_out(study, items),
        ],
    )


def _left_out(study: Study, items: dict[Column, ItemScores]) -> list[str]:
    without = [column.label for task in tasks(study) if (column := columns(study, task)[0]) not in items]
    if not without:
        return []
    return [
        f"Left out, and with it the average: {', '.join(without)}, whose metric has no bootstrap over items, or whose "
        "runs have no logits beside their records. The details of each cell have its t intervals."
    ]


def _compared(study: Study, row: Line, against: Line, items: dict[Column, ItemScores]) -> list[Comparison]:
    pairs = [
        (index, column, a, b)
        for index, task in enumerate(tasks(study))
        if (column := columns(study, task)[0]) in items
        and (a := row.groups.get(task)) is not None
        and (b := against.groups.get(task)) is not None
    ]
    seeds = [[seeds_of(run) for run in paired(a, b)[0]] for _, _, a, b in pairs]
    # One seed gives adapters the same start on every task: over tasks that share seeds an average is one over those.
    apart = len(set().union(*seeds)) == sum(map(len, seeds))
    common = [each for each in seeds[0] if all(each in other for other in seeds)] if seeds else []
    found = [
        one
        for index, column, a, b in pairs
        if (one := compare(row.name, column, a, b, items[column], stream=index if apart else 0)) is not None
    ]
    if len(found) < len(tasks(study)) or len(found) < 2:
        return found
    if apart:
        return [*found, _average(row.name, found, together=False)]
    shared = (
        [compare(row.name, column, a, b, items[column], only=common) for _, column, a, b in pairs] if common else []
    )
    whole = [each for each in shared if each is not None]
    return [*found, _average(row.name, whole, together=True)] if len(whole) == len(found) else found


def compare(
    method: str,
    column: Column,
    a: Group,
    b: Group,
    items: ItemScores,
    *,
    stream: int = 0,
    only: Sequence[tuple[object, ...]] | None = None,
) -> Comparison | None:
    """``a`` minus ``b`` over the seeds both have; None where one of those runs has no score or no items.

    ``stream``: comparisons of one stream and as many seeds draw them together. ``only``: these seeds alone, in this
    order.
    """
    first, second = paired(a, b)
    if only is not None:
        place = {seeds_of(run): index for index, run in enumerate(first)}
        first, second = ([runs[place[each]] for each in only] for runs in (first, second))
    resampled, other = items.of(first), items.of(second)
    if resampled is None or other is None:
        return None
    x, y = _scores(first, column), _scores(second, column)
    if np.isnan(x).any() or np.isnan(y).any():
        return None
    draws = bootstrap.mean_over_seeds(resampled - other, stream=stream)
    summary = bootstrap.summary(float(x.mean() - y.mean()), draws, (len(x), len(y)))
    improvement = stats.probability_of_improvement(x, y)
    return Comparison(column, method, summary, stats.t_interval(x - y), improvement, draws, (x - y,))


def _average(method: str, found: Sequence[Comparison], together: bool) -> Comparison:
    """Over the tasks; ``together``: they share their seeds, so that what varies is each seed's own average."""
    least = min(len(each.draws) for each in found)
    draws = np.mean([each.draws[:least] for each in found], axis=0)
    mean = stats.mean([each.found.mean for each in found])
    seeds = min(each.found.seeds[0] for each in found)
    improvement = stats.mean([each.improvement for each in found])
    gaps = tuple(gap for each in found for gap in each.by_seed)
    if together:
        gaps = (np.mean(gaps, axis=0),)
    summary = bootstrap.summary(mean, draws, (seeds, seeds))
    return Comparison(None, method, summary, stats.t_interval_of_average(gaps), improvement, draws, gaps)


def _scores(runs: Sequence[Run], column: Column) -> Floats:
    values = [score(run.record, column) for run in runs if run.record is not None]
    return np.array([math.nan if value is None else value for value in values])


def _corrected(found: Sequence[Comparison]) -> list[Comparison]:
    adjusted: dict[int, float] = {}
    for averages in (False, True):
        family = [each for each in found if (each.column is None) == averages]
        adjusted |= dict(zip(map(id, family), stats.holm([each.found.p for each in family]), strict=True))
    return [replace(each, p_holm=adjusted[id(each)]) for each in found]


def _cells(each: Comparison) -> list[Cell]:
    over_seeds = stats.seeds_gap(each.by_seed)
    gap = max(stats.detectable_gap(each.found.standard_error), 0.0 if math.isnan(over_seeds) else over_seeds)
    return [
        text(each.method),
        text("average" if each.column is None else each.column.label),
        Cell(str(each.found.seeds[0]), each.found.seeds[0]),
        number(each.found.mean, sign=True),
        interval_cell(each.found.interval, sign=True),
        interval_cell(each.over_seeds, sign=True),
        number(each.found.p, 4),
        number(each.p_holm, 4),
        number(each.improvement),
        number(gap) if gap > 0 else Cell(EMPTY),
        text(each.verdict),
    ]
