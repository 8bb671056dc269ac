"""Studies that vary one setting of SoRA, the paper's Tables 3, 6 and 7: a row for each value, a curve over numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure as Canvas

from experiments.draws import draws
from experiments.figures import COLOURS, WIDTH, log_scale, panels, short
from experiments.scores import cells, chosen, detail_table, published_table, score_table
from experiments.study import Study
from experiments.sweep import rate_by_threshold
from experiments.tables import Artefact, Figure


@dataclass(frozen=True)
class Setting:
    """A column of a study's runs, its head in tables, the paper's table on it, and what the caption says first."""

    title: str
    column: str
    head: str
    table: str
    words: str


XI_WORDS = "The threshold of SoRA's proximal step; a larger one leaves fewer ranks."
LAMBDA_WORDS = "The weight of the L1 term in SoRA's loss, which the paper's table calls η_t."
MATRICES_WORDS = (
    "The paper tuned λ so that all rows keep about as many parameters; here every other setting is the same in all "
    "rows, so compare scores together with live parameters."
)
SETTINGS = {  # study -> what it varies
    "threshold": Setting("Threshold ξ (Table 6)", "method.threshold", "ξ", "6", XI_WORDS),
    "penalty": Setting("Penalty λ (Table 7)", "method.penalty", "λ", "7", LAMBDA_WORDS),
    "modules": Setting("Which matrices (Table 3)", "matrices adapted", "matrices", "3", MATRICES_WORDS),
}
SUFFIXES = {"query": "Q", "key": "K", "value": "V", "attention.output.dense": "A.O"}
SUFFIXES |= {"intermediate.dense": "FF.W1", "output.dense": "FF.W2"}
PRINTED = {"Q, K": "query,key", "Q, K, V": "query,key,value", "Q, K, V, A.O": "query,key,value,attention.output"}


def build(study: Study) -> list[Artefact | None]:
    """Scores, a curve over numbers, published numbers, details."""
    setting = SETTINGS[study.name]
    numbers, column = study.name != "modules", setting.column
    study.runs["matrices adapted"] = study.runs["method.targets"].map(matrices)
    runs = chosen(study, column)
    found, heads = cells(study, runs, column), {column: setting.head}
    found["method"] = next(iter(study.values("method")), "sora")
    keys = found[column].map(lambda v: f"{column}={v:g}" if numbers else f"method.targets={PRINTED.get(v, 'all')}")
    return [
        score_table(study, study.name, f"Scores by {setting.head}", found, heads, setting.words),
        _curve(study, found, setting) if numbers else None,
        published_table(study, found, heads, [("sora", setting.table)], keys),
        detail_table(study, found, heads, draws(study, runs)),
        *(rate_by_threshold(study) if study.name == "threshold" else []),
    ]


def matrices(targets: Any) -> str:
    """``(query, key)`` of any architecture as ``Q, K``; all six for none."""
    patterns = [targets] if isinstance(targets, str) else targets if isinstance(targets, tuple) else ()
    bare = [str(pattern).removeprefix("*.").removesuffix("*").removesuffix("_proj") for pattern in patterns]
    return ", ".join(SUFFIXES.get(each, each) for each in bare) or "all six"


def _curve(study: Study, found: pd.DataFrame, setting: Setting) -> Figure | None:
    """Score and live parameters over the values, one panel a task; None for values that have no logarithm."""
    labels = study.first_labels
    shown = found[found["label"].isin(labels) & found["mean"].notna()].sort_values(setting.column)
    labels = [label for label in labels if (shown["label"] == label).any()]
    if not labels or not (pd.to_numeric(shown[setting.column]) > 0).all():
        return None

    def draw(canvas: Canvas) -> None:
        pairs = panels(canvas, [title for label in labels for title in (f"{label} (points)", "live parameters")], 2)
        for label, left, right in zip(labels, pairs[::2], pairs[1::2], strict=True):
            part = shown[shown["label"] == label]
            x, live = list(part[setting.column]), part["live"].round(1)
            y, sd = part["mean"].round(3), part["sd"].round(3)
            left.plot(x, y, color=COLOURS[0], marker="o")
            left.fill_between(x, y - sd, y + sd, color=COLOURS[0], alpha=0.15, linewidth=0)
            right.plot(x, live, color=COLOURS[1], marker="s")
            right.set_ylim(0, live.max() * 1.1 if live.max() > 0 else 1)
            right.yaxis.set_major_formatter(lambda value, _: short(value))
            for each in (left, right):
                log_scale(each, x)
                each.set_xlabel(setting.head)

    caption = "Left: mean score over seeds, band: one population SD. Right: mean live parameters."
    title = f"Score and live parameters by {setting.head}"
    return Figure(f"score_by_{study.name}", title, caption, draw, (WIDTH * 2 / 3, 2.1 * len(labels)), True)
