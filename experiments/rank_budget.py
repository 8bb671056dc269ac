"""The paper's Table 2: LoRA and SoRA from r = 1 to 16, and both at the same number of live parameters."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from experiments.draws import draws
from experiments.figures import legend_below, line, log_scale, panels, tiling
from experiments.labels import METHODS
from experiments.scores import cells, chosen, detail_table, published_table, score_table, settings_of
from experiments.study import Study
from experiments.tables import SIGNED, Artefact, Figure, Table, counts, size

TITLE = "Rank budget: r from 1 to 16 (Table 2)"
HEADS = {"method": "method", "method.r": "r"}
FORMATS = {"live parameters": size, "difference": SIGNED, "r": "{:g}"}


def build(study: Study) -> list[Artefact | None]:
    """Scores, the iso-parameter view, curves, published numbers, details."""
    runs = chosen(study, *HEADS)
    found = cells(study, runs, *HEADS)
    first = found[found["label"].isin([study.columns(task)[0].label for task in study.tasks])]
    settings = found["method.r"].map(lambda r: f"method.r={r:g}")
    return [
        score_table(study, "rank_budget", "Scores by rank", found, HEADS),
        iso_table(first),
        _figure(first[first["mean"].notna() & (first["live"] > 0)]),
        published_table(study, found, HEADS, [("sora", "2")], settings),
        detail_table(study, found, HEADS, draws(study, runs)),
    ]


def iso_table(found: pd.DataFrame) -> Table | None:
    """Each setting of SoRA beside LoRA at as many live parameters; None without a pair."""
    curves = {label: part for label, part in found[found["method"] == "lora"].groupby("label", sort=False)}
    others = found[(found["method"] != "lora") & found["label"].isin(curves)].reset_index(drop=True)
    there = [at_live(live, curves[label]) for live, label in zip(others["live"], others["label"], strict=True)]
    others = others.assign(there=there).dropna(subset=["mean", "there"]).reset_index(drop=True)
    if others.empty:
        return None
    data = settings_of(others, HEADS).assign(metric=others["label"])
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


def _figure(found: pd.DataFrame) -> Figure | None:
    labels = list(found["label"].unique())
    if not labels:
        return None

    def draw(canvas: Canvas) -> None:
        for label, axis in zip(labels, panels(canvas, labels), strict=True):
            for method, part in found[found["label"] == label].groupby("method", sort=False):
                part, style = part.sort_values("live"), line(method)
                x, y, sd = part["live"].round(1), part["mean"].round(3), part["sd"].round(3)
                axis.plot(x, y, label=METHODS.get(str(method), method), **style)
                axis.fill_between(x, y - sd, y + sd, color=style["color"], alpha=0.15, linewidth=0)
            log_scale(axis)
            axis.set_xlabel("live parameters")
            axis.set_ylabel("score (points)")
        legend_below(canvas)

    wide, high = tiling(len(labels))
    names = " and ".join(METHODS.get(method, method) for method in found["method"].unique())
    caption = f"Mean over seeds, band: one population SD; {names} at each r."
    size = (max(4.6, 2.3 * wide), 2.1 * high + 0.5)
    return Figure("score_by_live_parameters", "Score by live parameters", caption, draw, size)
