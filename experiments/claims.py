"""What the SoRA paper claims, and what the runs at hand say of it: claim by claim, with an interval and a verdict.

A claim is put as one number per seed that lies above 0 where the claim is true of that seed. Its verdict looks at the
95 % interval of the mean alone: above 0 it holds, below 0 it fails, otherwise it cannot be decided at this size. The
interval is Student's over seeds; of scores, the hull of that and the bootstrap over seeds and items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from experiments import published
from experiments.artefacts import EMPTY, Caption, Cell, Table, number, text
from experiments.columns import Column, columns, method_label, task_label
from experiments.comparisons import compare
from experiments.efficiency import slower
from experiments.groups import Group, score
from experiments.items import ItemScores, paired, seeds_of
from experiments.levels import Point, curves, interpolated, varied
from experiments.lines import Line, interval_cell, lines, tasks
from experiments.main_table import resampled
from experiments.study import Run, Study, configured
from sora import bootstrap, stats

HOLDS, FAILS, OPEN = "holds", "fails", "cannot be decided at this size"
GIVEN = "by construction"  # what no run could have said otherwise
TITLE = "What the paper claims, and what these runs say"
WHOLE = {"sst2_10k": "sst2"}  # our task on a slice of a training file -> the paper's on all of it


@dataclass(frozen=True)
class Reading:
    """One claim on one task.

    Attributes:
        paper: the paper's own evidence, in words.
        values: ours, one per seed, in ``unit``.
        towards: +1 where the claim is that they lie above ``bound``, -1 where below it.
        interval: of their mean; None: Student's, over ``values``.
        given: the claim is true of any run with these settings: the number says how much, and decides nothing.

    ``paper`` is of the same task wherever the paper has it; where it is an average over tasks it says so.
    """

    claim: str
    paper: str
    task: str
    values: tuple[float, ...]
    unit: str
    study: str
    towards: int = 1
    bound: float = 0.0
    interval: stats.Interval | None = None
    given: bool = False

    @property
    def range(self) -> stats.Interval | None:
        """The interval that decides; None below two seeds."""
        return self.interval or _student(self.values)

    @property
    def form(self) -> str:
        """How the number is written: a difference with its sign, what is compared with a bound without."""
        return ".2f" if self.bound else "+.2f"

    @property
    def verdict(self) -> str:
        """holds | fails | cannot be decided at this size | by construction."""
        if self.given:
            return GIVEN
        if (found := self.range) is None:
            return OPEN
        low, high = sorted(self.towards * (end - self.bound) for end in (found.low, found.high))
        return HOLDS if low > 0 else FAILS if high < 0 else OPEN


def readings(studies: Sequence[Study]) -> list[Reading]:
    """Every claim that a study here is about, on every task with two seeds or more, in the order of the paper."""
    found: list[Reading] = []
    for name, reader in READERS.items():
        for study in studies:
            if study.name == name:
                found += [each for each in reader(study) if len(each.values) > 1]
    return found


def table(studies: Sequence[Study]) -> Table | None:
    """The claims as a table; None where no study here is about one."""
    found = readings(studies)
    if not found:
        return None
    backbones = dict.fromkeys(str(name) for study in studies for name in study.values("backbone"))
    return Table(
        name="claims",
        title=TITLE,
        caption=Caption(
            "Verdict by the 95 % interval alone: holds where all of it agrees with the claim, fails where all of it "
            f"contradicts it, else {OPEN}; {GIVEN}: SoRA starts with LoRA's ranks and only cuts, so that how many "
            "parameters went is a matter of its threshold. A verdict is about the settings at hand, "
            "not about the best ones: its study's page names threshold, learning rates and lengths. Intervals: "
            "Student's over seeds; of score differences, widened to the bootstrap over seeds and items where that "
            "reaches further. No correction for the number of claims: the comparisons of the main table with LoRA and "
            "fine-tuning are corrected, and may leave undecided what is decided here. "
            f"Backbone {', '.join(backbones)} here, DeBERTaV3-base (Figure 2: RoBERTa-large) in the paper, and other "
            "budgets: a claim that fails here is not refuted there."
        ),
        columns=["claim", "paper", "task", "ours", "95 % interval", "seeds", "verdict", "study"],
        rows=[
            [
                text(each.claim),
                text(each.paper),
                text(each.task),
                Cell(f"{stats.mean(each.values):{each.form}} {each.unit}".rstrip(), stats.mean(each.values)),
                interval_cell(each.range, sign=not each.bound) if each.range else Cell(EMPTY),
                number(len(each.values), 0),
                text(each.verdict),
                text(each.study),
            ]
            for each in found
        ],
    )


def _hull(values: Sequence[float], drawn: stats.Interval | None) -> stats.Interval | None:
    """What Student's interval and that of the bootstrap reach together; None where there is neither."""
    ends = [each for each in (_student(values), drawn) if each]
    return stats.Interval(min(e.low for e in ends), max(e.high for e in ends)) if ends else None


