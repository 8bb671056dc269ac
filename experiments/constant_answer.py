"""What a score is worth: the points of one constant answer, and which cells are not shown to pass them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from experiments.artefacts import EMPTY, Cell, Table, number, text
from experiments.columns import Column, columns
from experiments.items import ItemScores
from experiments.lines import Line, tasks
from experiments.study import Study
from sora import stats

LABEL = "Constant answer"


def beside_constant_answer(study: Study, table: Table, rows: Sequence[Line], items: dict[Column, ItemScores]) -> Table:
    """The score table of ``rows``, headed by the constant answer, with a note on the cells that may be no better.

    As it is where no column has classes and items (a regression, several items of one question, no logits).
    """
    points = {column: each.constant.score for column, each in items.items() if each.constant is not None}
    if not points:
        return table
    wide = {task: columns(study, task) for task in tasks(study)}
    average = None
    if all(column in points for found in wide.values() for column in found):
        average = stats.mean([stats.mean([points[column] for column in found]) for found in wide.values()])
    blank = [Cell(EMPTY)] * (len(rows[0].labels) - 1)
    scores = [number(points.get(column)) for found in wide.values() for column in found]
    told = [f"{LABEL}: one class for every item, the one that scores best on the report split, which no run is told."]
    if doubtful := _not_above(rows, items):
        told.append(
            "Not shown to be better than that, as the bootstrap interval (seeds and items) or the t interval (seeds) "
            f"of the difference does not lie above 0 (95 %, uncorrected): {'; '.join(doubtful)}."
        )
    row = [text(LABEL), *blank, Cell(EMPTY), *scores, number(average)]
    return replace(table, rows=[row, *table.rows], notes=[*table.notes, " ".join(told)])


def _not_above(rows: Sequence[Line], items: dict[Column, ItemScores]) -> list[str]:
    """``RTE acc.: BitFit, LoRA`` for each column with such cells."""
    told = []
    for column, scores in items.items():
        names = []
        for row in rows:
            group = row.groups.get(column.task)
            if group is None or scores.constant is None or not group.scores(column):
                continue
            drawn, over_seeds = scores.above_constant(group), stats.t_interval(group.scores(column))
            lows = [each.low - level for each, level in ((drawn, 0.0), (over_seeds, scores.constant.score)) if each]
            if not lows or min(lows) <= 0:  # no interval shows nothing
                names.append(row.name)
        if names:
            told.append(f"{column.label}: {', '.join(names)}")
    return told
