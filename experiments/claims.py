"""What the SoRA paper claims, and what the runs at hand say of it: claim by claim, with an interval and a verdict.

A claim is put as one number per seed. Its verdict looks at the 95 % interval of the mean alone: it holds where all of
it agrees with the claim, fails where all of it contradicts it, else cannot be decided. The interval is Student's over
seeds; of scores, the hull of that and the bootstrap over seeds and items. First stand the comparisons
that were fixed beforehand (experiments/primary.py), with their margins and corrected p.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments import bootstrap, primary, published
from experiments.comparisons import Comparison, compare
from experiments.draws import draws
from experiments.efficiency import slower, timed
from experiments.labels import ARMS, METHODS, TASKS, Column
from experiments.levels import interpolated, levels
from experiments.primary import FAILS, HOLDS, OPEN
from experiments.scores import DEPENDENCE, DEPENDENT, by_seed, chosen, long, paired
from experiments.stats import NONE, Interval, exact_order_p, spearman, t_interval
from experiments.study import SEEDS, Study
from experiments.tables import EMPTY, Table

ALPHA = 0.025  # of one side, as an interval of 95 % has it
GIVEN = "by construction"  # what no run could have said otherwise
TITLE = "What the paper claims, and what these runs say"
WHOLE = {"sst2_10k": "sst2"}  # our task on a slice of a training file -> the paper's on all of it


class Claim(NamedTuple):
    """One claim on one task.

    Attributes:
        paper: the paper's own evidence, in words; of the same task wherever the paper has it.
        task: the label of its number.
        values: ours, one per seed, in ``unit``.
        interval: of their mean.
        towards: +1 where the claim is that they lie above ``bound``, -1 where below it.
        given: the claim is true of any run with these settings: the number says how much, and decides nothing.
        dependence: data dependence of the ranks of the SoRA runs that it is about.
        margin, holm: of a comparison fixed beforehand, what may be lost and p after Holm.
        exact: one-sided p of values that are all the largest there is, or all the smallest, which have no interval.
    """

    claim: str
    paper: str
    task: str
    values: Sequence[float]
    unit: str
    interval: Interval
    towards: int = 1
    bound: float = 0.0
    given: bool = False
    dependence: Mapping[str, float] = MappingProxyType({})
    margin: float = math.nan
    holm: float = math.nan
    fixed: bool = False
    unfinished: bool = False
    exact: float = math.nan

    @property
    def verdict(self) -> str:
        """holds | fails | cannot be decided | by construction | is unfinished."""
        if self.unfinished:
            return primary.UNFINISHED
        ends = self.interval
        if self.exact <= ALPHA:
            ends = Interval(self.values[0], self.values[0])
        low, high = sorted(self.towards * (end - self.bound) for end in ends)
        return GIVEN if self.given else HOLDS if low > 0 else FAILS if high < 0 else OPEN


def claims(study: Study) -> list[Claim]:
    """Every claim that the study is about, on every task with two seeds or more."""
    if study.name not in READERS or study.done.empty:
        return []
    return [each for each in READERS[study.name](study) if len(each.values) > 1]


def table(studies: Sequence[Study]) -> Table | None:
    """The claims as a table, in the order of the paper; None where no study here is about one."""
    order = [study for name in READERS for study in studies if study.name == name]
    rows, ours, ends = [], [], []
    for study, each in [(one, each) for one in order for each in claims(one)]:
        form = "{:.2f}" if each.bound and not each.fixed else "{:+.2f}"  # a difference is written with its sign
        mean = np.mean(each.values)  # NaN where a seed diverged before its first score
        ours.append(EMPTY if math.isnan(mean) else f"{form.format(mean)} {each.unit}".rstrip())
        ends.append(EMPTY if math.isnan(each.interval.low) else f"{form} to {form}".format(*each.interval))
        row = {"claim": each.claim, "paper": each.paper, "task": each.task, "ours": float(np.mean(each.values))}
        row |= {"95 % interval": each.interval.low, "95 % interval high": each.interval.high}
        row |= {"margin": each.margin, "seeds": len(each.values), "p (Holm)": each.holm}
        row |= {**dict.fromkeys(DEPENDENCE.values(), math.nan), **each.dependence, "verdict": each.verdict}
        rows.append(row | {"fixed beforehand": "yes" if each.fixed else "no", "study": study.key})
    if not rows:
        return None
    backbones = ", ".join(dict.fromkeys(str(name) for study in order for name in study.values("backbone")))
    caption = (
        "Verdict by the 95 % interval alone: holds where all of it agrees with the claim, fails where all of it "
        f"contradicts it, else {OPEN} with so few seeds and examples; {GIVEN}: SoRA starts with LoRA's ranks and only "
        "cuts. A verdict is about the settings at hand, not about the best ones: its study's page names them. "
        "Intervals: Student's over seeds; of "
        "score differences, widened to the bootstrap over seeds and items where that reaches further. Where every "
        "seed has the same value there is none, and nothing is decided; but of rank correlations that are all 1 or all "
        "-1 an exact test decides (docs/statistics.md). Fixed "
        "beforehand: the comparisons of docs/study.md with their margins, p corrected after Holm over the tasks; "
        f"nothing corrects the others for their number. {DEPENDENT} Backbone {backbones} here, DeBERTaV3-base "
        "(Figure 2: RoBERTa-large) in the paper, and other budgets: a claim that fails here is not refuted there."
    )
    words = {"ours": pd.Series(ours), "95 % interval": pd.Series(ends)}
    return Table("claims", TITLE, caption, pd.DataFrame(rows), {"p (Holm)": "{:.4f}"}, words=words)


def _dependence(*parts: pd.DataFrame) -> dict[str, float]:
    """Of the ranks of SoRA among these runs."""
    runs = pd.concat(parts)
    runs = runs[(runs["method"] == "sora") & runs["done"].astype(bool)]
    return {head: float(runs[name].mean()) for name, head in DEPENDENCE.items()}


class Pair(NamedTuple):
    """Two settings on the first number of a task: the runs of the seeds both have, and their scores' comparison."""

    column: Column
    a: pd.DataFrame
    b: pd.DataFrame
    over: Comparison

    def claimed(self, claim: str, paper: str, towards: int = 1) -> Claim:
        """The claim that ``a`` scores higher (towards +1) or lower (-1)."""
        values = _known(self.over.by_seed[0])
        hull = _hull(values, self.over.over_items.interval)
        return Claim(claim, paper, self.column.label, values, "points", hull, towards, dependence=self.dependence)

    @property
    def dependence(self) -> dict[str, float]:
        """Of its SoRA runs."""
        return _dependence(self.a, self.b)

    @property
    def seeds(self) -> pd.Index:
        """Those that both have, in the order of the comparison's."""
        return self.a.index.intersection(self.b.index, sort=False)


