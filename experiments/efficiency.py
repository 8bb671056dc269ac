"""The paper's Table 4: seconds per epoch, from runs that were trained alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from experiments.artefacts import EMPTY, Artefact, Cell, Table, number, text
from experiments.captions import caption
from experiments.columns import method_label, task_label
from experiments.groups import Group, params_cell
from experiments.published import NAMES, seconds_per_epoch
from experiments.study import Definition, Record, Study, commands
from sora import stats

PAIR = ("adalora", "sora")  # what the paper compares


def build(study: Study) -> list[Artefact]:
    """Seconds per epoch beside the paper's, and what else was measured."""
    groups = {key: Group(tuple(runs)) for key, runs in study.groups("method", "task").items()}
    packed = [run for run in study.runs if run.record is not None and run.record["pack"]["size"] > 1]
    notes = []
    if packed:
        notes.append(f"{len(packed)} runs were trained in a pack; their times are their pack's and are left out here.")
    if diverged := sum(run.record is not None and run.record["status"] == "diverged" for run in study.runs):
        notes.append(f"{diverged} runs diverged and trained no further; their times are left out here.")
    devices = sorted({_device(run.record) for run in study.runs if run.record is not None})
    if len(devices) > 1:
        notes.append("The runs were not all made on one device, so times of different cells cannot be compared.")
    words = f"Measured on: {'; '.join(devices)}." if devices else ""
    return [_seconds(study, groups, words, notes), _costs(study, groups, words, notes)]


def _seconds(study: Study, groups: dict[tuple[object, ...], Group], words: str, notes: Sequence[str]) -> Table:
    methods = list(dict.fromkeys(str(method) for method, _ in groups))
    compared = all(method in methods for method in PAIR)
    published = seconds_per_epoch()
    rows = []
    for task in dict.fromkeys(str(task) for _, task in groups):
        means = {method: _mean(groups.get((method, task))) for method in methods}
        cells = [text(task_label(task)), *(_time_cell(groups.get((method, task))) for method in methods)]
        if compared:
            cells.append(_change(means[PAIR[0]], means[PAIR[1]]))
        theirs = [published.get((task, method), math.nan) for method in PAIR]
        rows.append([*cells, *(number(value, 1) for value in theirs), _change(*theirs)])
    return Table(
        name="efficiency",
        title="Seconds per epoch",
        caption=caption(
            study,
            "Training steps alone, without evaluation; mean ± population SD over seeds.",
            words,
            "The paper's times are of an RTX 3090, batch size 32.",
        ),
        columns=[
            "task",
            *map(method_label, methods),
            *(["SoRA to AdaLoRA"] if compared else []),
            *(f"{NAMES['sora']}, {method_label(method)}" for method in PAIR),
            f"{NAMES['sora']}, SoRA to AdaLoRA",
        ],
        rows=rows,
        notes=notes,
    )


def _costs(study: Study, groups: dict[tuple[object, ...], Group], words: str, notes: Sequence[str]) -> Table:
    rows = []
    for (method, task), group in groups.items():
        alone = _alone(group)
        speed = [r["throughput"]["examples_per_s"] for r in alone if r["throughput"]["examples_per_s"] is not None]
        memory = [r["memory"]["peak_bytes"] for r in alone if r["memory"]["peak_bytes"] is not None]
        rows.append(
            [
                text(method_label(str(method))),
                text(task_label(str(task))),
                Cell(group.coverage, len(group.records), {"of": len(group.runs)}, commands(group.runs)),
                number(stats.mean(speed) if speed else None, 1),
                number(stats.mean(memory) / 2**30 if memory else None),
                params_cell(group.live()),
            ]
        )
    return Table(
        name="cost",
        title="Speed and memory",
        caption=caption(
            study,
            "Examples a second while training; highest allocation of a GPU, or resident set of the process on a CPU.",
            words,
        ),
        columns=["method", "task", "runs", "examples/s", "peak memory (GiB)", "live parameters"],
        rows=rows,
        notes=notes,
    )


def _alone(group: Group) -> list[Record]:
    """The records whose times are those of one whole run: a pack's are not, nor those of a run that diverged."""
    return [record for record in group.records if record["pack"]["size"] == 1 and record["status"] == "ok"]


def seconds(record: Record) -> float:
    """Seconds of training per pass over the training examples; NaN where nothing was trained."""
    epochs = record["history"][-1]["epoch"] if record["history"] else 0
    return float(record["time"]["train_s"]) / epochs if epochs else math.nan


def _mean(group: Group | None) -> float:
    values = [] if group is None else [seconds(record) for record in _alone(group)]
    return stats.mean(values) if values else math.nan


def _time_cell(group: Group | None) -> Cell:
    if group is None:
        return Cell(EMPTY)
    values = [seconds(record) for record in _alone(group)]
    if not values:
        return Cell(group.coverage, None, {"sd": None}, commands(group.runs))
    words = f"{stats.mean(values):.1f} ± {stats.population_sd(values):.1f}"
    if not group.complete:
        words += f" ({group.coverage})"
    extra = {"sd": round(stats.population_sd(values), 6)}
    return Cell(words, round(stats.mean(values), 6), extra, commands(group.runs))


def _change(before: float, after: float) -> Cell:
    if math.isnan(before) or math.isnan(after) or not before:
        return Cell(EMPTY)
    change = 100 * (after / before - 1)
    return Cell(f"{change:+.1f} %", round(change, 6))


def _device(record: Record | None) -> str:
    assert record is not None
    threads = record["provenance"]["threads"]
    return f"{record['provenance']['device']}, {threads} CPU {'thread' if threads == 1 else 'threads'}"


STUDY = Definition("efficiency", "Efficiency: seconds per epoch (Table 4)", build)
