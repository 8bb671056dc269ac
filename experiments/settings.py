"""Studies that vary one setting of one method: a row for each value, a curve where the value is a number."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure as Canvas

from experiments.draws import draws
from experiments.figures import COLOURS, WIDTH, log_scale, panels, short
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
        pairs = panels(canvas, [title for label in labels for title in (f"{label} (points)", "live parameters")], 2)
        for label, left, right in zip(labels, pairs[::2], pairs[1::2], strict=True):
            part = shown[shown["label"] == label]
            x, y, sd, live = list(part[axis]), part["mean"].round(3), part["sd"].round(3), part["live"].round(1)
            left.plot(x, y, color=COLOURS[0], marker="o")
            left.fill_between(x, y - sd, y + sd, color=COLOURS[0], alpha=0.15, linewidth=0)
            right.plot(x, live, color=COLOURS[1], marker="s")
            right.set_ylim(0, live.max() * 1.1 if live.max() > 0 else 1)
            right.yaxis.set_major_formatter(lambda value, _: short(value))
            for each in (left, right):
                log_scale(each, x)
                each.set_xlabel(head)

    caption = "Left: mean score over seeds, band: one population SD. Right: mean live parameters."
    title = f"Score and live parameters by {head}"
    return Figure(f"score_by_{study.name}", title, caption, draw, (WIDTH * 2 / 3, 2.1 * len(labels)))
