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

LABEL = "Commonest class"


def beside_one_class(study: Study, table: Table, rows: Sequence[Line], items: dict[Column, ItemScores]) -> Table:
    """The score table of ``rows``, headed by the constant answer, with a note on the cells that may be no better.

    As it is where no column has classes and items (a regression, several items of one question, no logits).
    """
    wide = [column for task in tasks(study) for column in columns(study, task)]
    points = [
        found.one_class.score if (found := items.get(column)) is not None and found.one_class is not None else None
        for column in wide
    ]
    if all(each is None for each in points):
        return table
    average = None
    if None not in points:
        by_task = [[value for value, c in zip(points, wide, strict=True) if c.task == task] for task in tasks(study)]
        average = stats.mean([stats.mean([value for value in values if value is not None]) for values in by_task])
    blank = [Cell(EMPTY)] * (len(rows[0].labels) - 1)
    row = [text(LABEL), *blank, Cell(EMPTY), *(number(each) for each in points), number(average)]
    told = [
        f"{LABEL}: always answers the class that is commonest among the report split's labels, which no run is told."
    ]
    if doubtful := _not_above(rows, items):
        told.append(
            "Not shown to be better than that, as the bootstrap interval (95 %, seeds and items, uncorrected) of the "
            f"difference does not lie above 0: {'; '.join(doubtful)}."
        )
    return replace(table, rows=[row, *table.rows], notes=[*table.notes, " ".join(told)])


def _not_above(rows: Sequence[Line], items: dict[Column, ItemScores]) -> list[str]:
    """``RTE acc.: BitFit, LoRA`` for each column with such cells."""
    told = []
    for column, scores in items.items():
        names = [
            row.name
            for row in rows
            if (group := row.groups.get(column.task)) is not None
            and (margin := scores.above_one_class(group)) is not None
            and margin.low <= 0
        ]
        if names:
            told.append(f"{column.label}: {', '.join(names)}")
    return told
