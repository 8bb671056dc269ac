"""The paper's Table 1: every method on every task, compared with LoRA and with fine-tuning."""

from __future__ import annotations

import pandas as pd

from experiments import arms
from experiments.comparisons import comparison_table, sides
from experiments.constant_answer import beside_constant_answer
from experiments.draws import draws
from experiments.labels import METHODS
from experiments.learning_curves import learning_curves
from experiments.scores import (
    cells,
    chosen,
    detail_table,
    published_table,
    score_table,
)
from experiments.study import Study
from experiments.tables import Artefact

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
