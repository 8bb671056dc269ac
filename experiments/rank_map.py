"""The paper's Figure 3: the ranks that stay, per module and layer, and how far seeds agree on them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.artefacts import EMPTY, Artefact, Cell, Figure, Table, number, text
from experiments.captions import caption
from experiments.columns import method_label, task_label
from experiments.figures import panels, tiling
from experiments.groups import Group, params_cell
from experiments.published import ranks
from experiments.study import Definition, Record, Study, commands, configured
from sora import stats
from sora.stats import Floats

LAYER = re.compile(r"(?:^|\.)layer\.(\d+)\.(.+)$")
SHORT = {"query": "Q", "key": "K", "value": "V", "attention.output": "A.O", "intermediate": "FF.W1", "output": "FF.W2"}


def build(study: Study) -> list[Artefact]:
    """Totals and agreement by task, and a map for each method and task."""
    groups = {key: Group(tuple(runs)) for key, runs in study.groups("method", "task").items()}
    figures = [
        _map(study, str(method), [(str(task), group) for (m, task), group in groups.items() if m == method])
        for method in dict.fromkeys(method for method, _ in groups)
    ]
    return [_totals(study, groups), *(figure for figure in figures if figure is not None)]


def _totals(study: Study, groups: Mapping[tuple[object, ...], Group]) -> Table:
    rows = []
    for (method, task), group in groups.items():
        found = [record["ranks"] for record in group.records if record["ranks"]]
        full = [_possible(record) for record in group.records if record["ranks"]]
        printed = ranks().get(str(task)) if method == "sora" else None
        rows.append(
            [
                text(method_label(str(method))),
                text(task_label(str(task))),
                Cell(_told(group), len(group.records), {"of": len(group.runs)}, commands(group.runs)),
                *_kept(found, full),
                number(_mean([len(dead(each)) for each in found]), 1),
                params_cell(group.live()),
                params_cell(_mean([record["params"]["authors_formula"] for record in group.records])),
                number(agreement(found)),
                number(dead_agreement(found)),
                Cell(EMPTY) if printed is None else _printed(printed),
            ]
        )
    return Table(
        name="rank_map",
        title="Ranks that stay, and agreement of seeds",
        caption=caption(
            study,
            "Means over seeds, of the selected weights. Ranks: live ranks of all modules, and their share of those at "
            "the start. Dead modules: without any rank. Parameters: sum of r (in + out), and as the authors' code "
            "counts (every matrix as if it were square). Agreement, mean over pairs of seeds: Spearman correlation of "
            "the ranks per module; Jaccard index of the sets of dead modules, empty where no seed has one.",
        ),
        columns=[
            "method",
            "task",
            "runs",
            "ranks",
            "kept",
            "dead modules",
            "live parameters",
            "authors' count",
            "rank agreement",
            "agreement on dead modules",
            "SoRA paper, Figure 3",
        ],
        rows=rows,
    )


def _told(group: Group) -> str:
    """``3/3 [1 diverged]``."""
    return group.coverage + (f" [{', '.join(remarks)}]" if (remarks := group.remarks()) else "")


def _kept(found: Sequence[Mapping[str, int]], full: Sequence[float]) -> list[Cell]:
    totals = [float(sum(each.values())) for each in found]
    if not totals:
        return [Cell(EMPTY), Cell(EMPTY)]
    share = 100 * stats.mean([total / most for total, most in zip(totals, full, strict=True)])
    spread = stats.population_sd(totals)
    return [
        Cell(f"{stats.mean(totals):.1f} ± {spread:.1f}", round(stats.mean(totals), 6), {"sd": round(spread, 6)}),
        Cell(f"{share:.1f} %", round(share, 6)),
    ]


def _possible(record: Record) -> float:
    """Ranks before anything was pruned: r of every module (AdaLoRA: init_r)."""
    start = configured(record, "method.init_r") or configured(record, "method.r") or 0
    return float(start) * len(record["ranks"])


def _printed(grid: Mapping[str, Sequence[int]]) -> Cell:
    total = sum(map(sum, grid.values()))
    share = 100 * total / (8 * sum(map(len, grid.values())))  # r_max = 8
    return Cell(f"{total} ranks, {share:.1f} %", total)


def _mean(values: Sequence[float]) -> float:
    return stats.mean(values) if values else math.nan


def dead(ranks_of_run: Mapping[str, int]) -> set[str]:
    """The modules without any rank left."""
    return {name for name, rank in ranks_of_run.items() if rank == 0}


def agreement(found: Sequence[Mapping[str, int]]) -> float:
    """Mean Spearman correlation of the ranks per module over pairs of runs; NaN without a pair that has one."""
    values = []
    for a, b in itertools.combinations(found, 2):
        names = sorted(a.keys() & b.keys())
        if names:
            values.append(stats.spearman([a[name] for name in names], [b[name] for name in names]))
    return _mean([value for value in values if not math.isnan(value)])


def dead_agreement(found: Sequence[Mapping[str, int]]) -> float:
    """Mean Jaccard index of the dead modules over pairs of runs; NaN where no pair has a dead module."""
    values = [stats.jaccard(dead(a), dead(b)) for a, b in itertools.combinations(found, 2)]
    return _mean([value for value in values if not math.isnan(value)])


def grid(found: Sequence[Mapping[str, int]]) -> tuple[list[str], Floats]:
    """Module names and the mean ranks [layers, modules] over runs; NaN where a layer has no such module."""
    places: dict[tuple[int, str], list[int]] = {}
    modules: list[str] = []
    for each in found:
        for name, rank in each.items():
            if match := LAYER.search(name):
                layer, module = int(match[1]), match[2]
                places.setdefault((layer, module), []).append(rank)
                if module not in modules:
                    modules.append(module)
    layers = 1 + max((layer for layer, _ in places), default=-1)
    result = np.full((layers, len(modules)), np.nan)
    for (layer, module), values in places.items():
        result[layer, modules.index(module)] = np.mean(values)
    return modules, result


def _label(module: str) -> str:
    bare = module.removeprefix("attention.self.").removesuffix("_proj").removesuffix(".dense")
    return SHORT.get(bare, bare)


def _map(study: Study, method: str, groups: Sequence[tuple[str, Group]]) -> Figure | None:
    """One heat map per task: layers by modules; None without ranks."""
    maps = {}
    for task, group in groups:
        modules, values = grid([record["ranks"] for record in group.records])
        if values.size:
            maps[task] = modules, values
    if not maps:
        return None
    top = max(float(np.nanmax(values)) for _, values in maps.values()) or 1.0

    def draw(canvas: Canvas) -> None:
        shown = panels(canvas, [task_label(task) for task in maps])
        for axis, (modules, values) in zip(shown, maps.values(), strict=True):
            image = axis.imshow(np.round(values, 3), cmap="cividis", vmin=0, vmax=top, aspect="auto")
            axis.set_xticks(range(len(modules)), [_label(module) for module in modules], rotation=45)
            axis.set_yticks(range(len(values)), [str(layer) for layer in range(len(values))])
            axis.set_ylabel("layer")
            axis.grid(visible=False)
            for (row, column), value in np.ndenumerate(values):
                if not np.isnan(value):
                    ink = "white" if value < 0.55 * top else "black"
                    axis.text(column, row, f"{value:.2g}", ha="center", va="center", color=ink, fontsize=6.5)
        canvas.colorbar(image, ax=shown, label="live rank, mean over seeds", shrink=0.8)

    wide, high = tiling(len(maps))
    layers = max(len(values) for _, values in maps.values())
    return Figure(
        name=f"ranks_{method}",
        title=f"Ranks that stay, {method_label(method)}",
        caption=caption(study, "Live rank of each adapted matrix, mean over seeds, of the selected weights."),
        draw=draw,
        size=(2.6 * wide + 1.0, (0.21 * layers + 1.1) * high),
    )


STUDY = Definition("rank_map", "Rank map: which ranks stay (Figure 3)", build)
