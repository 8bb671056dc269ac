"""The three comparisons that docs/study.md fixed before the first run, with their verdicts and one sentence on them.

Differences are SoRA-small minus another arm, in points, paired by seed. A verdict looks at two 95 % intervals,
Student's t over the seeds and the bootstrap over seeds and items: it holds where both lie above the bound, fails where
both lie below, and else cannot be decided. Holm's correction is within each comparison, over the tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from experiments import stats
from experiments.comparisons import compare
from experiments.draws import draws
from experiments.scores import by_seed, long, paired
from experiments.stats import NONE, Interval
from experiments.study import Study
from experiments.tables import SIGNED, Table

HOLDS, FAILS, OPEN = "holds", "fails", "cannot be decided"
MARGINS = {"accuracy": 1.0, "pearson": 0.5, "matthews": 2.0}  # points that may be lost
SMALL = "sora_small"


@dataclass(frozen=True)
class Family:
    """One comparison: SoRA-small against ``other``; ``margin``: whether as much as ``MARGINS`` may be lost."""

    name: str
    other: str
    margin: bool
    words: str  # what holds, of which the sentence speaks


FAMILIES = (
    Family("not inferior to LoRA r = 8", "lora_r8", True, "Non-inferiority of SoRA-small to LoRA r = 8"),
    Family("better than LoRA of equal size", "lora_equal", False, "its advantage over a LoRA of equal size"),
    Family("better than its pattern permuted", "lora_permuted", False, "its advantage over its own pattern permuted"),
)


@dataclass(frozen=True)
class Test:
    """SoRA-small against another arm on one task.

    Attributes:
        label: of the task's first number.
        differences: one for each seed that both have, in points.
        bound: what the difference must be above, minus the margin or 0.
        over_seeds, over_items: Student's interval, and that of the bootstrap over seeds and items.
        p: one-sided against the margin, two-sided against 0; ``holm``: corrected over the tasks.
        detectable: the difference that would be found in 80 % of cases by both intervals.
        dependence, share: of SoRA-small, its data-dependence and its live parameters in percent of the other's.
    """

    family: Family
    task: str
    label: str
    differences: tuple[float, ...]
    bound: float
    over_seeds: Interval
    over_items: Interval
    p: float
    detectable: float
    dependence: float
    share: float
    holm: float = math.nan

    @property
    def interval(self) -> Interval:
        """What both intervals reach together; nothing where one of them is missing."""
        ends = np.array([self.over_seeds, self.over_items])
        return NONE if np.isnan(ends).any() else Interval(float(ends[:, 0].min()), float(ends[:, 1].max()))

    @property
    def verdict(self) -> str:
        """holds | fails | cannot be decided."""
        low, high = self.interval
        return HOLDS if low > self.bound else FAILS if high < self.bound else OPEN


def tests(study: Study) -> list[Test]:
    """Every comparison on every task where both arms have a seed in common, family by family."""
    if "arm" not in study.runs:
        return []
    runs = study.runs[study.runs["arm"].isin([SMALL, *(family.other for family in FAMILIES)])]
    drawn = draws(study, runs)
    rows = long(study, runs)
    found = []
    for family in FAMILIES:
        each = []
        for task in study.tasks:
            column = study.columns(task)[0]
            if family.margin and column.metric not in MARGINS:
                study.problems.append(f"{study.key}: no margin is fixed for {column.label}, so it is not tested")
                continue
            own = rows[rows["label"] == column.label]
            a, b = (by_seed(own[own["arm"] == arm]) for arm in (SMALL, family.other))
            pairs = paired(a, b, ["points", "params.live"])
            if pairs.empty:
                continue
            gaps = (pairs["points"] - pairs["points_b"]).to_numpy(float)
            bound = -MARGINS[column.metric] if family.margin else 0.0
            over = compare(column.label, a, b, drawn.get(column.label))
            each.append(
                Test(
                    family,
                    task,
                    column.label,
                    tuple(map(float, gaps)),
                    bound,
                    stats.t_interval(gaps),
                    NONE if over is None else over.found.interval,
                    p_value(gaps, bound, one_sided=family.margin),
                    _detectable(gaps, math.nan if over is None else over.found.standard_error),
                    float(a["data_dependence"].mean()),
                    _share(pairs["params.live"], pairs["params.live_b"]),
                )
            )
        found += corrected(each)
    return found


def corrected(family: Sequence[Test]) -> list[Test]:
    """With Holm's p over the tests of one family that have a p."""
    known = [test.p for test in family if not math.isnan(test.p)]
    adjusted = iter(stats.holm(known) if known else ())
    return [test if math.isnan(test.p) else replace(test, holm=float(next(adjusted))) for test in family]


