"""SoRA as the released code has it, as the paper prints it, and each difference alone (conf/fidelity)."""

from __future__ import annotations

import pandas as pd

from experiments.comparisons import comparison_table, sides
from experiments.draws import draws
from experiments.labels import in_words
from experiments.scores import cells, chosen, detail_table, score_table
from experiments.study import REFUSABLE, Study
from experiments.tables import Artefact, Table, size

TITLE = "SoRA as its paper prints it and as its code has it"
ACCEPTS = frozenset(REFUSABLE)
BASE = "authors"  # the setting that all others are compared with
AXES = {"fidelity": "reading", "method.fidelity": "reading", "head": "head"}


def build(study: Study) -> list[Artefact | None]:
    """Scores, dead ranks and sizes, each setting against the released code with the same head, details."""
    keys = [axis for axis in AXES if axis in study.axes] or ["method"]
    heads = {axis: AXES.get(axis, axis) for axis in keys}
    runs = chosen(study, *keys)
    runs["setting"] = runs[keys].astype(str).agg(" ".join, axis=1)
    found, drawn = cells(study, runs, *keys), draws(study, runs)
    every = {str(name): side for name, side in sides(study, runs, "setting").items()}
    families = [
        (
            name,
            side,
            {other: each for other, each in every.items() if other != name and other.split()[1:] == name.split()[1:]},
        )
        for name, side in every.items()
        if name.split()[0] == BASE
    ]
    return [
        score_table(study, "fidelity", "Scores by reading", found, heads),
        *([_changes(runs)] if "fidelity" in keys else []),
        comparison_table(study, families, drawn),
        detail_table(study, found, heads, drawn),
    ]


def _changes(runs: pd.DataFrame) -> Table:
    """What each setting leaves: dead ranks, and sizes by both counts."""
    dead = 100 * (1 - pd.to_numeric(runs["ranks"]) / (runs["method.r"] * runs["matrices"]))
    found = runs.assign(dead=dead).groupby(["setting", "task"], sort=False)
    data = found.agg(
        **{"runs": ("done", "sum"), "runs of": ("done", "size"), "dead ranks, %": ("dead", "mean")},
        **{"live weights": ("params.live", "mean"), "by the code's formula": ("params.authors_formula", "mean")},
    )
    caption = (
        "Means over seeds. The code's formula deducts 2 x hidden for a dead rank, whatever its matrix' shape "
        "(src/util.py); a rank of a feed-forward matrix has more."
    )
    formats = {"live weights": size, "by the code's formula": size, "dead ranks, %": "{:.1f}"}
    data = data.reset_index()
    data["task"] = data["task"].map(in_words)
    return Table("changes", "What each leaves", caption, data, formats)
