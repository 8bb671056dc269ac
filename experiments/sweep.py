"""A sweep without a study of its own: every setting with its scores, nothing compared, nothing refused."""

from __future__ import annotations

from typing import Any

from experiments.artefacts import EMPTY, Artefact, Cell, Table, text
from experiments.captions import caption
from experiments.columns import columns, method_label, task_label
from experiments.groups import Group, params_cell, score_cell
from experiments.study import REFUSABLE, SEED_AXES, Definition, Study

LABELS = {"method": method_label, "task": task_label}


def build(study: Study) -> list[Artefact]:
    """One row per setting; seeds are repetitions. Tasks with several metrics have a row for each."""
    axes = [axis for axis in study.axes if axis not in SEED_AXES]
    groups = {key: Group(tuple(runs)) for key, runs in study.groups(*axes).items()}
    rows = []
    for key, group in groups.items():
        task = str(study.value(group.runs[0], "task"))
        for column in columns(study, task):
            settings = [_setting(axis, value) for axis, value in zip(axes, key, strict=True)]
            scores = [score_cell(group, column), score_cell(group, column, "last")]
            rows.append([*settings, text(column.label), *scores, params_cell(group.live())])
    table = Table(
        name="scores",
        title="Scores of the sweep",
        caption=caption(study, "Mean ± population SD over seeds, in points.", groups=groups.values()),
        columns=[*axes, "metric", "selected weights", "last weights", "live parameters"],
        rows=rows,
    )
    return [table]


def _setting(axis: str, value: Any) -> Cell:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Cell(f"{value:g}", value)
    if isinstance(value, tuple):
        return text(", ".join(map(str, value)))
    return text(EMPTY if value is None else LABELS.get(axis, str)(value))


STUDY = Definition("sweep", "Sweep", build, frozenset(REFUSABLE))
