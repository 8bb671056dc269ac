"""One grid of learning rates for every method: the best of each, and what it takes to find it."""

from __future__ import annotations

import math

import pandas as pd

from experiments.conditions import RATE
from experiments.figures import curves
from experiments.labels import METHODS
from experiments.scores import cells, chosen, long, score_columns, settings_of
from experiments.stats import best_of
from experiments.study import Study
from experiments.sweep import rate_by_threshold
from experiments.tables import SIGNED, Artefact, Table
from experiments.tuning import at_the_edge

TITLE = "Learning rate: one grid for all methods"
HEADS = {"method": "method", RATE: "learning rate"}
TRIALS = (1, 2, 4, 8, 16)
BY_RATE = (
    "score_by_learning_rate",
    "Score by learning rate",
    "Report split, selected weights: mean over seeds, band: one population SD.",
)
BY_TRIALS = (
    "expected_maximum_by_trials",
    "Expected maximum by number of trials",
    "Expected best score on the select split (Dodge et al. 2019).",
)
EDGE = "at the edge of the grid"


def build(study: Study) -> list[Artefact | None]:
    """The best of each method, the grid, expected maxima, and two figures."""
    found = cells(study, chosen(study, *HEADS), *HEADS)
    found = found[found["label"].isin(study.first_labels)]
    maxima = expected_maxima(study)
    return [
        _best(found),
        _grid(found),
        _expected(maxima),
        curves(BY_RATE, found[found["mean"].notna()], (RATE, "peak learning rate"), ticks=True),
        curves(BY_TRIALS, maxima, ("trials", "trials"), ("select", "expected best, select (points)")),
        *rate_by_threshold(study),
    ]


def _best(found: pd.DataFrame) -> Table:
    rows = []
    for (method, label), part in found.groupby(["method", "label"], sort=False):
        whole = part[part["select"].notna() & (part["points"].map(len) == part["of"])]
        row: dict[str, object] = {"method": METHODS.get(str(method), method), "metric": label}
        row |= {"learning rates": len(whole), "learning rates of": len(part)}
        if len(whole):
            best = whole.loc[whole["select"].idxmax()]
            report = score_columns(part[part[RATE] == best[RATE]], "report").iloc[0].to_dict()
            row |= {"best": best[RATE], "select": best["select"], **report}
            row["remark"] = EDGE if at_the_edge(best[RATE], whole[RATE]) else ""
        rows.append(row)
    grids = found.groupby("method")[RATE].agg(lambda rates: tuple(sorted(set(rates))))
    same = "All methods have the same grid." if grids.nunique() == 1 else "The methods do not have the same grid."
    same = f" {same}" if len(grids) > 1 else ""
    caption = (
        "The learning rate with the best mean on the select split, and its score on the report split (points, mean ± "
        "population SD over seeds). Learning rates: those of which every seed has a score, of those planned; another "
        f"study of the same task may have tried more.{same}"
    )
    data = pd.DataFrame(rows)
    return Table("learning_rate", "Best learning rate of each method", caption, data, {"best": "{:g}"})


def _grid(found: pd.DataFrame) -> Table:
    places = found[[*HEADS]].drop_duplicates().reset_index(drop=True)
    data = settings_of(places, HEADS)
    for label, part in found.groupby("label", sort=False):
        data = data.join(score_columns(places.merge(part, on=[*HEADS], how="left"), str(label)))
    caption = "Report split, points, mean ± population SD over seeds, of the selected weights."
    return Table("grid", "Every learning rate", caption, data, {"learning rate": "{:g}"})


def trials(study: Study) -> pd.DataFrame:
    """One learning rate with one seed is a trial: method, label, ``at_select`` and ``points`` (on report) of each."""
    rows = long(study, study.runs, first=True).dropna(subset=["at_select", "points"])
    return rows.sort_values(["at_select", "points"], kind="stable")


def expected(tried: pd.DataFrame, count: int) -> tuple[float, float]:
    """Expected select score of the best of ``count`` trials, and the report score that comes with it.

    ``tried``: rows sorted by ``at_select``. Trials of equal select scores are chosen from at random: each stands for
    the mean of their report scores.
    """
    weights = best_of(len(tried), count)
    report = tried.groupby("at_select")["points"].transform("mean")
    best, with_it = (math.fsum(weights * each) for each in (tried["at_select"], report))  # @ rounds as processors like
    return best, with_it


def expected_maxima(study: Study) -> pd.DataFrame:
    """method, label, trials, select, report: of every number of trials there are."""
    order = study.runs[["method"]].drop_duplicates()
    rows = [
        (method, label, count, *expected(part, count))
        for (method, label), part in trials(study).groupby(["method", "label"], sort=False)
        for count in range(1, len(part) + 1)
    ]
    found = pd.DataFrame(rows, columns=["method", "label", "trials", "select", "report"])
    return order.merge(found, on="method").reset_index(drop=True)


def _expected(maxima: pd.DataFrame) -> Table:
    last = maxima["trials"] == maxima.groupby(["method", "label"])["trials"].transform("max")
    found = maxima[maxima["trials"].isin(TRIALS) | last].reset_index(drop=True)
    data = settings_of(found, {"method": "method", "label": "metric", "trials": "trials"})
    data = data.join(found[["select", "report"]])
    data["select - report"] = data["select"] - data["report"]
    caption = (
        "A trial is one learning rate with one seed, drawn with replacement from those made (Dodge et al. 2019). "
        "Select: expected best score on the select split, points. Report: the score on the report split of the trial "
        "that is best on the select split. Select - report: their difference."
    )
    return Table("expected_maximum", "Expected maximum by number of trials", caption, data, {"select - report": SIGNED})
