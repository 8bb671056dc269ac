"""Figure 2: memorization and generalization while ranks are taken away, by the sparsifying scheduler (Algorithm 1).

``scheduler`` runs it as the paper has it, ``pruning_baselines`` in its three variants against one-shot magnitude
pruning of the same dense models.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from experiments import published
from experiments.figures import COLOURS, LINES, MARKERS, WIDTH, legend_below, panels, tiling
from experiments.labels import METRICS, in_words
from experiments.levels import NAMES, SHARES, THIRDS, VARIANTS, at_share, by_level, interpolated, levels, named
from experiments.stats import sd, t_interval
from experiments.study import Study
from experiments.tables import SIGNED, Artefact, Figure, Table, counts, size

TITLE = {
    "scheduler": "Sparsifying scheduler: memorization and generalization (Figure 2)",
    "pruning_baselines": "Sparsifying scheduler against one-shot magnitude pruning",
}
ACCEPTS = frozenset({"synthetic"})
KEPT = (99, 95, 90)  # percent of the dense model's score
BUDGETS = (50, 25, 10, 5, 2)  # percent of the dense model's live parameters
SENTENCE = (
    "Memorization: the metric on up to 1,000 training examples, seen yet or not; generalization: on the report "
    "split; both in percent of the dense model, the weights selected before the first level."
)
DRAWN = (
    "From right to left: the dense model, then level after level. Thick: mean over seeds at each level, with a band of "
    f"one population SD; thin: the seeds. Live parameters on a log scale, without the head. {SENTENCE}"
)
MINUS = (
    "Minus one-shot: 95 % t-interval of the difference, paired by seed, as the dense model of a seed is the same; one "
    "interval for each share, not corrected for their number. "
)
ALIVE = ("alive % lower", "middle", "upper")
FORMATS = {
    **{"ξ": "{:.3g}", "live": size, "paper: dense": size, "paper: live": size, "ours: dense": size},
    **dict.fromkeys(("% of dense", *(f"{each}{share} %" for share in SHARES for each in ("", "ours: "))), "{:.1f}"),
    **dict.fromkeys(ALIVE, "{:.0f}"),
}


class Curve(NamedTuple):
    """The levels of one variant on one task, and how many of its runs have some."""

    task: str
    name: str
    settings: str
    levels: pd.DataFrame
    runs: int
    of: int

    @property
    def row(self) -> dict[str, object]:
        """What every table begins with."""
        return {"task": in_words(self.task), "schedule": self.name, "runs": self.runs, "runs of": self.of}


def build(study: Study) -> list[Artefact | None]:
    """Both percentages over live parameters, generalization at equal sizes, every level, and what the paper says."""
    found = curves(study)
    figures = [_figure(found, share) for share in reversed(SHARES)]
    return [*figures, _kept(found), _budgets(found), _levels(found), _paper(found)]


def curves(study: Study) -> list[Curve]:
    """Task by task, in the order of the sweep."""
    found, runs = levels(study), named(study)
    result = []
    for (task, name), part in runs.groupby(["task", "name"], sort=False):
        mine = found[(found["task"] == task) & (found["name"] == name)]
        settings, there = str(part["settings"].iloc[0]), int(part["run_id"].isin(mine["run_id"]).sum())
        result.append(Curve(str(task), str(name), settings, mine, there, len(part)))
    return sorted(result, key=lambda curve: study.tasks.index(curve.task))


def _kept(found: list[Curve]) -> Table | None:
    """The fewest live parameters that keep 99, 95 and 90 % of the dense model; None without a level."""
    rows = []
    for curve in (each for each in found if len(each.levels)):
        means = by_level(curve.levels)
        for share in SHARES:
            sizes = {f"≥ {percent} %": fewest(means, share, percent) for percent in KEPT}
            rows.append(curve.row | {"of": share, "dense": means["live"].iloc[0]} | sizes)
    if not rows:
        return None
    data, columns = pd.DataFrame(rows), ["dense", *(f"≥ {percent} %" for percent in KEPT)]
    data[columns] = data[columns].apply(counts)
    caption = (
        "Fewest live parameters of a level whose mean over seeds, and that of every level before it, keeps the "
        f"percentage of the dense model. –: no level but the dense one. {SENTENCE}"
    )
    return Table("kept", "How few parameters keep how much", caption, data, dict.fromkeys(columns, size))


def fewest(means: pd.DataFrame, share: str, percent: float) -> float:
    """Live parameters of the last level up to which every one keeps ``percent``; NaN where only the dense one does."""
    later = means[means.index > 0]
    kept = later[(later[share] >= percent).cummin()]
    return float(kept["live"].iloc[-1]) if len(kept) else math.nan


def _budgets(found: list[Curve]) -> Table:
    """Generalization at equal shares of the dense model, and each variant's paired difference to one-shot pruning."""
    rows = []
    for curve in found:
        base = ", ".join(filter(None, (NAMES[3], curve.settings)))
        pruned = [each for each in found if (each.task, each.name) == (curve.task, base) and each is not curve]
        row = curve.row
        for head, share in ((f"at {share} %", share) for share in BUDGETS):
            values = at_share(curve.levels, share)
            whole = len(values) > 0 and values.notna().all()
            row |= {head: values.mean() if whole else math.nan, f"{head} sd": sd(values) if whole else math.nan}
            gaps = (values - at_share(pruned[0].levels, share)).dropna() if whole and pruned else []
            low, high = t_interval(gaps)
            row |= {f"{head}, minus one-shot": low, f"{head}, minus one-shot high": high}
        rows.append(row)
    data = pd.DataFrame(rows)
    compared = any(curve.name.startswith(NAMES[3]) for curve in found)
    if not compared:
        data = data.drop(columns=[name for name in data if "minus" in name])
    formats = {column: SIGNED if "minus" in column else "{:.1f}" for column in data}
    caption = (
        "Generalization in percent of the dense model at shares of the dense model's live parameters: mean ± "
        "population SD over seeds, each seed's curve interpolated linearly in the logarithm of live parameters + 1 "
        f"between its levels (– where not every seed's levels reach the share). {MINUS if compared else ''}{SENTENCE}"
    )
    return Table("budgets", "Generalization at equal live parameters", caption, data, formats)


