"""What the SoRA paper claims, and what the runs at hand say of it: claim by claim, with an interval and a verdict.

A claim is put as one number per seed that lies above 0 where the claim is true of that seed. Its verdict looks at the
95 % interval of the mean alone: above 0 it holds, below 0 it fails, otherwise it cannot be decided at this size. The
interval is Student's over seeds; of scores, the hull of that and the bootstrap over seeds and items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from experiments import bootstrap, primary, published
from experiments.arms import ARMS
from experiments.comparisons import compare
from experiments.draws import Draws, draws
from experiments.efficiency import slower, timed
from experiments.labels import METHODS, TASKS, Column
from experiments.levels import curves, interpolated, levels, varied
from experiments.scores import by_seed, chosen, long, paired
from experiments.stats import NONE, Interval, spearman, t_interval
from experiments.study import SEEDS, Study
from experiments.tables import Table

HOLDS, FAILS, OPEN = "holds", "fails", "cannot be decided at this size"
GIVEN = "by construction"  # what no run could have said otherwise
TITLE = "What the paper claims, and what these runs say"
WHOLE = {"sst2_10k": "sst2"}  # our task on a slice of a training file -> the paper's on all of it


@dataclass(frozen=True)
class Claim:
    """One claim on one task.

    Attributes:
        paper: the paper's own evidence, in words; of the same task wherever the paper has it.
        values: ours, one per seed, in ``unit``.
        towards: +1 where the claim is that they lie above ``bound``, -1 where below it.
        interval: of their mean.
        given: the claim is true of any run with these settings: the number says how much, and decides nothing.
        margin: what may be lost, where the claim is that no more is.
        holm: p, corrected over the tasks of the comparison, of those that were fixed beforehand.
        dependence: the data-dependence of the ranks it is about.
    """

    claim: str
    paper: str
    task: str
    values: Sequence[float]
    unit: str
    study: str
    towards: int = 1
    bound: float = 0.0
    interval: Interval = NONE
    given: bool = False
    margin: float = math.nan
    holm: float = math.nan
    dependence: float = math.nan
    primary: bool = False
    unfinished: bool = False

    @property
    def verdict(self) -> str:
        """holds | fails | cannot be decided at this size | by construction | is unfinished."""
        if self.given or self.unfinished:
            return GIVEN if self.given else primary.UNFINISHED
        low, high = sorted(self.towards * (end - self.bound) for end in self.interval)
        return HOLDS if low > 0 else FAILS if high < 0 else OPEN


def claims(studies: Sequence[Study]) -> list[Claim]:
    """Every claim that a study here is about, on every task with two seeds or more, in the order of the paper."""
    return [
        replace(each, dependence=_dependence(study, each.task)) if math.isnan(each.dependence) else each
        for name, reader in READERS.items()
        for study in studies
        if study.name == name and len(study.done)
        for each in reader(study)
        if len(each.values) > 1
    ]


def _dependence(study: Study, label: str) -> float:
    """Of SoRA's ranks in the study, on the task of that label."""
    done = study.done[study.done["method"] == "sora"]
    tasks = [task for task in study.tasks if label.startswith(study.columns(task)[0].label)]
    return float(done.loc[done["task"].isin(tasks), "data_dependence"].mean())


def table(studies: Sequence[Study]) -> Table | None:
    """The claims as a table; None where no study here is about one."""
    found = claims(studies)
    if not found:
        return None
    rows = [
        {
            "claim": c.claim,
            "paper": c.paper,
            "task": c.task,
            "ours": float(np.mean(c.values)),
            "95 % interval": c.interval.low,
            "95 % interval high": c.interval.high,
            "margin": c.margin,
            "seeds": len(c.values),
            "p (Holm)": c.holm,
            "data dependence": c.dependence,
            "verdict": c.verdict,
            "fixed beforehand": "yes" if c.primary else "no",
            "study": c.study,
        }
        for c in found
    ]
    # A difference is written with its sign, what is compared with a bound without.
    forms = ["{:.2f}" if each.bound and not each.primary else "{:+.2f}" for each in found]
    ours = [f"{form.format(np.mean(c.values))} {c.unit}".rstrip() for form, c in zip(forms, found, strict=True)]
    ends = [f"{form} to {form}".format(*each.interval) for form, each in zip(forms, found, strict=True)]
    words = {"ours": pd.Series(ours), "95 % interval": pd.Series(ends)}
    backbones = ", ".join(dict.fromkeys(str(name) for study in studies for name in study.values("backbone")))
    caption = (
        "Verdict by the 95 % interval alone: holds where all of it agrees with the claim, fails where all of it "
        f"contradicts it, else {OPEN}; {GIVEN}: SoRA starts with LoRA's ranks and only cuts. A verdict is about the "
        "settings at hand, not about the best ones: its study's page names them. Intervals: Student's over seeds; of "
        "score differences, widened to the bootstrap over seeds and items where that reaches further. Fixed "
        "beforehand: the comparisons of docs/study.md with their margins, p corrected after Holm over the tasks; "
        f"nothing corrects the others for their number. Backbone {backbones} here, DeBERTaV3-base (Figure 2: "
        "RoBERTa-large) in the paper, and other budgets: a claim that fails here is not refuted there."
    )
    return Table("claims", TITLE, caption, pd.DataFrame(rows), {"p (Holm)": "{:.4f}"}, words=words)


