"""The comparisons of a main table that have margins and verdicts, and what they say in a few sentences.

Of a study of arms they are the three that docs/study.md fixed before the first run; of methods the first of them, with
its margins, which nobody fixed beforehand for that sweep.

Differences are SoRA-small (SoRA) minus another row, in points, paired by seed. A verdict looks at two 95 % intervals,
Student's t over the seeds and the bootstrap over seeds and items: it holds where both lie above the bound, fails where
both lie below, and else cannot be decided; before every seed of SoRA-small has its partner it is unfinished, as a look
ahead would be a test more. Holm's correction is within each comparison, over the tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp

from experiments import stats
from experiments.comparisons import compare, smallest_gap
from experiments.draws import draws
from experiments.scores import DEPENDENCE, DEPENDENT, by_seed, chosen, long, paired
from experiments.study import Study
from experiments.tables import SIGNED, Table

HOLDS, FAILS, OPEN, UNFINISHED = VERDICTS = "holds", "fails", "cannot be decided", "is unfinished"
WORSE = ", but worse"  # within the margin, and below 0
MARGINS = {"accuracy": 1.0, "pearson": 0.5, "matthews": 2.0}  # points that may be lost
SMALL = {"arm": "sora_small", "method": "sora"}
NAMES = {"arm": "SoRA-small", "method": "SoRA"}
# Fixed by docs/study.md: the seeds on HOME, and how many of them other backbones and arms in no comparison have.
SEEDS, CONTROLS, HOME = (0, 21, 42, 81, 100, 123), 3, "minilm-l6"


class Family(NamedTuple):
    """One comparison: SoRA-small against ``other``; ``margin``: whether as much as ``MARGINS`` may be lost."""

    name: str
    other: str
    margin: bool
    words: str  # what SoRA-small is where it holds
    against: str  # and where it fails


FAMILIES = {
    "arm": (
        Family(
            "not inferior to LoRA r = 8",
            "lora_r8",
            True,
            "not inferior to LoRA r = 8",
            "worse than LoRA r = 8 by more than the margin",
        ),
        Family(
            "better than LoRA of equal size",
            "lora_equal",
            False,
            "better than a LoRA of equal size",
            "worse than a LoRA of equal size",
        ),
        Family(
            "better than its pattern permuted",
            "lora_permuted",
            False,
            "better than its own pattern permuted",
            "worse than its own pattern permuted",
        ),
    ),
    "method": (
        Family("not inferior to LoRA", "lora", True, "not inferior to LoRA", "worse than LoRA by more than the margin"),
    ),
}
ENDS = ["t interval", "t interval high", "bootstrap interval", "bootstrap interval high"]
SHOWN = ["comparison", "task", "seeds", "difference", "margin", *ENDS, "p", "p (Holm)", "smallest gap"]
SHOWN += [*DEPENDENCE.values(), "verdict"]


def key_of(study: Study) -> str:
    """The column that says which row of the main table a run stands in."""
    return "arm" if "arm" in study.runs else "method"


def tests(study: Study) -> pd.DataFrame:
    """Every comparison on every task where both arms have a seed in common, family by family, a row each.

    The columns of the table, and ``name`` and ``metric`` of the task, ``other`` arm, ``values`` (one difference for
    each seed that both have), ``planned`` (seeds of SoRA-small), ``short`` (whether seeds of docs/study.md are not
    among those), ``share`` (SoRA-small's live parameters in percent of the other's), and what :func:`judged` adds.
    """
    key = key_of(study)
    runs = study.runs if key == "arm" else chosen(study, key)
    drawn, rows, found = draws(study, runs), long(study, runs, first=True), []
    for family in FAMILIES[key]:
        for (task, label, metric), own in rows.groupby(["task", "label", "metric"], sort=False):
            if family.margin and metric not in MARGINS:
                problem = f"{study.key}: no margin is fixed for {label}, so it is not tested"
                study.problems += [problem] if key == "arm" and problem not in study.problems else []
                continue
            a, b = (by_seed(own[own[key] == each]) for each in (SMALL[key], family.other))
            if (over := compare(label, a, b, drawn.get(label))) is None:
                continue
            margin = MARGINS[metric] if family.margin else math.nan
            live = paired(a, b, ["params.live"]).mean()
            row = {"comparison": family.name, "task": label, "name": task, "metric": metric, "other": family.other}
            row |= {"seeds": over.seeds, "difference": over.mean, "margin": margin, "values": over.by_seed[0]}
            row |= dict(zip(ENDS, (*over.over_seeds, *over.over_items.interval), strict=True))
            planned = runs.loc[(runs[key] == SMALL[key]) & (runs["task"] == task), "seed"]
            row["planned"] = len(planned)
            fixed = SEEDS if HOME in study.values("backbone") else SEEDS[:CONTROLS]
            row["short"] = key == "arm" and not set(fixed) <= set(planned.dropna().astype(int))
            bound = -margin if family.margin else 0.0
            whole = over.seeds == row["planned"]
            row["p"] = p_value(over.by_seed[0], bound, one_sided=family.margin) if whole else math.nan
            row["smallest gap"] = smallest_gap(over)
            row |= {head: a[name].mean() for name, head in DEPENDENCE.items()}
            row["share"] = 100 * live["params.live"] / (live["params.live_b"] or math.nan)
            found.append(row)
    return judged(pd.DataFrame(found)) if found else pd.DataFrame(columns=[*SHOWN, "other", "share", "short"])


def judged(found: pd.DataFrame) -> pd.DataFrame:
    """Add the verdict, ``low`` and ``high`` (what both intervals reach together), and Holm's p over the tasks.

    ``worse``: what holds lies within the margin, but below 0.
    """
    low, high = found[ENDS[::2]].min(axis=1, skipna=False), found[ENDS[1::2]].max(axis=1, skipna=False)
    bound = -found["margin"].fillna(0.0)
    early = found["seeds"] < found["planned"]
    verdicts = np.select([early, low > bound, high < bound], [UNFINISHED, HOLDS, FAILS], OPEN)
    holm = found["p"].mask(early, 1.0).groupby(found["comparison"]).transform(stats.holm).mask(early)  # they will count
    worse = (verdicts == HOLDS) & (high < 0)
    return found.assign(low=low, high=high, verdict=verdicts, worse=worse, **{"p (Holm)": holm})


def verdict_text(test: Mapping[Any, Any]) -> str:
    """The verdict in words: ``holds``, ``holds, but worse`` where both intervals lie below 0."""
    return f"{test['verdict']}{WORSE if test['worse'] else ''}"


def p_value(gaps: Sequence[float] | np.ndarray, bound: float, *, one_sided: bool) -> float:
    """Of Student's t test of the differences' mean against ``bound``; NaN where there is no t interval.

    As :func:`experiments.stats.t_interval`: for fewer than two, for a missing one, and for equal ones.
    """
    if math.isnan(stats.t_interval(gaps).low):
        return math.nan
    return float(ttest_1samp(gaps, bound, alternative="greater" if one_sided else "two-sided").pvalue)


TITLES = {"arm": "The comparisons fixed beforehand", "method": "SoRA against LoRA with a margin"}
CAPTION = (
    "{} minus the other {}, in points, paired by seed. Both intervals are 95 %: Student's t over the seeds, and a "
    "bootstrap over seeds and examples. A comparison holds where both lie above minus the margin (above 0 where there "
    "is none), fails where both lie below it, and else cannot be decided; it is unfinished until every seed of {} has "
    "its partner. But worse: within the margin, and both below 0. p: of the t test, one-sided against the margin, "
    "two-sided against 0; Holm: corrected over the tasks of a comparison that have runs. Smallest gap: the "
    "difference from 0 that each of the two intervals alone would show in 80 % of cases, the larger of the two. "
    f"{DEPENDENT} {{}}"
)
NOT_FIXED = "margins as in docs/study.md; not fixed beforehand for this sweep"
CAPTIONS = {
    "arm": CAPTION.format(
        NAMES["arm"],
        "arm",
        NAMES["arm"],
        "The comparisons, margins and seeds were fixed in docs/study.md before the first run.",
    ),
    "method": CAPTION.format(NAMES["method"], "method", NAMES["method"], f"{NOT_FIXED.capitalize()}."),
}


def table(study: Study) -> Table | None:
    """The tests as a table; None where there is none."""
    formats = dict.fromkeys(("difference", "t interval", "bootstrap interval"), SIGNED)
    formats |= {"p": "{:.4f}", "p (Holm)": "{:.4f}"}
    found, key = tests(study), key_of(study)
    if found.empty:
        return None
    shown = found[SHOWN].assign(verdict=[verdict_text(test) for test in found.to_dict("records")])
    return Table("primary", TITLES[key], CAPTIONS[key], shown, formats, [words] if (words := _short(found)) else [])


def headline(study: Study) -> str:
    """What holds, what fails and what cannot be decided, in words; nothing before the first comparison can be made."""
    found, key = tests(study), key_of(study)
    if found.empty:
        return ""
    alike: dict[tuple[str, tuple[str, ...]], list[Family]] = {}  # verdict, its tasks -> the comparisons
    for family in FAMILIES[key]:
        for verdict in VERDICTS:
            part = found[(found["comparison"] == family.name) & (found["verdict"] == verdict)]
            if len(part):
                tasks = tuple(_named(test) for test in part.to_dict("records"))
                alike.setdefault((verdict, tasks), []).append(family)
    who, clauses = NAMES[key] + _size(found[found["other"] == FAMILIES[key][0].other]), []
    still_open = found[found["verdict"] == OPEN]
    for (verdict, tasks), families in sorted(alike.items(), key=lambda each: VERDICTS.index(each[0][0])):
        asked = _listed([family.words for family in families], "or")
        words = {
            HOLDS: f"{who} is {_listed([family.words for family in families])}",
            FAILS: f"{who} is {_listed([family.against for family in families])}",
            OPEN: f"{_seeds(still_open)} cannot decide whether {who} is {asked}",
            UNFINISHED: f"it is unfinished whether {who} is {asked}",
        }
        clauses.append(f"on {_listed(tasks)} {words[verdict]}")
        who = "it"
    sentence = "; ".join(clauses) + (f" ({NOT_FIXED})" if key == "method" else "")
    return " ".join(filter(None, (f"{sentence[0].upper()}{sentence[1:]}.", _gaps(still_open), _short(found))))


def _size(found: pd.DataFrame) -> str:
    """How many of LoRA's live parameters are left, by its comparisons; empty where that is not known."""
    shares = found["share"].dropna().round().astype(int)
    ends = " to ".join(map(str, dict.fromkeys((shares.min(), shares.max()))))
    return f", with {ends} % of LoRA's live parameters," if len(shares) else ""


