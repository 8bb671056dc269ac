"""Figure 2: memorization and generalization while the sparsifying scheduler (Algorithm 1) takes ranks away."""

from __future__ import annotations

import math

import pandas as pd

from experiments import published
from experiments.labels import METRICS, TASKS
from experiments.levels import SENTENCE, SHARES, THIRDS, Line, curves, figure, interpolated, levels, varied
from experiments.stats import sd
from experiments.study import Study
from experiments.tables import Artefact, Table, counts, size

TITLE = "Sparsifying scheduler: memorization and generalization (Figure 2)"
ACCEPTS = frozenset({"synthetic"})
KEPT = {99: "≥ 99 %", 95: "≥ 95 %", 90: "≥ 90 %"}  # of the dense model
ABOUT = (
    "memorization_and_generalization",
    "Memorization and generalization under the scheduler (Figure 2)",
    "From right to left: the dense model, then level after level. Thick: mean over seeds at each level, with a "
    f"band of one population SD; thin: the seeds. Live parameters on a log scale, without the head. {SENTENCE}",
)
ALIVE = ("alive % lower", "middle", "upper")
FORMATS = {
    **{"ξ": "{:.3g}", "live": size, "paper: dense": size, "paper: live": size, "ours: dense": size},
    **dict.fromkeys(("% of dense", *(f"{each}{share} %" for share in SHARES for each in ("", "ours: "))), "{:.1f}"),
    **dict.fromkeys(ALIVE, "{:.0f}"),
}


def build(study: Study) -> list[Artefact | None]:
    """The figure, its numbers, and how small an adapter still keeps how much, beside what the paper says."""
    names = varied(study, "task", "method")
    found = levels(study, names)
    shown = curves(study, names, found).set_index("title", drop=False)
    parts = {
        title: found[(found["task"] == task) & (found["name"] == name)]
        for title, task, name in zip(shown["title"], shown["task"], shown["name"], strict=True)
    }
    means = {title: by_level(part) for title, part in parts.items()}
    lines = {title: [Line(part, share, share, i) for i, share in enumerate(SHARES)] for title, part in parts.items()}
    return [
        figure(ABOUT, lines, "% of the dense model"),
        _kept(shown, means),
        _levels(shown, parts),
        _paper(shown, means),
    ]


def by_level(part: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds at each level; NaN where a seed has no value."""
    return part.groupby("level")[["live", "dense", *SHARES, "report", *THIRDS]].agg(lambda x: x.mean(skipna=False))


def _kept(shown: pd.DataFrame, means: dict[str, pd.DataFrame]) -> Table:
    """The fewest live parameters that keep 99, 95 and 90 % of the dense model."""
    rows = [
        {"task": title, "of": share, "runs": curve["runs"], "runs of": curve["runs of"], "dense": curve["dense"]}
        | {name: fewest(means[str(title)], share, percent) for percent, name in KEPT.items()}
        for title, curve in shown.iterrows()
        for share in SHARES
    ]
    data, sizes = pd.DataFrame(rows), ["dense", *KEPT.values()]
    data[sizes] = data[sizes].apply(counts)
    caption = (
        "Fewest live parameters of a level whose mean over seeds, and that of every level before it, keeps the "
        f"percentage. – : no level but the dense one. {SENTENCE}"
    )
    return Table("kept", "How few parameters keep how much", caption, data, dict.fromkeys(sizes, size))


def fewest(means: pd.DataFrame, share: str, percent: float) -> float:
    """Live parameters of the last level up to which every one keeps ``percent``; NaN where only the dense one does."""
    later = means[means.index > 0]
    kept = later[(later[share] >= percent).cummin()]
    return float(kept["live"].iloc[-1]) if len(kept) else math.nan


def _levels(shown: pd.DataFrame, parts: dict[str, pd.DataFrame]) -> Table | None:
    """Every level: its threshold, what lives, both percentages, the score on the report split, where ranks live."""
    rows: list[dict[str, object]] = []
    metrics: dict[str, str] = {}
    for title, part in parts.items():
        for (level, each), (_, mean) in zip(part.groupby("level"), by_level(part).iterrows(), strict=True):
            row = {"task": title, "level": level, "ξ": each["threshold"].min()}
            row |= {"runs": len(each), "runs of": shown.loc[title, "runs of"], "live": round(mean["live"])}
            row["% of dense"] = 100 * mean["live"] / mean["dense"] if mean["dense"] else math.nan
            for name, key in (*((f"{share} %", share) for share in SHARES), ("report", "report")):
                row |= {name: mean[key], f"{name} sd": sd(each[key])}
            rows.append(row | dict(zip(ALIVE, mean[[*THIRDS]], strict=True)))
        metrics |= dict(zip(part["task"], part["metric"], strict=True))
    if not rows:
        return None
    listed = [f"{TASKS.get(task, task)} {METRICS.get(name, name).rstrip('.')}" for task, name in metrics.items()]
    caption = (
        "Mean ± population SD over the seeds that reached the level (n/m: n of m runs). ξ: threshold of the level at "
        "the peak learning rate. Live: sum of r (in + out) over the adapted matrices. Report: score on the report "
        f"split, in points. Alive: share of all ranks in the lower, middle and upper third of the layers. {SENTENCE} "
        f"Metrics: {', '.join(listed)}."
    )
    return Table("levels", "Every level", caption, pd.DataFrame(rows), FORMATS)


def _paper(shown: pd.DataFrame, means: dict[str, pd.DataFrame]) -> Table | None:
    """What the paper's text and figure say of the tasks of this study, beside ours; None where it says nothing."""
    rows = []
    for title, curve in shown.iterrows():
        for theirs in published.scheduler().query("task == @curve.task").itertuples():
            share, mean = 100 * theirs.params / theirs.dense_params, means[title]
            row = {"task": title, "paper: dense": theirs.dense_params, "paper: live": theirs.params}
            row |= {"% of dense": share, "paper: %": theirs.percent, "read from": theirs.read}
            row["ours: dense"] = curve["dense"]
            for name in SHARES:
                row[f"ours: {name} %"] = interpolated(mean["live"], mean[name], share / 100 * curve["dense"])
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
    return Table("paper", "Beside the paper's Figure 2", caption, data, FORMATS)
