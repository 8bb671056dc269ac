"""Runs with a sparsity schedule: memorization and generalization in percent of the dense model, level by level.

As the paper defines them (Section 4.3): the task's metric on the fixed subset of the training examples (memorization)
and on validation examples (generalization), each divided by its value at level 0, times 100. Of the validation examples
those of the report split are taken: they chose no checkpoint. The authors' code takes the half that did; under the
protocol holdout that would be a part of the training file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.artefacts import Cell
from experiments.figures import COLOURS, LINES, MARKERS
from experiments.study import SEED_AXES, Record, Run, Study, commands
from sora import stats

SHARES = {"memorization": "train_subset", "generalization": "report"}  # -> split
SENTENCE = (
    "Memorization: the metric on up to 1,000 training examples, seen yet or not; generalization: on the report split; "
    "both in percent of the dense model, the weights selected before the first level."
)
LAYER = re.compile(r"\.layer\.(\d+)\.")


Seeds = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Point:
    """One level of one run. ``percent``: memorization and generalization, NaN where the dense value is not above 0.

    ``thirds``: live share, 0 to 1, of the ranks in the lower, middle and upper third of the layers.
    """

    level: int
    threshold: float
    sparsity: float | None
    live: int
    percent: dict[str, float]
    report: float  # in points
    thirds: tuple[float, float, float]


@dataclass(frozen=True)
class Curve:
    """The runs of one schedule on one task. ``seeds``: the run's seeds -> its levels, where it has any."""

    name: str
    task: str
    runs: tuple[Run, ...]
    seeds: dict[Seeds, tuple[Point, ...]]

    def cell(self) -> Cell:
        """``2/3 [1 diverged]``: runs with levels, of those the manifest names, and why others have none."""
        told = f"{len(self.seeds)}/{len(self.runs)}" + (f" [{words}]" if (words := _remarks(self.runs)) else "")
        return Cell(told, len(self.seeds), {"of": len(self.runs)}, commands(self.runs))

    def levels(self) -> Iterator[tuple[int, list[Point]]]:
        """Each level with its points, one per seed that reached it."""
        every = [point for points in self.seeds.values() for point in points]
        for level in sorted({point.level for point in every}):
            yield level, [point for point in every if point.level == level]

    def dense(self) -> float:
        """Live parameters of the dense model, the mean over seeds; NaN without a run."""
        return stats.mean([points[0].live for points in self.seeds.values()]) if self.seeds else math.nan


def metric_of(record: Record) -> str:
    """The metric that is put in percent: the one that selects the task's checkpoints."""
    return str(record["config"]["task"]["select_metric"])


def points(record: Record) -> tuple[Point, ...]:
    """The levels of a record."""
    metric, found = metric_of(record), []
    entries = record["level_results"]
    rank = record["config"]["method"].get("r", 0)
    for entry in entries:
        percent = {
            name: _percent(entry[split].get(metric), entries[0][split].get(metric)) for name, split in SHARES.items()
        }
        report = entry["report"].get(metric)
        found.append(
            Point(
                entry["level"],
                _number(entry["threshold"]),
                entry.get("sparsity"),
                entry["live"],
                percent,
                math.nan if report is None else 100.0 * report,
                thirds(entry["ranks"], rank),
            )
        )
    return tuple(found)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _percent(value: float | None, dense: float | None) -> float:
    if value is None or dense is None or dense <= 0:
        return math.nan
    return 100.0 * value / dense


