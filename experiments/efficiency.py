"""The paper's Table 4: seconds per epoch, from runs that were trained alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from experiments.artefacts import EMPTY, Artefact, Cell, Table, number, text
from experiments.captions import caption
from experiments.columns import method_label, task_label
from experiments.groups import Group, params_cell
from experiments.items import paired
from experiments.published import NAMES, seconds_per_epoch
from experiments.study import Definition, Record, Run, Study, commands
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
        cells = [text(task_label(task)), *(_time_cell(groups.get((method, task))) for method in methods)]
        if compared:
            cells.append(_paired_change(groups.get((PAIR[1], task)), groups.get((PAIR[0], task))))
        theirs = [published.get((task, method), math.nan) for method in PAIR]
        rows.append([*cells, *(number(value, 1) for value in theirs), _change(*theirs)])
    return Table(
        name="efficiency",
        title="Seconds per epoch",
        caption=caption(
            study,
            "Seconds of training steps, without evaluation, divided by the epochs trained: an extrapolation where that "
            "is less than one. Mean ± population SD over seeds; change: mean over seeds of each seed's own.",
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
        memory = [r["memory"]["peak_bytes"] for r in alone if _allocated(r)]
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
            "Examples a second while training. Peak memory: highest allocation of a GPU; none is told of a CPU, where "
            "the process alone is known, whose earlier runs raise it.",
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


def slower(a: Run, b: Run) -> float:
    """Percent of time that an epoch of ``a`` takes more than one of ``b``; NaN where a time is not a whole run's."""
    if a.record is None or b.record is None or a.record["pack"]["size"] + b.record["pack"]["size"] > 2:
        return math.nan  # a pack's time is not a run's
    if "diverged" in (a.record["status"], b.record["status"]):
        return math.nan
    return 100.0 * (seconds(a.record) / seconds(b.record) - 1)


def _paired_change(a: Group | None, b: Group | None) -> Cell:
    """The mean of :func:`slower` over the seeds that both have."""
    pairs = zip(*paired(a, b), strict=True) if a is not None and b is not None else ()
    values = [value for pair in pairs if not math.isnan(value := slower(*pair))]
    return Cell(f"{stats.mean(values):+.1f} %", round(stats.mean(values), 6)) if values else Cell(EMPTY)


def _allocated(record: Record) -> bool:
    """Whether the peak is what a GPU allocated for this run, instead of what a process ever had."""
    return record["memory"]["peak_bytes"] is not None and not record["provenance"]["device"].startswith("cpu")


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