def _hull(values: Sequence[float], drawn: Interval) -> Interval:
    """What Student's interval and that of the bootstrap reach together."""
    ends = pd.DataFrame([t_interval(values), drawn])
    return Interval(float(ends["low"].min()), float(ends["high"].max()))


def _within(values: Sequence[float], low: float, high: float) -> Interval:
    """Student's interval, cut at what is possible."""
    found = t_interval(values)
    return Interval(max(low, found.low), min(high, found.high))


def _bootstrapped(a: pd.DataFrame, b: pd.DataFrame, drawn: Draws | None) -> Interval:
    """Of the difference of the mean scores of two sides."""
    found = compare("", by_seed(a), by_seed(b), drawn)
    return NONE if found is None else found.over_items.interval


def _first(study: Study, runs: pd.DataFrame) -> Iterator[tuple[Column, pd.DataFrame]]:
    """The first number of each task, with the runs it is of."""
    rows = long(study, runs, first=True)
    for task in study.tasks:
        yield study.columns(task)[0], rows[rows["task"] == task]


def _gaps(a: pd.DataFrame, b: pd.DataFrame, column: str = "points") -> pd.DataFrame:
    """``a`` and ``b`` of each seed that both have with a number."""
    return paired(by_seed(a), by_seed(b), [column]).dropna().set_axis(["a", "b"], axis=1)


# -- Table 1 -----------------------------------------------------------------------------------------------------


PAIRS = {  # column -> SoRA, the other, its method in the paper, SoRA's advantage and parameters fewer on average there
    "method": (("sora", "lora", "lora", "+0.98", "31.5 %"), ("sora", "adalora", "adalora", "+0.53", "28.3 %")),
    "arm": (("sora_best", "lora_r8", "lora", "+0.98", "31.5 %"), (primary.SMALL, "lora_r8", "lora", "", "31.5 %")),
}


def _main_table(study: Study) -> Iterator[Claim]:
    yield from _fixed_beforehand(study)
    key = "arm" if "arm" in study.runs else "method"
    runs = study.runs if key == "arm" else chosen(study, key)
    drawn, names = draws(study, runs), METHODS | ARMS
    for first, second, theirs, average, fewer in PAIRS[key]:
        for column, rows in _first(study, runs):
            a, b = (rows[rows[key] == each] for each in (first, second))
            if a.empty or b.empty:
                continue
            about: dict[str, Any] = {"task": column.label, "study": study.key}
            about["dependence"] = float(a["data_dependence"].mean())
            if first != primary.SMALL:  # of which the comparisons fixed beforehand are
                gaps = _gaps(a, b)
                values = tuple(gaps["a"] - gaps["b"])
                hull = _hull(values, _bootstrapped(a, b, drawn.get(column.label)))
                claim = f"{names[first]} scores higher than {names[second]}"
                paper = _in_table_1(column, theirs, average)
                yield Claim(claim, paper, values=values, unit="points", interval=hull, **about)
            live = _gaps(a, b, "params.live")
            values = tuple(100 * (live["a"] / live["b"].where(live["b"] > 0) - 1).dropna())
            ends = _within(values, -100.0, math.inf)  # of changes, none of which takes away more than all
            claim = f"{names[first]} has fewer live parameters than {names[second]}"
            given = theirs == "lora" and _only_cuts(a, b)
            paper = f"{fewer} fewer on average (text)"
            yield Claim(claim, paper, values=values, unit="%", towards=-1, interval=ends, given=given, **about)


