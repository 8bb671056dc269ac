"""The paper's Table 2: LoRA and SoRA from r = 1 to 16, and both at the same number of live parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from matplotlib.figure import Figure as Canvas

from experiments.artefacts import Artefact, Cell, Figure, Table, number, text
from experiments.captions import caption
from experiments.columns import Column, columns, method_label
from experiments.figures import legend_below, line, log_scale, panels, tiling
from experiments.groups import params_cell
from experiments.lines import Line, detail_table, every_group, lines, published_table, score_table, tasks
from experiments.main_table import resampled
from experiments.study import Definition, Study
from sora import stats

SOURCES = (("sora", "2"),)
HEADS = ("method", "r")


def build(study: Study) -> list[Artefact]:
    """Scores, the iso-parameter view, curves, published numbers, details."""
    rows = [
        Line((text(method_label(str(method))), Cell(str(r), float(str(r)))), str(method), f"method.r={r}", groups)
        for (method, r), groups in lines(study, "method", "method.r").items()
    ]
    items = resampled(study, rows)
    found = [
        score_table(study, "rank_budget", "Scores by rank", HEADS, rows),
        iso_table(study, rows),
        _figure(study, rows),
        published_table(study, "published", HEADS, rows, SOURCES),
        detail_table(study, "details", HEADS, rows, items),
    ]
    return [artefact for artefact in found if artefact is not None]


def iso_table(study: Study, rows: Sequence[Line]) -> Table | None:
    """Each setting of SoRA beside LoRA at as many live parameters; None without a pair."""
    baseline = [row for row in rows if row.method == "lora"]
    cells = []
    for row in rows:
        for task in tasks(study):
            if row.method == "lora" or task not in row.groups:
                continue
            column = columns(study, task)[0]
            live, mean = row.groups[task].live(), row.groups[task].mean(column)
            curve = [(o.groups[task].live(), o.groups[task].mean(column)) for o in baseline if task in o.groups]
            other = at_live(live, curve)
            if not math.isnan(mean) and not math.isnan(other):
                labels = [*row.labels, text(column.label), params_cell(live)]
                cells.append([*labels, number(mean), number(other), number(mean - other, sign=True)])
    if not cells:
        return None
    return Table(
        name="iso_parameter",
        title="At the same number of live parameters",
        caption=caption(
            study,
            "LoRA's score between its two nearest ranks, linear in the logarithm of live parameters; no row where a "
            "setting lies outside LoRA's ranks.",
            groups=every_group(rows),
        ),
        columns=[*HEADS, "metric", "live parameters", "score", "LoRA there", "difference"],
        rows=cells,
    )


def at_live(live: float, curve: Sequence[tuple[float, float]]) -> float:
    """The score at ``live`` parameters on a curve of (parameters, score); NaN outside it.

    Linear in the logarithm of the parameters between neighbours.
    """
    points = sorted((math.log(x), y) for x, y in curve if x > 0 and not math.isnan(y))
    if not live > 0:
        return math.nan
    x = math.log(live)
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= x <= x1 and x1 > x0:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return math.nan


def _figure(study: Study, rows: Sequence[Line]) -> Figure | None:
    methods = list(dict.fromkeys(row.method for row in rows))
    curves: dict[tuple[Column, str], list[tuple[float, float, float]]] = {}
    for task in tasks(study):
        column = columns(study, task)[0]
        for row in rows:
            scores = row.groups[task].scores(column) if task in row.groups else []
            if scores and row.groups[task].live() > 0:
                point = (row.groups[task].live(), stats.mean(scores), stats.population_sd(scores))
                curves.setdefault((column, row.method), []).append(point)
    shown = list(dict.fromkeys(column for column, _ in curves))
    if not shown:
        return None

    def draw(canvas: Canvas) -> None:
        axes = dict(zip(shown, panels(canvas, [column.label for column in shown]), strict=True))
        for (column, method), points in curves.items():
            x, y, sd = zip(*sorted((round(a, 1), round(b, 3), round(c, 3)) for a, b, c in points), strict=True)
            style = line(method)
            axes[column].plot(x, y, label=method_label(method), **style)
            low, high = ([m + s * d for m, d in zip(y, sd, strict=True)] for s in (-1, 1))
            axes[column].fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        for axis in axes.values():
            log_scale(axis)
            axis.set_xlabel("live parameters")
            axis.set_ylabel("score (points)")
        legend_below(canvas)

    wide, high = tiling(len(shown))
    return Figure(
        name="score_by_live_parameters",
        title="Score by live parameters",
        caption=caption(
            study,
            f"Mean over seeds, band: one population SD; {' and '.join(map(method_label, methods))} at each r.",
            groups=every_group(rows),
        ),
        draw=draw,
        size=(max(4.6, 2.3 * wide), 2.1 * high + 0.5),
    )


STUDY = Definition("rank_budget", "Rank budget: r from 1 to 16 (Table 2)", build)
