"""How runs went: score, loss and live ranks by step, and the magnitudes of SoRA's gates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from experiments.figures import WIDTH, first_of_row, legend_below, line, panels, short
from experiments.labels import METHODS, in_words
from experiments.stats import sd
from experiments.study import Study
from experiments.tables import Figure
from sora import runs as results

LOOK: Any = {"cmap": "Blues", "aspect": "auto", "origin": "lower"}
CAPTION = "Mean over seeds, band: one SD. Score: select split. Loss: training, mean since the last evaluation."
BOUNDS = [f"1/{2**power}" for power in range(8, 0, -1)] + ["1", "2", "4"]  # between the bins of a gate_histogram
BINS = ["0", *(f"< {bound}" for bound in BOUNDS), "≥ 4"]


def learning_curves(
    study: Study, runs: pd.DataFrame, key: str = "method", names: Mapping[str, str] = METHODS
) -> Iterator[Figure]:
    """A figure for each task: score, loss and, where a method has ranks, live ranks by step, a line for each method.

    ``runs``: those to be drawn, of :func:`experiments.scores.chosen`. ``key``: the column that tells the lines apart.
    ``names``: what its values are called.
    """
    done = runs[runs["done"]]
    course = results.history(study.records[run_id] for run_id in done["run_id"])
    if course.empty:
        return
    course = course.merge(
        done[["run_id", key, "task", "task.select_metric"]].rename(columns={key: "line"}), on="run_id"
    )
    for task, part in course.groupby("task", sort=False):
        metric = str(part["task.select_metric"].iloc[0])
        shown = {f"select.{metric}": f"{in_words('', metric)}, select (points)", "loss": "training loss"}
        shown["live_ranks"] = "live ranks"
        there = {key: name for key, name in shown.items() if key in part and part[key].notna().any()}
        if part["step"].nunique() > 1 and there:
            yield _curves(str(task), part, there, names)


def _curves(task: str, part: pd.DataFrame, shown: dict[str, str], names: Mapping[str, str]) -> Figure:
    def draw(canvas: Canvas) -> None:
        for key, axis in zip(shown, panels(canvas, list(shown.values()), 3), strict=True):
            values = part.assign(value=pd.to_numeric(part[key])).dropna(subset="value")
            for name, mine in values.groupby("line", sort=False):
                found = mine.groupby("step")["value"].agg(["mean", sd]).round(4)
                mean, spread = found["mean"], found["sd"]
                style = line(name) | {"marker": ""}
                axis.plot(mean.index, mean, label=names.get(str(name), name), **style)
                axis.fill_between(
                    mean.index, mean - spread, mean + spread, color=style["color"], alpha=0.13, linewidth=0
                )
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axis.xaxis.set_major_formatter(lambda value, _: short(value))
            axis.set_xlabel("step")
            if key == "live_ranks":
                axis.set_ylim(bottom=0)
        legend_below(canvas)

    about = f"learning_curves-{task}", f"{in_words(task)}: score, loss and live ranks by step", CAPTION
    return Figure(*about, draw, (max(4.6, WIDTH / 3 * len(shown)), 2.9), "live_ranks" in shown)


def gates(study: Study, runs: pd.DataFrame) -> Figure | None:
    """The share of the gates of ``runs`` in each bin of magnitude by step, a panel a task; None without histograms."""
    done = runs[runs["done"]].drop_duplicates("run_id")
    course = results.history(study.records[run_id] for run_id in done["run_id"])
    if "gate_histogram" not in course:
        return None
    course = course.dropna(subset="gate_histogram").merge(done[["run_id", "task"]], on="run_id")
    maps = {}
    for task, part in course.groupby("task", sort=False):
        counts = pd.DataFrame(part["gate_histogram"].tolist(), columns=BINS).groupby(part["step"].to_numpy()).mean()
        maps[in_words(str(task))] = 100 * counts.div(counts.sum(axis=1), axis=0)
    if not maps:
        return None

    def draw(canvas: Canvas) -> None:
        shown = panels(canvas, list(maps))
        top = max(float(table.max(axis=None)) for table in maps.values())
        for axis, table in zip(shown, maps.values(), strict=True):
            image = axis.imshow(table.T.round(3), norm=PowerNorm(0.5, 0, top), **LOOK)
            places = np.unique(np.linspace(0, len(table) - 1, min(4, len(table))).astype(int))
            axis.set_xticks(places, [short(step) for step in table.index[places]])
            axis.set_yticks(range(0, len(BINS), 2), BINS[::2])
            axis.set_xlabel("step")
            if first_of_row(axis):
                axis.set_ylabel("magnitude of a gate")
            axis.grid(visible=False)
        canvas.colorbar(image, ax=shown, label="% of the gates", shrink=0.9)

    caption = "Share of all gates of a run in each bin of magnitude at every evaluation, mean over seeds."
    rows = -(-len(maps) // 3)
    size = (max(4.6, WIDTH / 3 * min(3, len(maps))), 2.7 * rows)
    return Figure("gate_magnitudes", "Magnitudes of the gates by step", caption, draw, size, True)
