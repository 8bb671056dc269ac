"""Studies that vary one setting of one method: a row for each value, a curve where the value is a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure as Canvas

from experiments.artefacts import Artefact, Cell, Figure
from experiments.captions import caption
from experiments.columns import columns
from experiments.figures import COLOURS, log_scale, panels, tiling
from experiments.lines import Line, detail_table, every_group, lines, published_table, score_table, tasks
from experiments.main_table import resampled
from experiments.study import Study
from sora import stats


def varied(
    study: Study,
    axis: str,
    head: str,
    source: tuple[str, str],
    label: Callable[[Any], Cell],
    setting: Callable[[Any], str],
    *words: str,
) -> list[Artefact]:
    """Scores, a curve over numbers, published numbers, details.

    Args:
        axis: the setting, such as ``method.threshold``. head: its column.
        source: (source, table) of published numbers on the same setting.
        label: the cell of a value. setting: its key in results/published.
        words: sentences at the head of the caption.
    """
    rows = []
    for (value,), groups in lines(study, axis).items():
        method = next((str(study.value(run, "method")) for group in groups.values() for run in group.runs), "sora")
        rows.append(Line((label(value),), method, setting(value), groups))
    items = resampled(study, rows)
    found = [
        score_table(study, study.name, f"Scores by {head}", [head], rows, *words),
        _curve(study, rows, head),
        published_table(study, "published", [head], rows, [source]),
        detail_table(study, "details", [head], rows, items),
    ]
    return [artefact for artefact in found if artefact is not None]


def number_label(value: Any) -> Cell:
    """``5e-05`` as ``5e-05``, sorted as the number it is."""
    return Cell(f"{float(value):g}", float(value))


def _curve(study: Study, rows: Sequence[Line], head: str) -> Figure | None:
    """Score and live parameters over the values, one panel a task; None for words, or without a score."""
    values = [row.labels[0].value for row in rows]
    if not all(isinstance(value, int | float) and value > 0 for value in values):
        return None
    curves = {}
    for task in tasks(study):
        column = columns(study, task)[0]
        points = []
        for row in rows:
            scores = row.groups[task].scores(column) if task in row.groups else []
            if scores:
                live = row.groups[task].live()
                points.append((float(str(row.labels[0].value)), stats.mean(scores), stats.population_sd(scores), live))
        if points:
            curves[column] = sorted(points)
    if not curves:
        return None

    def draw(canvas: Canvas) -> None:
        for column, axis in zip(curves, panels(canvas, [c.label for c in curves], 3), strict=True):
            x, y, sd, live = (list(each) for each in zip(*curves[column], strict=True))
            y, sd = [round(each, 3) for each in y], [round(each, 3) for each in sd]
            axis.plot(x, y, color=COLOURS[0], marker="o")
            low, high = ([m + s * d for m, d in zip(y, sd, strict=True)] for s in (-1, 1))
            axis.fill_between(x, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
            log_scale(axis, x)
            axis.set_xlabel(head)
            axis.set_ylabel("score (points)", color=COLOURS[0])
            second = axis.twinx()
            second.plot(x, [round(each, 1) for each in live], color=COLOURS[1], marker="s", linestyle="--")
            second.set_ylabel("live parameters", color=COLOURS[1])
            second.set_ylim(0, max(live) * 1.1 if not math.isnan(max(live)) and max(live) > 0 else 1)
            second.grid(visible=False)
            second.spines["right"].set_visible(True)

    wide, high = tiling(len(curves), 3)
    return Figure(
        name=f"score_by_{study.name}",
        title=f"Score and live parameters by {head}",
        caption=caption(
            study,
            "Circles: mean score over seeds, band: one population SD (left). Squares: live parameters (right).",
            groups=every_group(rows),
        ),
        draw=draw,
        size=(3.4 * wide, 2.5 * high),
    )
