"""The paper's Table 1: every method, or every arm of a study (``study.arm``), with LoRA and controls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from experiments import primary
from experiments.comparisons import AVERAGE, compare, comparison_table, sides
from experiments.draws import Draws, draws
from experiments.labels import ARMS, MAJORITY, METHODS
from experiments.learning_curves import learning_curves
from experiments.scores import (
    AVERAGED,
    DEPENDENCE,
    DEPENDENT,
    averages,
    by_seed,
    cells,
    chosen,
    detail_table,
    long,
    published_table,
    score_columns,
    settings_of,
)
from experiments.stats import t_interval
from experiments.study import Study
from experiments.tables import EMPTY, SIGNED, Artefact, Table, counts, size

TITLE = "Main table: all methods on all tasks (Table 1)"
BASE = {"arm": "lora_r8", "method": "lora"}
BASELINES = ("lora", "full")  # of methods, whose comparisons nothing fixed beforehand
SOURCES = (("sora", "1"), ("adalora", "1"))
DRAWN = ("lora_r8", "sora_small", "sora_best", "adalora_r8", "full", "bitfit", "adapter")  # arms with learning curves
SEEDLESS = ("probe", "zero_shot")  # every seed gives the same
GAPS = ["minus LoRA", "t interval", "t interval high", "bootstrap interval", "bootstrap interval high"]
DOUBTFUL = "not shown to be above the majority class"
CAPTION = (
    "Points on the report split, of the selected weights: mean ± population SD over seeds; n: runs that are there, of "
    "those planned (one that diverged before its first score is in n and not in the mean). Live parameters: without "
    "the head. Minus LoRA: over the seeds both have (a probe's or zero-shot run stands for every seed), with two 95 % "
    "intervals, Student's t over seeds and a bootstrap over seeds and examples. "
    "Majority class: one class for every item, the one that scores best on the report split; "
    f"remarks name the rows of which one of the two intervals does not lie above it ({DOUBTFUL}). {DEPENDENT} "
)
VERDICTS = {
    "arm": "Minus LoRA is to LoRA r = 8. Of equal size: as many weights as SoRA-small's run of the same seed, to "
    "within half a rank (AdaLoRA: to its average rank, rounded). Verdict: of the comparisons fixed beforehand "
    "(docs/study.md) alone; the other differences are description.",
    "method": "Verdict: SoRA is not inferior to LoRA where both intervals lie above minus the margin (1 point of "
    f"accuracy, 0.5 of Pearson, 2 of MCC; {primary.NOT_FIXED}); the comparisons below say what is better or worse.",
}


def build(study: Study) -> list[Artefact | None]:
    """The table, its comparisons, learning curves, published numbers (of methods), details."""
    key = primary.key_of(study)
    if key == "arm":
        runs = in_order(study.runs).assign(trials=1)
        curves = learning_curves(study, runs[runs["arm"].isin(DRAWN)], key, {arm: ARMS[arm] for arm in DRAWN})
    else:
        runs = chosen(study, key)
        curves = learning_curves(study, runs)
    found, drawn = cells(study, runs, key), draws(study, runs)
    return [
        table(study, runs, found, drawn),
        primary.table(study),
        _comparisons(study, runs, drawn) if key == "method" else None,
        *curves,
        published_table(study, found, {key: key}, SOURCES, _settings(runs, found)) if key == "method" else None,
        detail_table(study, found, {key: key}, drawn),
    ]


def in_order(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs in the order of ``ARMS``; arms that are none of them last, by name."""
    known = list(ARMS)
    places = runs["arm"].map(lambda arm: f"{known.index(arm):03}" if arm in known else f"~{arm}")
    return runs.loc[places.sort_values(kind="stable").index]


def table(study: Study, runs: pd.DataFrame, found: pd.DataFrame, drawn: Mapping[str, Draws]) -> Table:
    """A row for each method or arm of each task, and one for the answer that is always the same."""
    key, verdicts = primary.key_of(study), _verdicts(study)
    labels = [column.label for task in study.tasks for column in study.columns(task)]
    doubtful = [DOUBTFUL if _may_be_constant(cell, drawn) else "" for _, cell in found.iterrows()]
    remarks = [", ".join(filter(None, pair)) for pair in zip(found["remarks"], doubtful, strict=True)]
    constant = [
        {"label": column.label, "task": task, key: MAJORITY, "mean": drawn[column.label].constant, "live": 0}
        for task in study.tasks
        for column in study.columns(task)
        if column.label in drawn and not math.isnan(drawn[column.label].constant)
    ]
    found = pd.concat([found.assign(remarks=remarks), pd.DataFrame(constant)], ignore_index=True)
    found["remarks"] = found["remarks"].fillna("")
    caption = CAPTION + VERDICTS[key]
    if key == "method" and len(study.tasks) > 1:
        mean = averages(study, found, key).reset_index().assign(label=AVERAGE, remarks="")
        found, labels = pd.concat([found, mean], ignore_index=True), [*labels, AVERAGE]
        caption = f"{caption} {AVERAGED}"
    found = found.sort_values("label", key=lambda each: each.map(labels.index), kind="stable", ignore_index=True)
    parts = {place: by_seed(part) for place, part in long(study, runs).groupby(["label", key], sort=False)}
    gaps = [
        difference(each, parts.get((label, each)), parts.get((label, BASE[key])), drawn.get(label))
        for label, each in zip(found["label"], found[key], strict=True)
    ]
    data = settings_of(found, {"label": "task", key: key})
    data["n"], data["n of"] = counts(found["n"]), counts(found["of"])
    data = data.join(score_columns(found, "score")[["score", "score sd", "score diverged", "score one_class"]])
    data["live parameters"] = counts(found["live"])
    data[[*DEPENDENCE.values()]] = found[[*DEPENDENCE]]
    data[GAPS] = pd.DataFrame(gaps, columns=GAPS, dtype=float)
    data["verdict"] = [verdicts.get(place, "") for place in zip(data["task"], data[key], strict=True)]
    data["remarks"] = found["remarks"]
    formats = {"live parameters": size, **dict.fromkeys(("minus LoRA", "t interval", "bootstrap interval"), SIGNED)}
    n = (data["n"].map(str) + "/" + data["n of"].map(str)).where(data["n"].notna(), EMPTY)
    return Table("main_table", "Scores and controls", caption, data, formats, words={"n": n})


