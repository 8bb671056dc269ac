"""The paper's Table 2: LoRA and SoRA from r = 1 to 16, and both at the same number of live parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from experiments.draws import draws
from experiments.figures import curves
from experiments.scores import cells, chosen, detail_table, published_table, score_table, settings_of
from experiments.study import Study
from experiments.tables import SIGNED, Artefact, Table, counts, size

TITLE = "Rank budget: r from 1 to 16 (Table 2)"
HEADS = {"method": "method", "method.r": "r"}
ABOUT = "score_by_live_parameters", "Score by live parameters", "Mean over seeds at each r, band: one population SD."
FORMATS = {"live parameters": size, "difference": SIGNED, "r": "{:g}", "ξ": "{:g}"}
XI = "method.threshold"


def build(study: Study) -> list[Artefact | None]:
    """Scores, the iso-parameter view, curves, published numbers, details."""
    # Where LoRA's ranks and SoRA's thresholds are arms of one study, both lie on the axis of live parameters.
    heads = HEADS | ({XI: "ξ"} if "arm" in study.runs and XI in study.runs else {})
    runs = chosen(study, *heads)
    found = cells(study, runs, *heads)
    first = found[found["label"].isin(study.first_labels)]
    settings = found["method.r"].map(lambda r: f"method.r={r:g}")
    return [
        score_table(study, "rank_budget", "Scores by rank", found, heads),
        iso_table(first, heads),
        curves(ABOUT, first[first["mean"].notna() & (first["live"] > 0)], ("live", "live parameters")),
        published_table(study, found, HEADS, [("sora", "2")], settings) if heads == HEADS else None,
        detail_table(study, found, heads, draws(study, runs)),
    ]


def iso_table(found: pd.DataFrame, heads: Mapping[str, str] = HEADS) -> Table | None:
    """Each setting of SoRA beside LoRA at as many live parameters; None without a pair."""
    lora = {label: part for label, part in found[found["method"] == "lora"].groupby("label", sort=False)}
    others = found[(found["method"] != "lora") & found["label"].isin(lora)].reset_index(drop=True)
    there = [at_live(live, lora[label]) for live, label in zip(others["live"], others["label"], strict=True)]
    others = others.assign(there=there).dropna(subset=["mean", "there"]).reset_index(drop=True)
    if others.empty:
        return None
    data = settings_of(others, heads).assign(metric=others["label"])
    data["live parameters"], data["score"] = counts(others["live"]), others["mean"]
    data["LoRA there"], data["difference"] = others["there"], others["mean"] - others["there"]
    caption = (
        "LoRA's score between its two nearest ranks, linear in the logarithm of live parameters; no row where a "
        "setting lies outside LoRA's ranks."
    )
    return Table("iso_parameter", "At the same number of live parameters", caption, data, FORMATS)


def at_live(live: float, curve: pd.DataFrame) -> float:
    """The ``mean`` at ``live`` parameters on a curve, linear in the logarithm of ``live``; NaN outside it."""
    points = curve[(curve["live"] > 0) & curve["mean"].notna()].sort_values("live")
    if not live > 0 or len(points) < 2:
        return math.nan
    return float(np.interp(math.log(live), np.log(points["live"]), points["mean"], left=math.nan, right=math.nan))
