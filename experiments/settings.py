"""Studies that vary settings, the paper's Tables 2, 3, 6 and 7 and a grid of learning rates: a row for each value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.conditions import RATE
from experiments.draws import draws
from experiments.figures import curves
from experiments.labels import METHODS
from experiments.scores import cells, chosen, detail_table, published_table, score_columns, score_table, settings_of
from experiments.study import Study
from experiments.sweep import rate_by_threshold
from experiments.tables import SIGNED, Artefact, Table, counts, size
from experiments.tuning import at_the_edge, best, means, scores

XI = "method.threshold"


class Setting(NamedTuple):
    """What a study varies.

    Attributes:
        heads: column of its runs -> its head in tables.
        words: what the caption says first.
        table: the paper's table on it.
        axis: the column of its curve and what stands there; none for words.
    """

    title: str
    heads: Mapping[str, str]
    words: str = ""
    table: str = ""
    axis: tuple[str, str] | None = None


XI_WORDS = "The threshold of SoRA's proximal step; a larger one leaves fewer ranks."
LAMBDA_WORDS = "The weight of the L1 term in SoRA's loss, which the paper's table calls η_t."
MATRICES_WORDS = (
    "The paper tuned λ so that all rows keep about as many parameters; here every other setting is the same in all "
    "rows, so compare scores together with live parameters."
)
BY_METHOD = {"method": "method"}
LIVE = "live", "live parameters"
SETTINGS = {
    "learning_rate": Setting(
        "Learning rates",
        BY_METHOD | {RATE: "learning rate"},
        axis=(RATE, "peak learning rate"),
    ),
    "rank_budget": Setting("Rank budget: score by r and ξ (Table 2)", BY_METHOD | {"method.r": "r"}, "", "2", LIVE),
    "threshold": Setting("Threshold ξ (Table 6)", {XI: "ξ"}, XI_WORDS, "6", (XI, "ξ")),
    "penalty": Setting("Penalty λ (Table 7)", {"method.penalty": "λ"}, LAMBDA_WORDS, "7", ("method.penalty", "λ")),
    "modules": Setting("Which matrices (Table 3)", {"matrices adapted": "matrices"}, MATRICES_WORDS, "3"),
}
TITLE = {name: setting.title for name, setting in SETTINGS.items()}
SUFFIXES = {"query": "Q", "key": "K", "value": "V", "attention.output.dense": "A.O"}
SUFFIXES |= {"intermediate.dense": "FF.W1", "output.dense": "FF.W2"}
PRINTED = {"Q, K": "query,key", "Q, K, V": "query,key,value", "Q, K, V, A.O": "query,key,value,attention.output"}
EDGE, SINGLE = "at the edge of the grid", "one rate tried"


def build(study: Study) -> list[Artefact | None]:
    """Scores, the best rates or sizes side by side, a curve, published numbers, details."""
    setting = SETTINGS[study.name]
    heads = dict(setting.heads)
    if study.name == "rank_budget" and "arm" in study.runs and XI in study.runs:
        heads[XI] = "ξ"  # LoRA's ranks and SoRA's thresholds, both on the axis of live parameters
    study.runs["matrices adapted"] = study.runs["method.targets"].map(matrices)
    runs = chosen(study, *heads)
    found = cells(study, runs, *heads)
    if "method" not in found:
        found["method"] = next(iter(study.values("method")), "sora")
    first = found[found["label"].isin(study.first_labels)]
    return [
        _best(first, runs) if study.name == "learning_rate" else None,
        score_table(study, study.name, f"Scores by {', '.join(heads.values())}", found, heads, setting.words),
        iso_table(first, heads) if study.name == "rank_budget" else None,
        _curve(first, setting.axis) if setting.axis else None,
        published_table(study, found, heads, [("sora", setting.table)], _printed(found, setting))
        if heads == setting.heads
        else None,
        detail_table(study, found, heads, draws(study, runs)) if study.name != "learning_rate" else None,
        *(rate_by_threshold(study) if study.name in ("learning_rate", "threshold") else []),
    ]


def matrices(targets: Any) -> str:
    """``(query, key)`` of any architecture as ``Q, K``; all six for none."""
    patterns = [targets] if isinstance(targets, str) else targets if isinstance(targets, tuple) else ()
    bare = [str(pattern).removeprefix("*.").removesuffix("*").removesuffix("_proj") for pattern in patterns]
    return ", ".join(SUFFIXES.get(each, each) for each in bare) or "all six"


def _printed(found: pd.DataFrame, setting: Setting) -> pd.Series:
    """Of each row the key of its published numbers."""
    key = list(setting.heads)[-1]
    if setting.axis is None:
        return found[key].map(lambda words: f"method.targets={PRINTED.get(words, 'all')}")
    return found[key].map(lambda value: f"{key}={value:g}")


def _curve(found: pd.DataFrame, axis: tuple[str, str]) -> Artefact | None:
    """The scores over the values that have a logarithm."""
    name = {"live": "live_parameters", RATE: "learning_rate"}.get(axis[0], axis[0].removeprefix("method."))
    shown = found[found["mean"].notna() & (pd.to_numeric(found[axis[0]]) > 0)]
    caption = "Report split, selected weights: mean over seeds, band: one population SD."
    if (pd.to_numeric(found.loc[found["mean"].notna(), axis[0]]) <= 0).any():
        caption += f" Not drawn: {axis[1]} = 0, which has no place on a logarithmic axis."
    about = f"score_by_{name}", f"Score by {name.replace('_', ' ')}", caption
    return curves(about, shown, axis, ticks=axis[0] != "live")


# -- the best learning rates -------------------------------------------------------------------------------------


def _best(found: pd.DataFrame, runs: pd.DataFrame) -> Table:
    rows = []
    for (method, task, label), part in found.groupby(["method", "task", "label"], sort=False):
        whole = part.loc[part["n"] == part["of"], RATE]
        row: dict[str, object] = {"method": METHODS.get(str(method), method), "metric": label}
        row |= {"learning rates": len(whole), "learning rates of": len(part)}
        tried = scores(runs[(runs["method"] == method) & (runs["task"] == task) & runs[RATE].isin(whole)], RATE)
        if tried and math.isfinite(select := means(tried)[rate := best(tried)]):  # as scripts/tune.py chooses
            cell = part[part[RATE] == rate]
            row |= {"best": rate, "select": select, **score_columns(cell, "report").iloc[0].to_dict()}
            alike = runs.loc[runs["task"] == task, "task.select_metric"].dropna().isin([cell["metric"].iloc[0]]).all()
            row["select - report"] = select - cell["mean"].iloc[0] if alike else math.nan
            row["remark"] = SINGLE if len(whole) == 1 else EDGE if at_the_edge(rate, whole) else ""
        rows.append(row)
    grids = found.groupby("method")[RATE].agg(lambda rates: tuple(sorted(set(rates))))
    same = "All methods have the same grid." if grids.nunique() == 1 else "The methods do not have the same grid."
    caption = (
        "The learning rate with the best mean on the select split, by the metric that chooses weights there, of those "
        "with most seeds, and its score on the report split (points, mean ± population SD over seeds). Select - "
        "report: the difference of the two, with the optimism of the choice; none where they are of two metrics. "
        "Learning rates: those of which every seed was run, of those planned; another study of the same task may have "
        f"tried more.{f' {same}' if len(grids) > 1 else ''}"
    )
    formats = {"best": "{:g}", "select - report": SIGNED}
    return Table("best", "Best learning rate of each method", caption, pd.DataFrame(rows), formats)


# -- at the same number of live parameters -----------------------------------------------------------------------


def iso_table(found: pd.DataFrame, heads: Mapping[str, str]) -> Table | None:
    """Each setting of SoRA next to LoRA at as many live parameters; None without a pair."""
    lora = {label: part for label, part in found[found["method"] == "lora"].groupby("label", sort=False)}
    others = found[(found["method"] != "lora") & found["label"].isin(lora)].reset_index(drop=True)
    there = [at_live(live, lora[label]) for live, label in zip(others["live"], others["label"], strict=True)]
    between = [around(live, lora[label]) for live, label in zip(others["live"], others["label"], strict=True)]
    others = others.assign(there=there, between=between).dropna(subset=["mean", "there"]).reset_index(drop=True)
    if others.empty:
        return None
    data = settings_of(others, heads).assign(metric=others["label"])
    data["live parameters"], data["score"] = counts(others["live"]), others["mean"]
    data["LoRA there"], data["difference"] = others["there"], others["mean"] - others["there"]
    data["between LoRA's"] = others["between"]
    caption = (
        "LoRA's score between the two of its ranks that are nearest in size and were run, linear in the logarithm of "
        "live parameters: the farther these ranks are apart, the less it is known. No row where a setting lies outside "
        "LoRA's ranks."
    )
    formats = {"live parameters": size, "difference": SIGNED, **dict.fromkeys(heads.values(), "{:g}")}
    return Table("iso_parameter", "At the same number of live parameters", caption, data, formats)


def at_live(live: float, curve: pd.DataFrame) -> float:
    """The ``mean`` at ``live`` parameters on a curve, linear in the logarithm of ``live``; NaN outside it."""
    points = _points(curve)
    if not live > 0 or len(points) < 2:
        return math.nan
    return float(np.interp(math.log(live), np.log(points["live"]), points["mean"], left=math.nan, right=math.nan))


def around(live: float, curve: pd.DataFrame) -> str:
    """The ranks of the curve between which ``live`` lies, as ``r = 2 and r = 8``; of one that is met that one."""
    points = _points(curve)
    ends = points[points["live"] <= live].iloc[-1:], points[points["live"] >= live].iloc[:1]
    return " and ".join(dict.fromkeys(f"r = {rank:g}" for end in ends for rank in end["method.r"]))


def _points(curve: pd.DataFrame) -> pd.DataFrame:
    """What a curve of scores over live parameters goes through, by size."""
    return curve[(curve["live"] > 0) & curve["mean"].notna()].sort_values("live")