def _levels(found: list[Curve]) -> Table | None:
    """Every level: its threshold, what lives, both percentages, the score on the report split, where ranks live."""
    rows: list[dict[str, object]] = []
    for curve in found:
        for (level, each), (_, mean) in zip(
            curve.levels.groupby("level"), by_level(curve.levels).iterrows(), strict=True
        ):
            row = curve.row | {"level": level, "ξ": each["threshold"].min(), "runs": len(each)}
            row |= {"live": round(mean["live"])}
            row["% of dense"] = 100 * mean["live"] / mean["dense"] if mean["dense"] else math.nan
            for name, key in (*((f"{share} %", share) for share in SHARES), ("report", "report")):
                row |= {name: mean[key], f"{name} sd": sd(each[key])}
            rows.append(row | dict(zip(ALIVE, mean[[*THIRDS]], strict=True)))
    if not rows:
        return None
    metrics = {curve.task: str(curve.levels["metric"].iloc[0]) for curve in found if len(curve.levels)}
    listed = [f"{in_words(task)} {METRICS.get(name, name).rstrip('.')}" for task, name in metrics.items()]
    caption = (
        "Mean ± population SD over the seeds that reached the level (n/m: n of m runs). ξ: threshold of the level at "
        "the peak learning rate. Live: sum of r (in + out) over the adapted matrices. Report: score on the report "
        f"split, in points. Alive: share of all ranks in the lower, middle and upper third of the layers. {SENTENCE} "
        f"Metrics: {', '.join(listed)}."
    )
    return Table("levels", "Every level", caption, pd.DataFrame(rows), FORMATS)