def p_value(gaps: Sequence[float] | np.ndarray, bound: float, *, one_sided: bool) -> float:
    """Of Student's t test of the differences' mean against ``bound``; NaN for fewer than two or for a missing one."""
    values = np.asarray(gaps, dtype=float)
    if len(values) < 2 or np.isnan(values).any():
        return math.nan
    error = values.std(ddof=1) / math.sqrt(len(values))
    above = float(values.mean()) - bound
    t = above / error if error > 0 else math.copysign(math.inf, above) if above else 0.0
    tail = float(scipy_stats.t.sf(t if one_sided else abs(t), len(values) - 1))
    return tail if one_sided else min(1.0, 2 * tail)


def _share(live: pd.Series, of: pd.Series) -> float:
    return float(100 * live.mean() / of.mean()) if of.mean() > 0 else math.nan


def _detectable(gaps: np.ndarray, standard_error: float) -> float:
    both = stats.detectable_gap(standard_error), stats.seeds_gap([gaps])
    return math.nan if any(map(math.isnan, both)) else max(both)


CAPTION = (
    "SoRA-small minus the other arm, in points, paired by seed. Both intervals are 95 %: Student's t over the "
    "seeds, and a bootstrap over seeds and examples. A comparison holds where both lie above minus the margin "
    "(above 0 where there is none), fails where both lie below it, and else cannot be decided. p: of the t test, "
    "one-sided against the margin, two-sided against 0; Holm: corrected over the tasks of a comparison. Smallest "
    "gap: the difference that both would find in 80 % of cases. The comparisons, margins and seeds were fixed in "
    "docs/study.md before the first run."
)


def table(study: Study) -> Table | None:
    """The tests as a table; None where there is none."""
    found = tests(study)
    if not found:
        return None
    rows = [
        {
            "comparison": test.family.name,
            "task": test.label,
            "seeds": len(test.differences),
            "difference": float(np.mean(test.differences)),
            "margin": -test.bound if test.bound else math.nan,
            "t interval": test.over_seeds.low,
            "t interval high": test.over_seeds.high,
            "bootstrap interval": test.over_items.low,
            "bootstrap interval high": test.over_items.high,
            "p": test.p,
            "p (Holm)": test.holm,
            "smallest gap": test.detectable,
            "data dependence": test.dependence,
            "verdict": test.verdict,
        }
        for test in found
    ]
    formats = dict.fromkeys(("difference", "t interval", "bootstrap interval"), SIGNED)
    formats |= {"p": "{:.4f}", "p (Holm)": "{:.4f}"}
    return Table("primary", "The comparisons fixed beforehand", CAPTION, pd.DataFrame(rows), formats)


def headline(study: Study) -> str:
    """One sentence: what holds, what fails, what cannot be decided; nothing before the first comparison can be made."""
    found = tests(study)
    parts: list[str] = []
    for family in FAMILIES:
        own = [test for test in found if test.family == family]
        if not own:
            continue
        words = family.words if parts or family is FAMILIES[0] else family.words.replace("its", "SoRA-small's", 1)
        verdicts = [
            f"{verdict} on {_listed([_named(test) for test in own if test.verdict == verdict])}"
            for verdict in (HOLDS, FAILS, OPEN)
            if any(test.verdict == verdict for test in own)
        ]
        parts.append(f"{words} {_listed(verdicts)}")
    if not parts:
        return ""
    small = [test for test in found if test.family is FAMILIES[0]]
    size = f", with {_span([test.share for test in small])} % of its live parameters," if small else ""
    sentence = "; ".join(parts).replace("to LoRA r = 8", f"to LoRA r = 8{size}", 1)
    return sentence if sentence.endswith(".") else f"{sentence}."


def _named(test: Test) -> str:
    """The task; with p where the corrected one does not bear out the intervals."""
    weak = test.verdict == HOLDS or (test.verdict == FAILS and not test.family.margin)
    return test.label + (f" (p = {test.holm:.2f} after Holm)" if weak and not test.holm < 0.05 else "")


def _span(values: Sequence[float]) -> str:
    low, high = round(min(values)), round(max(values))
    return f"{low}" if low == high else f"{low} to {high}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
