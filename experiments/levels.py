"""Runs with a sparsity schedule: memorization and generalization in percent of the dense model, level by level.

As the paper defines them (Section 4.3): the task's metric on the fixed subset of the training examples (memorization)
and on validation examples (generalization), each divided by its value at level 0, times 100. Of the validation examples
those of the report split are taken: they chose no checkpoint. The authors' code takes the half that did; under the
protocol holdout that would be a part of the training file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from experiments.figures import COLOURS, LINES, MARKERS, WIDTH, legend_below, panels, tiling
from experiments.labels import TASKS
from experiments.stats import sd
from experiments.study import SEEDS, Study
from experiments.tables import Figure
from sora.runs.dataframe import points

SHARES = {"memorization": "train_subset", "generalization": "report"}  # -> split
THIRDS = ("lower", "middle", "upper")
SENTENCE = (
    "Memorization: the metric on up to 1,000 training examples, seen yet or not; generalization: on the report "
    "split; both in percent of the dense model, the weights selected before the first level."
)
LAYER = re.compile(r"\.layer\.(\d+)\.")
COLUMNS = ["task", "name", "run_id", "seeds", "level", "threshold", "live", "dense", "metric", "report"]
COLUMNS += [*SHARES, *THIRDS]


def levels(study: Study, names: pd.Series) -> pd.DataFrame:
    """One row for each level of each run.

    ``names``: of each run, what its curve is called. Columns: task, name, run_id, seeds, level, threshold, live, dense
    (live parameters at level 0), metric, memorization, generalization (percent; NaN where the dense value is not above
    0), report (points), and lower, middle, upper: live share in percent of the ranks in these thirds of the layers.
    """
    rows = []
    for index, run in study.done.iterrows():
        record = study.records[run["run_id"]]
        entries, metric = record["level_results"], record["config"]["task"]["select_metric"]
        if not entries and record["status"] == "ok":
            study.problems.append(f"run {run['run_id']} has no levels; {study.name} is about runs with a schedule")
        about = {"task": run["task"], "name": names[index], "run_id": run["run_id"], "seeds": tuple(run[SEEDS])}
        for entry in entries:
            row = about | {key: entry[key] for key in ("level", "threshold", "live")}
            row |= {"dense": entries[0]["live"], "metric": metric, "report": points(entry["report"].get(metric))}
            for share, split in SHARES.items():
                row[share] = percent(entry[split].get(metric), entries[0][split].get(metric))
            rank = record["config"]["method"].get("r", 0)
            rows.append(row | dict(zip(THIRDS, thirds(entry["ranks"], rank), strict=True)))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"threshold": float})


def percent(value: float | None, dense: float | None) -> float:
    """``value`` in percent of ``dense``; NaN where one is missing or ``dense`` is not above 0."""
    return math.nan if value is None or dense is None or dense <= 0 else 100.0 * value / dense


def thirds(ranks: Mapping[str, int], rank: int) -> tuple[float, float, float]:
    """Live share in percent of the ranks in the lower, middle and upper third of the layers, of ``rank`` a matrix.

    Of L layers the lower third is those below L / 3, the upper one those from 2 L / 3 on.
    """
    layers = [(int(found[1]), live) for name, live in ranks.items() if (found := LAYER.search(f".{name}"))]
    order = sorted({layer for layer, _ in layers})
    parts: list[list[int]] = [[], [], []]
    for layer, live in layers:
        parts[min(2, 3 * order.index(layer) // len(order))].append(live)
    low, middle, high = (100 * sum(part) / (len(part) * rank) if part and rank else math.nan for part in parts)
    return low, middle, high


def curves(study: Study, names: pd.Series, found: pd.DataFrame) -> pd.DataFrame:
    """One row for each task and name, tasks first: ``runs`` with levels, ``runs of`` all, ``dense``, a ``title``."""
    runs = study.runs.assign(name=names, levelled=study.runs["run_id"].isin(found["run_id"]))
    counts = {"runs": ("levelled", "sum"), "runs of": ("levelled", "size")}
    dense = found[found["level"] == 0].groupby(["task", "name"])["live"].mean().rename("dense")
    table = runs.groupby(["task", "name"], sort=False).agg(**counts).join(dense).reset_index()
    table = table.sort_values("task", key=lambda tasks: tasks.map(study.tasks.index), kind="stable", ignore_index=True)
    labels = zip(table["task"].map(lambda task: TASKS.get(task, task)), table["name"], strict=True)
    return table.assign(title=[", ".join(filter(None, each)) for each in labels])


def varied(study: Study, *without: str) -> pd.Series:
    """Each run's values on the axes that vary, but for ``without`` and its seeds: ``method.r 4``; empty where none."""
    axes = study.varied(*without)
    parts = [study.runs[axis].map(lambda v, a=axis: str(v) if a == "schedule" else f"{a} {v}") for axis in axes]
    words = [", ".join(row) for row in zip(*parts, strict=True)] if parts else ""
    return pd.Series(words, study.runs.index, dtype=object)