def _seeds(found: pd.DataFrame) -> str:
    """By how many seeds these tests were made, in words."""
    count = set(found["seeds"])
    if len(count) != 1:
        return "these seeds"
    (seeds,) = count
    word = dict(enumerate(("one", "two", "three", "four", "five", "six", "seven", "eight", "nine"), 1)).get(seeds)
    return f"{word or seeds} seed{'s' if seeds > 1 else ''}"


def _gaps(found: pd.DataFrame) -> str:
    """The smallest difference that these tests would mostly have shown, by task; empty where none is known."""
    parts = []
    for task, gaps in found.dropna(subset="smallest gap").groupby("task", sort=False)["smallest gap"]:
        ends = dict.fromkeys(f"{gap:.1f}" for gap in (gaps.min(), gaps.max()))
        parts.append(f"{' to '.join(ends)} points on {task}")
    words = "Either 95 % interval alone would have shown a difference of"
    return f"{words} {_listed(parts)} in 80 % of cases." if parts else ""


def _short(found: pd.DataFrame) -> str:
    """Which verdicts are not those of docs/study.md, as it has more seeds; empty where none is."""
    early = found.loc[found["short"].astype(bool) & (found["verdict"] != UNFINISHED), "task"] if len(found) else []
    tasks = list(dict.fromkeys(early))
    return f"Not on all seeds that docs/study.md fixed: {_listed(tasks)}".rstrip(".") + "." if tasks else ""


def _named(test: Mapping[Any, Any]) -> str:
    """The task; with p where the corrected one does not bear out the intervals."""
    weak = test["verdict"] == HOLDS or (test["verdict"] == FAILS and pd.isna(test["margin"]))
    holm = test["p (Holm)"]
    words = " (though worse)" if test["worse"] else ""
    return f"{test['task']}{words}" + (f" (p = {holm:.2f} after Holm)" if weak and not holm < 0.05 else "")


def _listed(words: Sequence[str], last: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