def _pairs(study: Study, runs: pd.DataFrame, key: str, first: object, second: object) -> Iterator[Pair]:
    """The runs with ``first`` and those with ``second`` in the column ``key``, task by task."""
    drawn, rows = draws(study, runs), long(study, runs, first=True)
    for column in (study.columns(task)[0] for task in study.tasks):
        own = rows[rows["label"] == column.label]
        a, b = (by_seed(own[own[key] == value]) for value in (first, second))
        if (over := compare(column.label, a, b, drawn.get(column.label))) is not None:
            yield Pair(column, a, b, over)


def _known(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(value for value in values if not math.isnan(value))


def _hull(values: Sequence[float], drawn: Interval) -> Interval:
    """What Student's interval and that of the bootstrap reach together; NaN without the first."""
    over_seeds = t_interval(values)
    if math.isnan(over_seeds.low):
        return NONE
    ends = pd.DataFrame([over_seeds, drawn])
    return Interval(float(ends["low"].min()), float(ends["high"].max()))


def _within(values: Sequence[float], low: float, high: float) -> Interval:
    """Student's interval, cut at what is possible; NaN where there is none."""
    found = t_interval(values)
    return NONE if math.isnan(found.low) else Interval(max(low, found.low), min(high, found.high))


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


# -- a reader for each study -------------------------------------------------------------------------------------


SIDES = {  # column -> SoRA, the other, its method in the paper, SoRA's advantage and parameters fewer on average there
    "method": (("sora", "lora", "lora", "+0.98", "31.5 %"), ("sora", "adalora", "adalora", "+0.53", "28.3 %")),
    "arm": (("sora_best", "lora_r8", "lora", "+0.98", "31.5 %"), ("sora_small", "lora_r8", "lora", "", "31.5 %")),
}


def _main_table(study: Study) -> Iterator[Claim]:
    key = "arm" if "arm" in study.runs else "method"
    runs, names = study.runs if key == "arm" else chosen(study, key), METHODS | ARMS
    if key == "arm":
        yield from _fixed_beforehand(study)
    for first, second, theirs, average, fewer in SIDES[key]:
        for pair in _pairs(study, runs, key, first, second):
            if average:  # SoRA-small's score is compared by what was fixed beforehand
                paper = _in_table_1(pair.column, theirs, average)
                yield pair.claimed(f"{names[first]} scores higher than {names[second]}", paper)
            live = paired(pair.a, pair.b, ["params.live"])
            values = _known(100 * (live["params.live"] / live["params.live_b"].where(live["params.live_b"] > 0) - 1))
            claim = f"{names[first]} has fewer live parameters than {names[second]}"
            paper, given = f"{fewer} fewer on average (text)", theirs == "lora" and _only_cuts(pair.a, pair.b)
            ends = _within(values, -100.0, math.inf)  # no change takes away more than all
            yield Claim(claim, paper, pair.column.label, values, "%", ends, -1, 0.0, given, pair.dependence)


def _fixed_beforehand(study: Study) -> Iterator[Claim]:
    """The three comparisons of docs/study.md; the paper has the first alone."""
    for test in primary.tests(study).to_dict("records"):
        margin, has_margin = test["margin"], not math.isnan(test["margin"])
        yield Claim(
            f"SoRA-small is {test['comparison']}",
            _in_table_1(study.columns(test["name"])[0], "lora", "+0.98") if has_margin else "not in the paper",
            test["task"],
            test["values"],
            "points",
            Interval(test["low"], test["high"]),
            bound=-margin if has_margin else 0.0,
            dependence={head: test[head] for head in DEPENDENCE.values()},
            margin=margin,
            holm=test["p (Holm)"],
            fixed=True,
            unfinished=test["verdict"] == primary.UNFINISHED,
        )


def _only_cuts(sora: pd.DataFrame, lora: pd.DataFrame) -> bool:
    """Whether SoRA starts with no more ranks than LoRA has in every matrix, so that it cannot end with more parameters.

    Of AdaLoRA nothing like it can be said: as many ranks in smaller matrices are fewer parameters.
    """
    pairs = paired(sora, lora, ["method.r", "method.targets"])
    mine, theirs = (pairs[name].astype(object).fillna("").map(str) for name in ("method.targets", "method.targets_b"))
    return bool((mine == theirs).all() and (pairs["method.r"] <= pairs["method.r_b"]).all())


def _rank_budget(study: Study) -> Iterator[Claim]:
    """The difference at equal r, averaged over r, of the seeds that have every r of both methods."""
    if "arm" in study.runs:  # LoRA's ranks and SoRA's thresholds: none are equal
        return
    runs = chosen(study, "method", "method.r")
    at_rank: dict[Column, list[Pair]] = {}
    for _, part in runs.groupby("method.r", sort=False):
        for pair in _pairs(study, part, "method", "sora", "lora"):
            at_rank.setdefault(pair.column, []).append(pair)
    for column, pairs in at_rank.items():
        gaps = pd.concat([pd.Series(pair.over.by_seed[0], pair.seeds) for pair in pairs], axis=1)
        values = tuple(gaps.mean(axis=1, skipna=False).dropna())
        drawn = [pair.over.draws for pair in pairs if pair.over.draws is not None]
        whole = len(drawn) == len(pairs) and len(values) == len(gaps)
        ends = _hull(values, bootstrap.percentile(np.mean(drawn, axis=0)) if whole else NONE)
        claim = "SoRA scores higher than LoRA at equal r, averaged over r"
        dependence = _dependence(*(pair.a for pair in pairs))
        yield Claim(claim, _gaps_by_rank(column), column.label, values, "points", ends, dependence=dependence)


def _gaps_by_rank(column: Column) -> str:
    """SoRA minus LoRA at each rank of the paper's Table 2 on that task; averages where it does not have the task."""
    found = [_published_gap("2", "lora", column, f"method.r={r}") for r in (1, 2, 4, 8, 16)]
    if any(gap is None for gap in found):
        return "+0.62, +0.60, +0.97, +0.98, +0.71 on average at r = 1 to 16 (Table 2)"
    return f"{', '.join(f'{gap:+.2f}' for gap in found)} at r = 1 to 16 (Table 2{_on_all(column.task)})"


def _threshold(study: Study) -> Iterator[Claim]:
    axis = "method.threshold"
    runs, thresholds = chosen(study, axis), sorted(map(float, study.axes.get(axis, ())))
    if len(thresholds) < 2:
        return
    costs = {"cola": "-6.40 (Table 6)", "stsb": "-1.23 (Table 6)"}
    for pair in _pairs(study, runs, axis, thresholds[-1], thresholds[0]):
        own = runs[runs["done"] & (runs["task"] == pair.column.task)]
        live = own.pivot_table(index=SEEDS, columns=axis, values="params.live", aggfunc="last")
        whole = live.reindex(columns=thresholds).dropna().to_numpy(float)  # of the seeds that have every threshold
        orders = _known(spearman(thresholds, each) for each in whole)
        claim = "A larger threshold leaves fewer parameters (rank correlation)"
        paper = "an author: larger xi, sparser (TsinghuaC3I/SoRA, issue 1)"
        ends, dependence = _within(orders, -1.0, 1.0), _dependence(own)
        one = bool(orders) and math.isclose(abs(sum(orders)), len(orders))
        exact = exact_order_p(len(orders), len(thresholds)) if one else math.nan
        yield Claim(claim, paper, pair.column.label, orders, "", ends, -1, dependence=dependence, exact=exact)
        paper = costs.get(pair.column.task, "-6.40 on CoLA, -1.23 on STS-B (Table 6)")
        yield pair.claimed("The largest threshold costs score against the smallest", paper, -1)


def _efficiency(study: Study) -> Iterator[Claim]:
    seconds = published.seconds_per_epoch()
    for task, part in timed(study).groupby("task", sort=False):
        values = tuple(slower(part[part["method"] == "sora"], part[part["method"] == "adalora"]))
        name, paper = WHOLE.get(str(task), str(task)), "-29.5 % on average (Table 4)"
        if (name, "sora") in seconds:
            change = 100 * (seconds[name, "sora"] / seconds[name, "adalora"] - 1)
            paper = f"{change:+.1f} % (Table 4{_on_all(str(task))})"
        claim, label = "An epoch of SoRA takes less time than one of AdaLoRA", study.columns(str(task))[0].label
        dependence = _dependence(part)
        yield Claim(claim, paper, label, values, "%", t_interval(values), -1, dependence=dependence)


def _scheduler(study: Study) -> Iterator[Claim]:
    """Of each of its variants; there is one unless the study has several schedules or settings."""
    theirs = published.scheduler().query("read == 'text'")
    found = levels(study)
    for (task, name), mine in found.groupby(["task", "name"], sort=False):
        runs = [part for _, part in mine.groupby("run_id", sort=False)]
        label = study.columns(str(task))[0].label + (f", {name}" if found["name"].nunique() > 1 else "")
        dependence = _dependence(study.done[study.done["run_id"].isin(mine["run_id"])])
        for point in theirs[theirs["task"] == WHOLE.get(task, task)].itertuples():
            bound, share = float(str(point.percent).removeprefix(">")), 100 * point.params / point.dense_params
            values = _known(_generalization(run, share) for run in runs)
            claim = f"About {share:.2g} % of the dense model's parameters keep more than {bound:.0f} % of its "
            paper = f"{point.percent} % at {point.params:,} parameters (text) of about {point.dense_params:,} "
            claim, paper = f"{claim}generalization", f"{paper}(read off Figure 2{_on_all(str(task))})"
            yield Claim(claim, paper, label, values, "%", t_interval(values), 1, bound, dependence=dependence)
        values = _known(_upper_minus_lower(run) for run in runs)
        claim = "Shallow layers lose their ranks first (live share, upper minus lower third, at half of the parameters)"
        about, unit = (claim, "text on Figure 2", label), "percentage points"
        yield Claim(*about, values, unit, t_interval(values), dependence=dependence)


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
