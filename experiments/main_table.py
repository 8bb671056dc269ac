"""The paper's Table 1: every method on every task, compared with LoRA and with fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from experiments import arms
from experiments.comparisons import comparison_table, sides
from experiments.draws import Draws, draws
from experiments.labels import CONSTANT, METHODS
from experiments.learning_curves import learning_curves
from experiments.scores import cells, chosen, detail_table, published_table, score_table, settings_of
from experiments.stats import t_interval
from experiments.study import Study
from experiments.tables import Artefact, Table

TITLE = "Main table: all methods on all tasks (Table 1)"
SOURCES = (("sora", "1"), ("adalora", "1"))
BASELINES = ("lora", "full")
HEADS = {"method": "method"}


def build(study: Study) -> list[Artefact | None]:
    """Scores, comparisons, learning curves, published numbers, details; of arms, their own tables."""
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
        *learning_curves(study, runs),
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


# -- what a score is worth: the points of one constant answer ----------------------------------------------------


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
    row = {table.data.columns[0]: CONSTANT, **points}
    row["average"] = float(np.mean([np.mean([points.get(label, np.nan) for label in each]) for each in labels]))
    data = table.data.reindex([-1, *table.data.index]).reset_index(drop=True)
    for name, value in row.items():
        data.loc[0, name] = value
    words = "one class for every item, the one that scores best on the report split, which no run is told."
    notes = [f"{CONSTANT}: {words}"]
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
