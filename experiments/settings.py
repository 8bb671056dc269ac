"""Studies that vary one setting of one method: a row for each value, a curve where the value is a number."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure as Canvas

from experiments.draws import draws
from experiments.figures import COLOURS, log_scale, panels, tiling
from experiments.scores import cells, chosen, detail_table, published_table, score_table
from experiments.study import Study
from experiments.tables import Artefact, Figure


def varied(
    study: Study, axis: str, head: str, table: str, setting: Mapping[str, str] | None, words: str
) -> list[Artefact | None]:
    """Scores, a curve over numbers, published numbers, details.

    Args:
        axis: the column of the setting, such as ``method.threshold``. head: its head in tables.
        table: of the SoRA paper, on the same setting.
        setting: value -> its key in results/published; None: ``<axis>=<value>``.
        words: a sentence at the head of the caption.
    """
    runs = chosen(study, axis)
    found, heads = cells(study, runs, axis), {axis: head}
    found["method"] = next(iter(study.values("method")), "sora")
    keys = found[axis].map(lambda value: f"{axis}={value:g}") if setting is None else found[axis].map(setting)
    return [
        score_table(study, study.name, f"Scores by {head}", found, heads, words),
        _curve(study, found, axis, head) if setting is None else None,
        published_table(study, found, heads, [("sora", table)], keys),
        detail_table(study, found, heads, draws(study, runs)),
    ]


def _curve(study: Study, found: pd.DataFrame, axis: str, head: str) -> Figure | None:
    """Score and live parameters over the values, one panel a task; None for values that have no logarithm."""
    labels = [study.columns(task)[0].label for task in study.tasks]
    shown = found[found["label"].isin(labels) & found["mean"].notna()].sort_values(axis)
    labels = [label for label in labels if (shown["label"] == label).any()]
    if not labels or not (pd.to_numeric(shown[axis]) > 0).all():
        return None

    def draw(canvas: Canvas) -> None:
        for label, left in zip(labels, panels(canvas, labels, 3), strict=True):
            part = shown[shown["label"] == label]
            x, y, sd, live = list(part[axis]), part["mean"].round(3), part["sd"].round(3), part["live"].round(1)
            left.plot(x, y, color=COLOURS[0], marker="o")
            left.fill_between(x, y - sd, y + sd, color=COLOURS[0], alpha=0.15, linewidth=0)
            log_scale(left, x)
            left.set_xlabel(head)
            left.set_ylabel("score (points)", color=COLOURS[0])
            right = left.twinx()
            right.plot(x, live, color=COLOURS[1], marker="s", linestyle="--")
            right.set_ylabel("live parameters", color=COLOURS[1])
            right.set_ylim(0, live.max() * 1.1 if live.max() > 0 else 1)
            right.grid(visible=False)
            right.spines["right"].set_visible(True)

    wide, high = tiling(len(labels), 3)
    caption = "Circles: mean score over seeds, band: one population SD (left). Squares: live parameters (right)."
    title = f"Score and live parameters by {head}"
    return Figure(f"score_by_{study.name}", title, caption, draw, (3.4 * wide, 2.5 * high))