def _fixed_beforehand(study: Study) -> Iterator[Claim]:
    """The primary comparisons, of a study made of arms."""
    for test in primary.tests(study).to_dict("records"):
        margin, paper = test["margin"], _in_table_1(study.columns(test["name"])[0], "lora", "+0.98")
        yield Claim(
            f"SoRA-small is {test['comparison']}",
            "not in the paper" if math.isnan(margin) else paper,
            test["task"],
            test["values"],
            "points",
            study.key,
            bound=0.0 if math.isnan(margin) else -margin,
            interval=Interval(test["low"], test["high"]),
            margin=margin,
            holm=test["p (Holm)"],
            dependence=test["data dependence"],
            primary=True,
            unfinished=test["verdict"] == primary.UNFINISHED,
        )


def _only_cuts(sora: pd.DataFrame, lora: pd.DataFrame) -> bool:
    """Whether SoRA starts with no more ranks than LoRA has in every matrix, so that it cannot end with more parameters.

    Of AdaLoRA nothing like it can be said: as many ranks in smaller matrices are fewer parameters.
    """
    pairs = paired(by_seed(sora), by_seed(lora), ["method.r", "method.targets"])
    mine, theirs = (pairs[name].astype(object).fillna("").map(str) for name in ("method.targets", "method.targets_b"))
    return bool((mine == theirs).all() and (pairs["method.r"] <= pairs["method.r_b"]).all())


def _in_table_1(column: Column, other: str, average: str) -> str:
    """SoRA minus the other in the paper, in words: on that task, or where it does not have the task on average."""
    gap = _published_gap("1", other, column)
    return f"{average} on average (Table 1)" if gap is None else f"{gap:+.2f} (Table 1{_on_all(column.task)})"


def _published_gap(table: str, other: str, column: Column, setting: str | None = None) -> float | None:
    """SoRA minus the other in the paper's table on that task, in points, or None."""
    place = WHOLE.get(column.task, column.task), column.metric, column.split
    sora, baseline = (published.lookup("sora", table, method, *place, setting) for method in ("sora", other))
    return None if sora is None or baseline is None else sora["mean"] - baseline["mean"]


def _on_all(task: str) -> str:
    """What is added to a number of the paper that was trained on more rows than ours."""
    return f", {TASKS[WHOLE[task]]}, all rows" if task in WHOLE else ""


# -- Table 2 -----------------------------------------------------------------------------------------------------


def _rank_budget(study: Study) -> Iterator[Claim]:
    """The difference at equal r, averaged over r, of the seeds that have every r of both methods."""
    if "arm" in study.runs:  # LoRA's ranks beside SoRA's thresholds: none are equal
        return
    runs = chosen(study, "method", "method.r")
    drawn = draws(study, runs)
    for column, rows in _first(study, runs):
        sides = [
            (part[part["method"] == "sora"], part[part["method"] == "lora"])
            for _, part in rows.groupby("method.r", sort=False)
        ]
        pairs = [pair for pair in sides if not any(side.empty for side in pair)]
        if not pairs:
            continue
        gaps = pd.concat([_gaps(*pair).eval("a - b") for pair in pairs], axis=1)
        values = tuple(gaps.dropna().mean(axis=1))
        found = [compare("", by_seed(a), by_seed(b), drawn.get(column.label)) for a, b in pairs]
        whole = [one.draws for one in found if one is not None and one.draws is not None]
        all_there = len(whole) == len(pairs) and len(values) == len(gaps)
        ends = _hull(values, bootstrap.percentile(np.mean(whole, axis=0)) if all_there else NONE)
        claim = "SoRA scores higher than LoRA at equal r, averaged over r"
        yield Claim(claim, _gaps_by_rank(column), column.label, values, "points", study.key, interval=ends)


def _gaps_by_rank(column: Column) -> str:
    """SoRA minus LoRA at each rank of the paper's Table 2 on that task; averages where it does not have the task."""
    found = [_published_gap("2", "lora", column, f"method.r={r}") for r in (1, 2, 4, 8, 16)]
    if any(gap is None for gap in found):
        return "+0.62, +0.60, +0.97, +0.98, +0.71 on average at r = 1 to 16 (Table 2)"
    return f"{', '.join(f'{gap:+.2f}' for gap in found)} at r = 1 to 16 (Table 2{_on_all(column.task)})"


# -- Table 6 -----------------------------------------------------------------------------------------------------