def _student(values: Sequence[float]) -> stats.Interval | None:
    return stats.t_interval(values) if len(values) > 1 else None


# -- Table 1 -----------------------------------------------------------------------------------------------------


def _main_table(study: Study) -> Iterator[Reading]:
    rows = {
        str(method): Line((text(method_label(str(method))),), str(method), None, groups)
        for (method,), groups in lines(study, "method").items()
    }
    if "sora" not in rows:
        return
    items = resampled(study, list(rows.values()))
    for other, average in (("lora", "+0.98 on average (Table 1)"), ("adalora", "+0.53 on average (Table 1)")):
        for task in tasks(study):
            if other not in rows or task not in rows["sora"].groups or task not in rows[other].groups:
                continue
            column = columns(study, task)[0]
            pair = rows["sora"].groups[task], rows[other].groups[task]
            values = _pairwise(*pair, partial(_difference, column))
            found = compare("SoRA", column, *pair, items[column]) if column in items else None
            hull = _hull(values, found.found.interval if found else None)
            label = method_label(other)
            claim = f"SoRA scores higher than {label}"
            yield Reading(
                claim, _gap(other, column) or average, column.label, values, "points", study.key, 1, 0.0, hull
            )
            spared = _pairwise(*pair, _percent_fewer)
            printed = {"lora": "31.5 %", "adalora": "28.3 %"}[other]
            claim = f"SoRA has fewer live parameters than {label}"
            ends = _student(spared)  # of changes, none of which takes away more than all
            ends = stats.Interval(max(-100.0, ends.low), ends.high) if ends else None
            printed = f"{printed} fewer on average (text)"
            given = other == "lora" and all(_only_cut(a, b) for a, b in zip(*paired(*pair), strict=True))
            yield Reading(claim, printed, column.label, spared, "%", study.key, -1, interval=ends, given=given)


def _only_cut(sora: Run, lora: Run) -> bool:
    """Whether SoRA starts with no more ranks than LoRA has in every matrix, so that it cannot end with more parameters.

    Of AdaLoRA nothing like it can be said: as many ranks in smaller matrices are fewer parameters.
    """
    ours, theirs = sora.record, lora.record
    assert ours is not None
    assert theirs is not None
    same = configured(ours, "method.targets") == configured(theirs, "method.targets")
    return bool(same and configured(ours, "method.r") <= configured(theirs, "method.r"))


def _gap(other: str, column: Column) -> str:
    found = _published_gap("1", other, column)
    return "" if found is None else f"{found:+.2f} (Table 1{_on_all(column.task)})"


def _published_gap(table: str, other: str, column: Column, setting: str | None = None) -> float | None:
    """SoRA minus the other in the paper's table on that task, in points, or None."""
    theirs = replace(column, task=WHOLE.get(column.task, column.task))
    sora, baseline = (published.lookup("sora", table, method, theirs, setting) for method in ("sora", other))
    return sora.mean - baseline.mean if sora and baseline else None


def _on_all(task: str) -> str:
    """What is said of a number of the paper that was trained on more rows than ours."""
    return f", {task_label(WHOLE[task])}, all rows" if task in WHOLE else ""


def _percent_fewer(a: Run, b: Run) -> float:
    assert a.record is not None
    assert b.record is not None
    return (
        100.0 * (a.record["params"]["live"] / b.record["params"]["live"] - 1)
        if b.record["params"]["live"]
        else math.nan
    )


