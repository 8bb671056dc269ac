"""What a score is worth: the points of one constant answer, and which cells are not shown to pass them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from experiments.draws import Draws
from experiments.scores import settings_of
from experiments.stats import t_interval
from experiments.study import Study
from experiments.tables import Table

NAME = "Constant answer"


def beside_constant_answer(
    study: Study, table: Table, found: pd.DataFrame, heads: Mapping[str, str], drawn: Mapping[str, Draws]
) -> Table:
    """The score table headed by the constant answer, with a note on the cells that are not shown to be better.

    As it is where no number has classes and items (a regression, several items of one question, no logits).
    """
    points = {label: each.constant for label, each in drawn.items() if not np.isnan(each.constant)}
    if not points:
        return table
    labels = [[column.label for column in study.columns(task)] for task in study.tasks]
    row = {table.data.columns[0]: NAME, **points}
    row["average"] = float(np.mean([np.mean([points.get(label, np.nan) for label in each]) for each in labels]))
    data = table.data.reindex([-1, *table.data.index]).reset_index(drop=True)
    for name, value in row.items():
        data.loc[0, name] = value
    notes = [f"{NAME}: one class for every item, the one that scores best on the report split, which no run is told."]
    names = settings_of(found, heads).astype(str).agg(" ".join, axis=1)
    doubtful = names[[_may_be_constant(cell, drawn) for _, cell in found.iterrows()]]
    if listed := [f"{label}: {', '.join(part)}" for label in drawn if len(part := doubtful[found["label"] == label])]:
        notes.append(
            "Not shown to be better than that, as the bootstrap interval (seeds and items) or the t interval (seeds) "
            f"of the difference does not lie above 0 (95 %, uncorrected): {'; '.join(listed)}."
        )
    return replace(table, data=data, notes=[*table.notes, " ".join(notes)])


def _may_be_constant(cell: pd.Series, drawn: Mapping[str, Draws]) -> bool:
    """Whether no interval shows the cell to be better than the constant answer; not where it has no score."""
    each = drawn.get(cell["label"])
    if each is None or np.isnan(each.constant) or not cell["points"]:
        return False
    lows = [each.above_constant(cell["run_ids"]).low, t_interval(cell["points"]).low - each.constant]
    known = [low for low in lows if not np.isnan(low)]
    return not known or min(known) <= 0