def _paper(found: list[Curve]) -> Table | None:
    """What the paper's text and figure say of the tasks of this study, and ours; None where it says nothing."""
    rows = []
    for curve in (each for each in found if len(each.levels)):
        mean = by_level(curve.levels)
        dense = mean["live"].iloc[0]
        for theirs in published.scheduler().query("task == @curve.task").itertuples():
            share = 100 * theirs.params / theirs.dense_params
            row = {name: curve.row[name] for name in ("task", "schedule")}
            row |= {"paper: dense": theirs.dense_params, "paper: live": theirs.params, "% of dense": share}
            row |= {"paper: %": theirs.percent, "read from": theirs.read, "ours: dense": dense}
            for name in SHARES:
                row[f"ours: {name} %"] = interpolated(mean["live"], mean[name], share / 100 * dense)
            rows.append(row)
    if not rows:
        return None
    data = pd.DataFrame(rows)
    data["ours: dense"] = counts(data["ours: dense"])
    caption = (
        "The paper: RoBERTa-large; its levels of ξ start at 1e-4, end and steps are not given; values marked figure "
        "are read off the figure by eye, those marked text are printed. Ours: percentages at the same share of the "
        "dense model's live parameters, interpolated linearly in the logarithm of live parameters + 1 between the "
        "levels' means. Backbone, levels and training differ: shapes can be compared, values cannot."
    )
    return Table("paper", "The paper's Figure 2 and these runs", caption, data, FORMATS)


# -- drawing ---------------------------------------------------------------------------------------------------


def _figure(found: list[Curve], share: str) -> Figure | None:
    """One of the two percentages over live parameters, a panel for each task; None without a level."""
    styles = list(dict.fromkeys([*NAMES, *(curve.name for curve in found)]))  # a variant looks the same everywhere
    shown = [curve for curve in found if len(curve.levels)]
    tasks = list(dict.fromkeys(curve.task for curve in shown))
    if not shown:
        return None

    def draw(canvas: Canvas) -> None:
        for task, axis in zip(tasks, panels(canvas, [in_words(task) for task in tasks]), strict=True):
            mine = [curve for curve in shown if curve.task == task]
            for curve in mine:
                _draw_line(axis, curve, share, styles.index(curve.name))
            _scale(axis, pd.concat([curve.levels["live"] for curve in mine]))
            axis.set_ylabel(f"{share}\n(% of the dense model)")
        legend_below(canvas, 2)

    wide, high = tiling(len(tasks))
    names = {curve.name.removesuffix(f", {curve.settings}") for curve in shown}
    caption = " ".join(
        [DRAWN, *(f"{name.capitalize()}: {words}." for name, words in VARIANTS.items() if name in names)]
    )
    about = share, f"{share.capitalize()} while ranks are taken away (Figure 2)", caption
    return Figure(*about, draw, (max(4.6, WIDTH / 3 * wide), 2.6 * high + 0.8), True)


def _draw_line(axis: Axes, curve: Curve, share: str, place: int) -> None:
    """Every seed thin, the mean of each level thick, one SD as a band."""
    style = place % len(COLOURS)
    colour = COLOURS[style]
    known = curve.levels.dropna(subset=share)
    for _, part in known.groupby("run_id", sort=False):
        axis.plot(part["live"], part[share].round(3), color=colour, linewidth=0.6, alpha=0.45)
    if known.empty:
        return
    mean, spread = known.groupby("level")[share].mean(), known.groupby("level")[share].agg(sd)
    live = curve.levels.groupby("level")["live"].mean().reindex(mean.index).round(1)
    axis.fill_between(live, (mean - spread).round(3), (mean + spread).round(3), color=colour, alpha=0.15, linewidth=0)
    look: Any = {"color": colour, "marker": MARKERS[style], "linestyle": LINES[style]}
    axis.plot(live, mean.round(3), markersize=4.5 if style else 7.0, label=curve.name, **look)


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