def _pairwise(a: Group, b: Group, measure: Callable[[Run, Run], float]) -> tuple[float, ...]:
    """The measure of each seed that both groups have, where it is a number."""
    values = [measure(x, y) for x, y in zip(*paired(a, b), strict=True)]
    return tuple(value for value in values if not math.isnan(value))


def _difference(column: Column, a: Run, b: Run) -> float:
    """The score of ``a`` minus that of ``b`` in points; NaN where one has none."""
    x, y = (None if run.record is None else score(run.record, column) for run in (a, b))
    return math.nan if x is None or y is None else x - y


# -- Table 2 -----------------------------------------------------------------------------------------------------


def _rank_budget(study: Study) -> Iterator[Reading]:
    """The difference at equal r, averaged over r, of the seeds that have every r of both methods."""
    groups = lines(study, "method", "method.r")
    items = _items(study, groups)
    for task in tasks(study):
        column = columns(study, task)[0]
        gaps: dict[tuple[object, ...], list[float]] = {}
        pairs = [
            (by_task[task], groups["lora", r][task])
            for (method, r), by_task in groups.items()
            if method == "sora" and task in by_task and task in groups.get(("lora", r), {})
        ]
        for pair in pairs:
            for a, b in zip(*paired(*pair), strict=True):
                gap = _difference(column, a, b)
                if not math.isnan(gap):
                    gaps.setdefault(seeds_of(a), []).append(gap)
        values = tuple(stats.mean(each) for each in gaps.values() if len(each) == len(pairs))
        drawn = [compare("SoRA", column, *pair, items[column]) for pair in pairs] if column in items else []
        draws = [each.draws for each in drawn if each is not None]
        whole = len(draws) == len(pairs) > 0 and len(values) == len(gaps)
        claim = "SoRA scores higher than LoRA at equal r, averaged over r"
        yield Reading(
            claim,
            _gaps_by_rank(column),
            column.label,
            values,
            "points",
            study.key,
            interval=_hull(values, bootstrap.percentile(np.mean(draws, axis=0)) if whole else None),
        )


def _gaps_by_rank(column: Column) -> str:
    """SoRA minus LoRA at each rank of the paper's Table 2 on that task; averages where it does not have the task."""
    found = [_published_gap("2", "lora", column, f"method.r={r}") for r in (1, 2, 4, 8, 16)]
    if any(gap is None for gap in found):
        return "+0.62, +0.60, +0.97, +0.98, +0.71 on average at r = 1 to 16 (Table 2)"
    gaps = ", ".join(f"{gap:+.2f}" for gap in found)
    return f"{gaps} at r = 1 to 16 (Table 2{_on_all(column.task)})"


def _items(study: Study, groups: Mapping[tuple[object, ...], dict[str, Group]]) -> dict[Column, ItemScores]:
    """Scores on resampled items of all runs in the groups."""
    return resampled(study, [Line((), str(key[0]), None, by_task) for key, by_task in groups.items()])


# -- Table 6 -----------------------------------------------------------------------------------------------------


def _threshold(study: Study) -> Iterator[Reading]:
    groups = lines(study, "method.threshold")
    items = _items(study, groups)
    by_size = [groups[key] for key in sorted(groups, key=lambda key: float(str(key[0])))]
    for task in tasks(study):
        column = columns(study, task)[0]
        seeds: dict[tuple[object, ...], dict[float, Run]] = {}
        for run in study.runs:
            if run.record is not None and study.value(run, "task") == task:
                seeds.setdefault(seeds_of(run), {})[float(study.value(run, "method.threshold"))] = run
        whole = [each for each in seeds.values() if len(each) == len(study.values("method.threshold")) > 1]
        orders = tuple(
            stats.spearman(sorted(each), [_live(each[threshold]) for threshold in sorted(each)]) for each in whole
        )
        ends = _student(orders)  # of correlations, so nothing lies beyond 1
        ends = stats.Interval(max(-1.0, ends.low), min(1.0, ends.high)) if ends else None
        claim = "A larger threshold leaves fewer parameters (rank correlation)"
        yield Reading(
            claim,
            "an author: larger xi, sparser (TsinghuaC3I/SoRA, issue 1)",
            column.label,
            orders,
            "",
            study.key,
            -1,
            interval=ends,
        )
        costs = (_difference(column, each[max(each)], each[min(each)]) for each in whole)
        printed = {"cola": "-6.40 (Table 6)", "stsb": "-1.23 (Table 6)"}.get(
            task, "-6.40 on CoLA, -1.23 on STS-B (Table 6)"
        )
        values = tuple(cost for cost in costs if not math.isnan(cost))
        smallest, largest = by_size[0].get(task), by_size[-1].get(task)
        found = (
            compare("", column, largest, smallest, items[column]) if column in items and largest and smallest else None
        )
        hull = _hull(values, found.found.interval if found else None)
        claim = "The largest threshold costs score against the smallest"
        yield Reading(claim, printed, column.label, values, "points", study.key, -1, interval=hull)