def with_baselines(table: Table, settings: pd.DataFrame) -> Table:
    """The table of methods with rows for linear probes and zero-shot scores of other studies, where it has none itself.

    ``settings``: of its backbone, see :func:`experiments.overview.settings`.
    """
    labels = list(table.data["task"].unique())
    others = settings[settings["method"].isin(SEEDLESS) & settings["label"].isin(labels)]
    others = others[~others["method"].map(METHODS).isin(table.data["method"])].reset_index(drop=True)
    if others.empty:
        return table
    rows = settings_of(others, {"label": "task", "method": "method"}).assign(verdict="", remarks="")
    rows["n"] = rows["n of"] = counts(others["n"])
    rows["score"], rows["score sd"], rows["live parameters"] = others["mean"], others["sd"], 0
    data = pd.concat([table.data, rows], ignore_index=True)
    n = pd.concat([table.words["n"], rows["n"].map("{0}/{0}".format)], ignore_index=True)
    order = data["task"].map(labels.index).sort_values(kind="stable").index
    words = {"n": n.loc[order].reset_index(drop=True)}
    return replace(table, data=data.loc[order].reset_index(drop=True), words=words)


def difference(
    name: object, mine: pd.DataFrame | None, base: pd.DataFrame | None, drawn: Draws | None
) -> tuple[float, ...]:
    """A row minus LoRA in points, its t interval and its bootstrap interval; NaN where there is none."""
    nothing = (math.nan,) * len(GAPS)
    if name in BASE.values() or mine is None or base is None or mine.empty or base.empty:
        return nothing
    if name in SEEDLESS:  # one run stands for every seed
        mine = mine.iloc[[0] * len(base)].set_axis(base.index)
    over = compare("", mine, base, drawn)
    return nothing if over is None else (over.mean, *over.over_seeds, *over.over_items.interval)


def _may_be_constant(cell: pd.Series, drawn: Mapping[str, Draws]) -> bool:
    """Whether no interval shows the cell to be better than the constant answer; not where it has no score."""
    each = drawn.get(cell["label"])
    if each is None or np.isnan(each.constant) or not cell["points"]:
        return False
    lows = [each.above_constant(cell["run_ids"]).low, t_interval(cell["points"]).low - each.constant]
    known = [low for low in lows if not np.isnan(low)]
    return not known or min(known) <= 0


def _verdicts(study: Study) -> dict[tuple[str, str], str]:
    """Number and row -> its verdict: in SoRA's row of the comparison with LoRA, in a control's row of that with it."""
    found, key, names = {}, primary.key_of(study), METHODS | ARMS
    for test in primary.tests(study).to_dict("records"):
        words, first = f"{test['comparison']}: {primary.verdict_text(test)}", test["other"] == BASE[key]
        row = primary.SMALL[key] if first else test["other"]
        found[test["task"], names[row]] = words if first else f"{primary.NAMES[key]} {words}"
    return found


def _comparisons(study: Study, runs: pd.DataFrame, drawn: Mapping[str, Draws]) -> Table | None:
    every = {str(method): side for method, side in sides(study, runs, "method").items()}
    families = [
        (METHODS[base], every[base], {METHODS.get(m, m): side for m, side in every.items() if m != base})
        for base in BASELINES
        if base in every
    ]
    return comparison_table(study, families, drawn)


def _settings(runs: pd.DataFrame, found: pd.DataFrame) -> pd.Series:
    """The setting whose published numbers belong to a method: its rank, r = 8 where its runs have several or none."""
    ranks = runs.groupby("method")["method.r"].agg(lambda r: r.iloc[0] if r.nunique(dropna=False) == 1 else 8).fillna(8)
    return found["method"].map(lambda m: f"method.r={ranks[m]:g}" if m in ("lora", "adalora", "sora") else None)