def _threshold(study: Study) -> Iterator[Claim]:
    """Of the seeds that have every threshold."""
    axis = "method.threshold"
    runs, thresholds = chosen(study, axis), sorted(map(float, study.axes.get(axis, ())))
    if len(thresholds) < 2:
        return
    drawn, every = draws(study, runs), dict(_first(study, study.done))
    for column, rows in _first(study, runs):
        live, points = (
            every[column].pivot_table(index=SEEDS, columns=axis, values=key, aggfunc="last").reindex(columns=thresholds)
            for key in ("params.live", "points")
        )
        live = live.dropna()
        orders = _known(spearman(thresholds, each) for each in live.to_numpy(float))
        claim = "A larger threshold leaves fewer parameters (rank correlation)"
        paper = "an author: larger xi, sparser (TsinghuaC3I/SoRA, issue 1)"
        ends = _within(orders, -1.0, 1.0)  # of correlations, so nothing lies beyond 1
        yield Claim(claim, paper, column.label, orders, "", study.key, -1, interval=ends)
        points = points.reindex(live.index)
        costs = tuple((points[thresholds[-1]] - points[thresholds[0]]).dropna())
        largest, smallest = (rows[rows[axis] == end] for end in (thresholds[-1], thresholds[0]))
        hull = _hull(costs, _bootstrapped(largest, smallest, drawn.get(column.label)))
        claim = "The largest threshold costs score against the smallest"
        paper = {"cola": "-6.40 (Table 6)", "stsb": "-1.23 (Table 6)"}.get(
            column.task, "-6.40 on CoLA, -1.23 on STS-B (Table 6)"
        )
        yield Claim(claim, paper, column.label, costs, "points", study.key, -1, interval=hull)


# -- Table 4 -----------------------------------------------------------------------------------------------------


def _efficiency(study: Study) -> Iterator[Claim]:
    seconds = published.seconds_per_epoch()
    for task, part in timed(study).groupby("task", sort=False):
        values = tuple(slower(part[part["method"] == "sora"], part[part["method"] == "adalora"]))
        name, paper = WHOLE.get(str(task), str(task)), "-29.5 % on average (Table 4)"
        if (name, "sora") in seconds:
            change = 100 * (seconds[name, "sora"] / seconds[name, "adalora"] - 1)
            paper = f"{change:+.1f} % (Table 4{_on_all(str(task))})"
        claim, label = "An epoch of SoRA takes less time than one of AdaLoRA", study.columns(str(task))[0].label
        yield Claim(claim, paper, label, values, "%", study.key, -1, interval=t_interval(values))


# -- Figure 2 ----------------------------------------------------------------------------------------------------


def _scheduler(study: Study) -> Iterator[Claim]:
    names = varied(study, "task", "method")
    found = levels(study, names)
    theirs = published.scheduler().query("read == 'text'")
    for curve in curves(study, names, found).itertuples():
        mine = found[(found["task"] == curve.task) & (found["name"] == curve.name)]
        runs = [part for _, part in mine.groupby("run_id", sort=False)]
        task = study.columns(curve.task)[0].label + (f", {curve.name}" if curve.name else "")
        for point in theirs[theirs["task"] == WHOLE.get(curve.task, curve.task)].itertuples():
            bound, share = float(str(point.percent).removeprefix(">")), 100 * point.params / point.dense_params
            values = _known(_generalization(run, share) for run in runs)
            claim = f"About {share:.2g} % of the dense model's parameters keep more than {bound:.0f} % of its "
            paper = f"{point.percent} % at {point.params:,} parameters (text) of about {point.dense_params:,} "
            claim, paper = f"{claim}generalization", f"{paper}(read off Figure 2{_on_all(curve.task)})"
            yield Claim(claim, paper, task, values, "%", study.key, 1, bound, t_interval(values))
        values = _known(_upper_minus_lower(run) for run in runs)
        claim = "Shallow layers lose their ranks first (live share, upper minus lower third, at half of the parameters)"
        paper, ends = "said in the text on Figure 2", t_interval(values)
        yield Claim(claim, paper, task, values, "percentage points", study.key, interval=ends)


def _known(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(value for value in values if not math.isnan(value))


def _generalization(run: pd.DataFrame, share: float) -> float:
    """Percent of the dense model's generalization at ``share`` percent of its live parameters."""
    known = run.dropna(subset="generalization")
    return interpolated(known["live"], known["generalization"], share / 100 * run["dense"].iloc[0])


def _upper_minus_lower(run: pd.DataFrame) -> float:
    """In percent of all ranks of a third, at the level that is nearest to half of the dense model's parameters."""
    later = run[(run["level"] > 0) & (run["live"] > 0)]
    if later.empty:
        return math.nan
    nearest = later.loc[(later["live"] - later["dense"] / 2).abs().idxmin()]
    return float(nearest["upper"] - nearest["lower"])


READERS: Mapping[str, Callable[[Study], Iterator[Claim]]] = {
    "main_table": _main_table,
    "rank_budget": _rank_budget,
    "efficiency": _efficiency,
    "threshold": _threshold,
    "scheduler": _scheduler,
}
