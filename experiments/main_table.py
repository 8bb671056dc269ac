"""The paper's Table 1: every method on every task, compared with LoRA and with fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure as Canvas

from experiments import arms
from experiments.comparisons import comparison_table, sides
from experiments.constant_answer import beside_constant_answer
from experiments.draws import Draws, draws
from experiments.figures import legend_below, log_scale, look, panels, tiling
from experiments.labels import METHODS
from experiments.scores import (
    cells,
    chosen,
    detail_table,
    intervals,
    published_table,
    score_table,
)
from experiments.study import Study
from experiments.tables import Artefact, Figure

TITLE = "Main table: all methods on all tasks (Table 1)"
SOURCES = (("sora", "1"), ("adalora", "1"))
BASELINES = ("lora", "full")
HEADS = {"method": "method"}


def build(study: Study) -> list[Artefact | None]:
    """Scores, comparisons, score against live parameters, published numbers, details; of arms, their own tables."""
    if "arm" in study.runs:
        return arms.build(study)
    runs = chosen(study, "method")
    found, drawn = cells(study, runs, "method"), draws(study, runs)
    every = {str(method): side for method, side in sides(study, runs, "method").items()}
    families = [
        (METHODS[base], every[base], {METHODS.get(m, m): side for m, side in every.items() if m != base})
        for base in BASELINES
        if base in every
    ]
    scores = score_table(study, "main_table", "Scores", found, HEADS)
    return [
        beside_constant_answer(study, scores, found, HEADS, drawn),
        comparison_table(study, families, drawn),
        _figure(study, found, drawn),
        published_table(study, found, HEADS, SOURCES, _settings(study, found)),
        detail_table(study, found, HEADS, drawn),
    ]


def _settings(study: Study, found: pd.DataFrame) -> pd.Series:
    """The setting whose published numbers belong beside a method: its rank, where it has one."""
    ranks = study.runs.groupby("method")["method.r"].unique() if "method.r" in study.runs else {}

    def setting(method: str) -> str | None:
        known = [rank for rank in ranks.get(method, []) if pd.notna(rank)]
        one = f"method.r={known[0]:g}" if len(known) == 1 else "method.r=8"
        return one if method in ("lora", "adalora", "sora") else None

    return found["method"].map(setting)


def _figure(study: Study, found: pd.DataFrame, drawn: Mapping[str, Draws]) -> Figure | None:
    """Score against live parameters, one panel per task; None without a score."""
    ends = intervals(found, drawn)
    low = ends["bootstrap interval"].fillna(ends["t interval"]).fillna(found["mean"])
    high = ends["bootstrap interval high"].fillna(ends["t interval high"]).fillna(found["mean"])
    first = [study.columns(task)[0].label for task in study.tasks]
    shown = found.assign(below=(found["mean"] - low).clip(0), above=(high - found["mean"]).clip(0))
    shown = shown[found["mean"].notna() & found["label"].isin(first)]
    labels = [label for label in first if (shown["label"] == label).any()]
    if not labels:
        return None

    def draw(canvas: Canvas) -> None:
        for label, axis in zip(labels, panels(canvas, labels), strict=True):
            for _, cell in (
                shown[shown["label"] == label].round({"live": 1, "mean": 3, "below": 3, "above": 3}).iterrows()
            ):
                name = METHODS.get(cell["method"], cell["method"])
                ends = [[cell["below"]], [cell["above"]]]
                axis.errorbar(
                    [cell["live"]],
                    [cell["mean"]],
                    yerr=ends,
                    linestyle="none",
                    capsize=2,
                    label=name,
                    **look(cell["method"]),
                )
            axis.margins(x=0.25)
            log_scale(axis)
            axis.set_xlabel("live parameters")
            axis.set_ylabel("score (points)")
        legend_below(canvas)

    wide, high_ = tiling(len(labels))
    caption = (
        "Mean over seeds; bars: 95 % bootstrap over seeds and items, or t over seeds where a metric has no items. Live "
        "parameters on a log scale, without the head."
    )
    size = (max(4.6, 2.3 * wide), 2.1 * high_ + 0.5)
    return Figure("score_against_live_parameters", "Score against live parameters", caption, draw, size)