def _live(run: Run) -> float:
    assert run.record is not None
    return float(run.record["params"]["live"])


# -- Table 4 -----------------------------------------------------------------------------------------------------


def _efficiency(study: Study) -> Iterator[Reading]:
    groups = lines(study, "method")
    ours, other = groups.get(("sora",), {}), groups.get(("adalora",), {})
    for task in tasks(study):
        if task in ours and task in other:
            values = _pairwise(ours[task], other[task], slower)
            seconds, name = published.seconds_per_epoch(), WHOLE.get(task, task)
            theirs = [seconds.get((name, method), math.nan) for method in ("sora", "adalora")]
            change = 100 * (theirs[0] / theirs[1] - 1)
            printed = (
                "-29.5 % on average (Table 4)" if math.isnan(change) else f"{change:+.1f} % (Table 4{_on_all(task)})"
            )
            claim = "An epoch of SoRA takes less time than one of AdaLoRA"
            yield Reading(claim, printed, columns(study, task)[0].label, values, "%", study.key, -1)


# -- Figure 2 ----------------------------------------------------------------------------------------------------


def _scheduler(study: Study) -> Iterator[Reading]:
    for curve in curves(study, lambda run: varied(study, run, "task", "method")):
        task = columns(study, curve.task)[0].label + (f", {curve.name}" if curve.name else "")
        for point in published.scheduler().get(WHOLE.get(curve.task, curve.task), ()):
            if point.source != "text":  # what is read off the figure alone is no claim
                continue
            percent, share = float(point.percent.removeprefix(">")), 100 * point.live / point.dense
            kept = [_generalization(points, share) for points in curve.seeds.values()]
            values = tuple(value for value in kept if not math.isnan(value))
            claim = (
                f"About {share:.2g} % of the dense model's parameters keep more than {percent:.0f} % of its "
                "generalization"
            )
            printed = (
                f"{point.percent} % at {point.live:,} parameters (text) of about {point.dense:,} (read off Figure 2"
                f"{_on_all(curve.task)})"
            )
            yield Reading(claim, printed, task, values, "%", study.key, 1, percent)
        deeper = [_upper_minus_lower(points) for points in curve.seeds.values()]
        values = tuple(value for value in deeper if not math.isnan(value))
        claim = "Shallow layers lose their ranks first (live share, upper minus lower third, at half of the parameters)"
        yield Reading(claim, "said in the text on Figure 2", task, values, "percentage points", study.key)


def _generalization(points: Sequence[Point], share: float) -> float:
    """Percent of the dense model's generalization at ``share`` percent of its live parameters."""
    known = [point for point in points if not math.isnan(point.percent["generalization"])]
    if not known:
        return math.nan
    live = [float(point.live) for point in known]
    return interpolated(live, [point.percent["generalization"] for point in known], share / 100 * points[0].live)


def _upper_minus_lower(points: Sequence[Point]) -> float:
    """In percent of all ranks of a third, at the level that is nearest to half of the dense model's parameters."""
    later = [point for point in points if point.level > 0 and point.live > 0]
    if not later:
        return math.nan
    nearest = min(later, key=lambda point: abs(point.live - points[0].live / 2))
    return 100 * (nearest.thirds[2] - nearest.thirds[0])


READERS: Mapping[str, Callable[[Study], Iterator[Reading]]] = {
    "main_table": _main_table,
    "rank_budget": _rank_budget,
    "efficiency": _efficiency,
    "threshold": _threshold,
    "scheduler": _scheduler,
}
