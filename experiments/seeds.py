"""What a seed is made of: every initialisation with every order of the training examples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.artefacts import EMPTY, Artefact, Cell, Figure, Table, number, text
from experiments.captions import caption
from experiments.columns import Column, columns, method_label
from experiments.figures import panels, tiling
from experiments.groups import Group, score
from experiments.study import Definition, Run, Study, commands
from sora import stats
from sora.stats import Floats

INIT, DATA = "seeds.init", "seeds.data"


def build(study: Study) -> list[Artefact]:
    """Parts of the variance, and the grids."""
    groups = {key: Group(tuple(runs)) for key, runs in study.groups("method", "task").items()}
    figure = _figure(study, groups)
    return [_table(study, groups), *([figure] if figure is not None else [])]


def layout(study: Study, runs: Sequence[Run], column: Column) -> tuple[list[object], list[object], Floats]:
    """Initialisations, data orders, and the scores [init, data] in points; NaN where there is none."""
    inits = list(dict.fromkeys(study.value(run, INIT) for run in runs))
    orders = list(dict.fromkeys(study.value(run, DATA) for run in runs))
    scores = np.full((len(inits), len(orders)), math.nan)
    for run in runs:
        value = None if run.record is None else score(run.record, column)
        if value is not None:
            scores[inits.index(study.value(run, INIT)), orders.index(study.value(run, DATA))] = value
    return inits, orders, scores


def _table(study: Study, groups: dict[tuple[object, ...], Group]) -> Table:
    rows = []
    for (method, task), group in groups.items():
        column = columns(study, str(task))[0]
        _, _, scores = layout(study, group.runs, column)
        known = scores[~np.isnan(scores)]
        rows.append(
            [
                text(method_label(str(method))),
                text(column.label),
                Cell(group.coverage, len(group.records), {"of": len(group.runs)}, commands(group.runs)),
                number(float(known.mean()) if known.size else None),
                number(stats.population_sd(known) if known.size else None),
                *_parts(scores),
            ]
        )
    return Table(
        name="seeds",
        title="Parts of the variance",
        caption=caption(
            study,
            "Points. SD of all runs (population), and SDs of the effect of the initialisation, of the order of the "
            "data, and of the rest (their interaction and what dropout does), from a two-way analysis of variance; an "
            "estimate below zero is printed as zero. p: F test against the rest. Empty until a grid is complete.",
        ),
        columns=["method", "metric", "runs", "mean", "SD", "SD init", "p init", "SD data", "p data", "SD rest"],
        rows=rows,
    )


def _parts(scores: Floats) -> list[Cell]:
    if np.isnan(scores).any() or min(scores.shape) < 2:
        return [Cell(EMPTY)] * 5
    init, data, rest = stats.two_way(scores)
    found = []
    for part in (init, data):
        found += [number(math.sqrt(part.variance)), number(part.p, 4)]
    return [*found, number(math.sqrt(rest))]


def _figure(study: Study, groups: dict[tuple[object, ...], Group]) -> Figure | None:
    grids = {}
    for (method, task), group in groups.items():
        column = columns(study, str(task))[0]
        inits, orders, scores = layout(study, group.runs, column)
        if not np.isnan(scores).all():
            grids[f"{method_label(str(method))}, {column.label}"] = inits, orders, scores
    if not grids:
        return None

    def draw(canvas: Canvas) -> None:
        for axis, (inits, orders, scores) in zip(panels(canvas, list(grids)), grids.values(), strict=True):
            image = axis.imshow(np.round(scores, 3), cmap="cividis", aspect="auto")
            axis.set_xticks(range(len(orders)), [str(order) for order in orders])
            axis.set_yticks(range(len(inits)), [str(init) for init in inits])
            axis.set_xlabel(DATA)
            axis.set_ylabel(INIT)
            axis.grid(visible=False)
            middle = (np.nanmin(scores) + np.nanmax(scores)) / 2
            for (row, column), value in np.ndenumerate(scores):
                if not np.isnan(value):
                    ink = "white" if value < middle else "black"
                    axis.text(column, row, f"{value:.1f}", ha="center", va="center", color=ink, fontsize=6.5)
            canvas.colorbar(image, ax=axis, label="score (points)")

    wide, high = tiling(len(grids))
    return Figure(
        name="score_by_init_and_data",
        title="Score by initialisation and order of the data",
        caption=caption(study, "Score on the report split of each run, points."),
        draw=draw,
        size=(3.1 * wide, 2.5 * high),
    )


STUDY = Definition("seeds", "Seeds: initialisation and order of the data apart", build)