def thirds(ranks: dict[str, int], rank: int) -> tuple[float, float, float]:
    """Live share of the ranks in the lower, middle and upper third of the layers, out of ``rank`` per matrix.

    Of L layers the lower third is those below L / 3, the upper one those from 2 L / 3 on.
    """
    layers: dict[int, list[int]] = {}
    for name, live in ranks.items():
        if found := LAYER.search(f".{name}"):
            layers.setdefault(int(found[1]), []).append(live)
    parts: list[list[int]] = [[], [], []]
    for position, layer in enumerate(sorted(layers)):
        parts[min(2, 3 * position // len(layers))] += layers[layer]
    low, middle, high = (sum(part) / (len(part) * rank) if part and rank else math.nan for part in parts)
    return low, middle, high


def curves(study: Study, name: Callable[[Run], str]) -> list[Curve]:
    """One curve per task and ``name`` (of a run), tasks first, in the order of the sweep.

    A run that ended well and has no levels is no run of this study: it is noted as a problem.
    """
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in study.runs:
        grouped.setdefault((str(study.value(run, "task")), name(run)), []).append(run)
    tasks = list(dict.fromkeys(task for task, _ in grouped))
    result = []
    for (task, label), runs in sorted(grouped.items(), key=lambda item: tasks.index(item[0][0])):
        seeds: dict[Seeds, tuple[Point, ...]] = {}
        for run in runs:
            if run.record is None:
                continue
            if run.record["level_results"]:
                seeds[tuple((axis, run.axes.get(axis)) for axis in SEED_AXES)] = points(run.record)
            elif run.record["status"] == "ok":
                study.problems.append(f"run {run.run_id} has no levels; {study.name} is about runs with a schedule")
        result.append(Curve(label, task, tuple(runs), seeds))
    return result


def varied(study: Study, run: Run, *without: str) -> str:
    """The run's values on the axes that vary, but for ``without`` and its seeds: ``method.r 4``; empty where none."""
    told = [(key, value) for key, value in study.setting(run, *without) if len(study.axes[key]) > 1]
    return ", ".join(str(value) if key == "schedule" else f"{key} {value}" for key, value in told)


def interpolated(live: Sequence[float], values: Sequence[float], wanted: float) -> float:
    """The value at ``wanted`` live parameters, linear in log(1 + live) between levels; NaN where fewer than any live.

    Levels with equal counts count once, at their mean. Beyond the largest count its value holds.
    """
    logs, heights = np.log1p(live), np.asarray(values, dtype=float)
    places = np.unique(logs)
    means = [float(heights[logs == place].mean()) for place in places]
    return float(np.interp(math.log1p(wanted), places, means, left=math.nan))


def _remarks(runs: Sequence[Run]) -> str:
    diverged = sum(run.record is not None and run.record["status"] == "diverged" for run in runs)
    told = [f"{diverged} diverged"] if diverged else []
    for reason in dict.fromkeys(run.reason for run in runs if run.record is None):
        told.append(f"{sum(run.reason == reason for run in runs if run.record is None)} {reason}")
    return ", ".join(told)


# -- drawing ---------------------------------------------------------------------------------------------------


def draw_curve(axis: Axes, curve: Curve, share: str, label: str, style: int) -> None:
    """A curve on an axis of live parameters: every seed thin, the mean of each level thick, one SD as a band.

    ``share``: a key of ``SHARES``; ``style``: which colour, marker and line.
    """
    style %= len(COLOURS)
    colour = COLOURS[style]
    for seed in curve.seeds.values():
        shown = [(point.live, round(point.percent[share], 3)) for point in seed if not math.isnan(point.percent[share])]
        axis.plot([live for live, _ in shown], [value for _, value in shown], color=colour, linewidth=0.6, alpha=0.45)
    rows: list[tuple[float, ...]] = []
    for _, at_level in curve.levels():
        values = [point.percent[share] for point in at_level if not math.isnan(point.percent[share])]
        if values:
            mean, sd = stats.mean(values), stats.population_sd(values)
            rows.append((round(stats.mean([p.live for p in at_level]), 1), mean, mean - sd, mean + sd))
    if not rows:
        return
    places, means, low, high = ([round(value, 3) for value in column] for column in zip(*rows, strict=True))
    axis.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    look: dict[str, Any] = {"color": colour, "marker": MARKERS[style], "linestyle": LINES[style]}
    size = 4.5 if style else 7.0  # so that both markers show where two curves are equal
    axis.plot(places, means, markersize=size, label=label, **look)


def scale(axis: Axes, drawn: Sequence[Curve]) -> None:
    """Live parameters on a log scale that has room for 0, percent up to a little above the dense model."""
    live = [point.live for curve in drawn for points in curve.seeds.values() for point in points]
    smallest = min((value for value in live if value > 0), default=1)
    if live and min(live) == 0:
        axis.set_xscale("symlog", linthresh=smallest, linscale=1.0)
        first, last = math.ceil(math.log10(smallest)), math.floor(math.log10(max(*live, 1)))
        axis.set_xticks([0, *(10.0**power for power in range(first, last + 1))])  # none between 0 and the first count
    else:
        axis.set_xscale("log")
    axis.axhline(100, color="#888888", linewidth=0.8, zorder=1)
    axis.set_xlabel("live parameters")