def interpolated(live: Iterable[float], values: Iterable[float], wanted: float) -> float:
    """The value at ``wanted`` live parameters, linear in log(1 + live) between levels; NaN where fewer than any live.

    Levels with equal counts count once, at their mean. Beyond the largest count its value holds.
    """
    by_live = pd.Series(np.asarray(values, dtype=float)).groupby(np.log1p(np.asarray(live, dtype=float)))
    means = by_live.agg(lambda x: x.mean(skipna=False))
    return float(np.interp(math.log1p(wanted), means.index, means, left=math.nan)) if len(means) else math.nan


# -- drawing ---------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A curve of a figure: its levels, a key of ``SHARES``, its name in the legend, its colour, marker and dashes."""

    levels: pd.DataFrame
    share: str
    label: str
    style: int


def figure(
    about: tuple[str, str, str], lines: Mapping[str, Sequence[Line]], ylabel: str, columns: int = 6, room: float = 0.5
) -> Figure | None:
    """A panel for each title, a curve for each of its lines, over live parameters; None without a level.

    ``about``: name, title and what the caption says first. ``columns``, ``room``: of the legend, in inches.
    """
    lines = {title: each for title, each in lines.items() if any(len(line.levels) for line in each)}
    if not lines:
        return None

    def draw(canvas: Canvas) -> None:
        for each, axis in zip(lines.values(), panels(canvas, list(lines)), strict=True):
            for line in each:
                _draw_line(axis, line)
            _scale(axis, pd.concat([line.levels["live"] for line in each]))
            axis.set_ylabel(ylabel)
        legend_below(canvas, columns)

    wide, high = tiling(len(lines))
    return Figure(*about, draw, (max(4.6, WIDTH / 3 * wide), 2.6 * high + room), True)


def _draw_line(axis: Axes, line: Line) -> None:
    """Every seed thin, the mean of each level thick, one SD as a band."""
    style = line.style % len(COLOURS)
    colour = COLOURS[style]
    known = line.levels.dropna(subset=line.share)
    for _, part in known.groupby("run_id", sort=False):
        axis.plot(part["live"], part[line.share].round(3), color=colour, linewidth=0.6, alpha=0.45)
    if known.empty:
        return
    mean, spread = known.groupby("level")[line.share].mean(), known.groupby("level")[line.share].agg(sd)
    live = line.levels.groupby("level")["live"].mean().reindex(mean.index).round(1)
    axis.fill_between(live, (mean - spread).round(3), (mean + spread).round(3), color=colour, alpha=0.15, linewidth=0)
    size = 4.5 if style else 7.0  # so that both markers show where two curves are equal
    look: Any = {"color": colour, "marker": MARKERS[style], "linestyle": LINES[style]}
    axis.plot(live, mean.round(3), markersize=size, label=line.label, **look)


def _scale(axis: Axes, live: pd.Series) -> None:
    """Live parameters on a log scale that has room for 0."""
    if live.min() == 0:
        smallest = min(live[live > 0], default=1)
        axis.set_xscale("symlog", linthresh=smallest, linscale=1.0)
        first, last = math.ceil(math.log10(smallest)), math.floor(math.log10(max(live.max(), 1)))
        axis.set_xticks([0, *(10.0**power for power in range(first, last + 1))])  # none between 0 and the first count
    else:
        axis.set_xscale("log")
    axis.axhline(100, color="#888888", linewidth=0.8, zorder=1)
    axis.set_xlabel("live parameters")
