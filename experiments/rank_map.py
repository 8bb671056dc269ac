"""The paper's Figure 3: the ranks that stay, how far seeds agree on them, and how far the initial draw decides."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator
from scipy.stats import chi2

from experiments import published
from experiments.figures import WIDTH
from experiments.labels import METHODS, in_words
from experiments.learning_curves import gates
from experiments.scores import DEPENDENCE, DEPENDENT, choice, chosen
from experiments.stats import sd, spearman
from experiments.study import Study
from experiments.tables import Artefact, Figure, Table, counts, size
from sora import runs as results

TITLE = "Rank map: which ranks stay (Figure 3)"
SEEDS = 4  # shown in one row at most, next to their mean
MODULE = r"(?:^|\.)layer\.(?P<layer>\d+)\.(?P<matrix>.+)$"
COUNTED = {"live parameters": "params.live", "authors' count": "params.authors_formula"}
NAMES = {"rank": "trained", "no_data_rank": "no data", "no_data_rank_same_total": "as many"}
SHORT = {"query": "Q", "key": "K", "value": "V", "attention.output": "A.O", "intermediate": "FF.W1", "output": "FF.W2"}


def build(study: Study) -> list[Artefact | None]:
    """Totals and agreement by task, a map for each seed, its no-data ranks below, and the gates by step."""
    runs = chosen(study, "method")
    ranks = ranks_of(study, runs)
    places = ranks.groupby(["method", "task"], sort=False)
    maps = [_map(str(method), str(task), part) for (method, task), part in places]
    return [_totals(runs, ranks), *maps, gates(study, runs)]


def ranks_of(study: Study, runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each matrix of each of ``runs``: run_id, seed, method, task, module, and those of ``NAMES``."""
    columns, done = ["run_id", "module", *NAMES], runs[runs["done"]].drop_duplicates("run_id")
    long = results.ranks(study.records[run_id] for run_id in done["run_id"]).reindex(columns=columns)
    return done[["run_id", "seed", "method", "task"]].merge(long.astype({"run_id": str}), on="run_id")


def _totals(runs: pd.DataFrame, ranks: pd.DataFrame) -> Table:
    start = runs["method.init_r"].fillna(runs["method.r"])  # before anything was pruned
    runs = runs.assign(kept=100 * runs["ranks"] / (start * runs["matrices"]))
    rows = []
    for (method, task), part in runs.groupby(["method", "task"], sort=False):
        mine = ranks[(ranks["method"] == method) & (ranks["task"] == task)]
        table, drawn = (
            mine.pivot_table(index="run_id", columns="module", values=name, aggfunc="first")
            for name in ("rank", "no_data_rank")
        )
        total, dead = table.sum(axis=1), (table == 0).sum(axis=1)
        row = {"method": METHODS.get(str(method), method), "task": in_words(str(task))}
        row |= {"runs": part["done"].sum(), "runs of": len(part), "ranks": total.mean(), "ranks sd": sd(total)}
        row |= {"kept": part["kept"].mean(), "dead modules": dead.mean()}
        row |= {name: pd.to_numeric(part[key]).mean() for name, key in COUNTED.items()}
        row |= {"rank agreement": agreement(table), "agreement on dead modules": dead_agreement(table)}
        row |= {head: part[name].mean() for name, head in DEPENDENCE.items()}
        whole = part.assign(start=start).drop_duplicates("run_id").set_index("run_id")["start"]
        row["dispersion"], row["p (chance)"] = dispersion(table, whole)
        row["dispersion, no data"] = dispersion(drawn, whole)[0]
        printed = published.ranks().query("task == @task" if method == "sora" else "task == ''").filter(like="layer_")
        rows.append(row | {"SoRA paper, Figure 3": printed.to_numpy().sum() if len(printed) else math.nan})
    data = pd.DataFrame(rows)
    known = [*DEPENDENCE.values(), "dispersion, no data"]
    data = data.drop(columns=[name for name in known if data[name].isna().all()])
    data[[*COUNTED]] = data[[*COUNTED]].apply(counts)
    caption = (
        "Means over seeds, of the selected weights. Ranks: live ranks of all modules, and their share of those at "
        "the start. Dead modules: without any rank. Parameters: sum of r (in + out), and as the authors' code counts "
        "(every matrix as if it were square). Agreement, mean over pairs of seeds: Spearman correlation of the ranks "
        "per module; Jaccard index of the sets of dead modules, empty where no seed has one. "
        f"{DEPENDENT} Dispersion: variance over modules of the ranks summed over runs, in units of that which "
        "cutting ranks at random leaves, with each run's share (Fisher's index, about chi-square); near 1 the runs "
        f"prefer no module. p: of as much by chance. {choice(runs)}"
    ).strip()
    formats = {"live parameters": size, "authors' count": size, "ranks": "{:.1f}", "kept": "{:.1f} %"}
    formats |= {"p (chance)": "{:.4f}"}
    formats |= {"dead modules": "{:.1f}", "SoRA paper, Figure 3": "{:.0f} ranks"}
    return Table("rank_map", "Ranks that stay, and agreement of seeds", caption, data, formats)


def agreement(table: pd.DataFrame) -> float:
    """Mean Spearman correlation of the ranks [runs, modules] over pairs of runs; NaN without a pair that has one."""
    return _mean(spearman(*table.loc[[a, b]].dropna(axis=1).to_numpy(float)) for a, b in _pairs(table))


def dead_agreement(table: pd.DataFrame) -> float:
    """Mean Jaccard index of the modules without a rank over pairs of runs; NaN where no pair has a dead module."""
    dead = table == 0
    either = [
        (dead.loc[a] & dead.loc[b]).sum() / n for a, b in _pairs(table) if (n := (dead.loc[a] | dead.loc[b]).sum())
    ]
    return _mean(either)


def dispersion(table: pd.DataFrame, start: float | pd.Series) -> tuple[float, float]:
    """Index of dispersion of the ranks [runs, modules], and its p; NaN where nothing was cut, or all.

    ``start``: ranks of a module before any was cut, of all runs or of each by its id. Were each of them kept with the
    share of its run, the sums over runs would have that variance: Fisher (1925), Statistical Methods for Research
    Workers.
    """
    table = table.dropna(axis=1)
    start = pd.Series(start, table.index, dtype=float)
    share = table.mean(axis=1) / start
    chance, more = float((start * share * (1 - share)).sum()), len(table.columns) - 1
    if more < 1 or not chance > 0:
        return math.nan, math.nan
    ratio = float(table.sum().var(ddof=1)) / chance
    return ratio, float(chi2.sf(ratio * more, more))


def _pairs(table: pd.DataFrame) -> Iterable[tuple[str, str]]:
    return itertools.combinations(table.index, 2)


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def grid(ranks: pd.DataFrame, values: str = "rank") -> pd.DataFrame:
    """Mean ranks over runs: a row for each layer, a column for each matrix; NaN where a layer has no such matrix."""
    places = ranks["module"].str.extract(MODULE)
    long = ranks.assign(layer=pd.to_numeric(places["layer"]), matrix=places["matrix"]).dropna(subset="layer")
    table = long.pivot_table(index="layer", columns="matrix", values=values).reindex(columns=long["matrix"].unique())
    return table.reindex(range(int(long["layer"].max()) + 1)) if len(long) else table


def label(module: str) -> str:
    """A matrix as the paper's Figure 3 calls it: ``attention.self.query`` is Q."""
    bare = module.removeprefix("attention.self.").removesuffix("_proj").removesuffix(".dense")
    return SHORT.get(bare, bare)


def _map(method: str, task: str, ranks: pd.DataFrame) -> Figure | None:
    """The mean map and one for each seed, layers by matrices, above what no data would leave; None without ranks."""
    every = [part for _, part in ranks.groupby("run_id", sort=False)]
    parts = {f"seed {part['seed'].iloc[0]}": part for part in every[:SEEDS]}
    if len(every) > 1:
        parts = {f"mean of {len(every)}": ranks} | parts
    rows = [name for name in NAMES if ranks[name].notna().any()]
    if not rows or not grid(every[0]).size:
        return None
    top = float(ranks[rows].max(axis=None)) or 1.0

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots(len(rows), len(parts), squeeze=False, sharex=True, sharey=True)
        for axis_row, name in zip(axes, rows, strict=True):
            for axis, (heading, part) in zip(axis_row, parts.items(), strict=True):
                table, count = grid(part, name).rename(columns=label), part["run_id"].nunique()
                image = axis.imshow(table, cmap="Blues", vmin=0, vmax=top, aspect="auto")
                above = f"{heading}\n" if name == "rank" else ""
                total = f"{NAMES[name]}: {part[name].sum() / count:.0f}"
                axis.set_title(f"{above}{total}" if part[name].notna().any() else above)
                if count == 1 and name != "rank" and part["rank"].nunique() > 1 and part[name].nunique() > 1:
                    axis.set_title(f"{axis.get_title()} ({1 - part['rank'].corr(part[name]):.2f})")
                axis.set_xticks(range(table.shape[1]), table.columns, rotation=90)
                axis.set_yticks(range(0, len(table), 1 if len(table) < 9 else 2))
                axis.grid(visible=False)
                for (row, column), value in np.ndenumerate(table):
                    if not np.isnan(value):
                        ink = "white" if value > 0.6 * top else "black"
                        text = f"{value:.0f}" if count == 1 else f"{value:.1f}"
                        axis.text(
                            column, row, text, ha="center", va="center", color=ink, fontsize=8 if count == 1 else 6
                        )
            axis_row[0].set_ylabel("layer")
        canvas.colorbar(image, ax=axes, label="rank", shrink=0.8, aspect=30, ticks=MaxNLocator(5, integer=True))

    caption = f"{METHODS.get(method, method)}, selected weights: the rank of each matrix; above each map their sum."
    if len(rows) > 1:
        caption += " Below: the ranks that the initial draw and the threshold leave without any data, then as many "
        caption += "ranks of that draw as the run has; in brackets the data dependence by either."
    if len(every) > SEEDS:
        caption += f" The first {SEEDS} of {len(every)} runs, and the mean of all."
    layers = len(grid(every[0]))
    size = (WIDTH * min(1.0, 0.25 + 0.2 * len(parts)), (0.19 * layers + 0.5) * len(rows) + 0.9)
    title = f"{in_words(task)}: ranks that stay, seed by seed"
    return Figure(f"ranks_{method}-{task}", title, caption, draw, size, True)
