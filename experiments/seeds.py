"""What a seed is made of: every initialisation with every order of the training examples."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from experiments.figures import heat_maps
from experiments.labels import METHODS
from experiments.scores import choice, chosen, long
from experiments.stats import sd
from experiments.study import Study
from experiments.tables import Artefact, Table

TITLE = "Seeds: initialisation and order of the data apart"
INIT, DATA = "seeds.init", "seeds.data"
ABOUT = (
    "score_by_init_and_data",
    "Score by initialisation and order of the data",
    "Score on the report split of each run, points.",
)
NOTHING = dict.fromkeys(["SD init", "p init", "SD data", "p data", "SD rest"], np.nan)


def build(study: Study) -> list[Artefact | None]:
    """Parts of the variance, and the grids."""
    runs = chosen(study, "method")
    rows = long(study, runs, first=True)
    groups = {
        (METHODS.get(str(m), str(m)), str(label)): part
        for (m, label), part in rows.groupby(["method", "label"], sort=False)
    }
    grids = {", ".join(key): grid(part) for key, part in groups.items()}
    return [_table(groups, choice(runs)), heat_maps(ABOUT, grids, (DATA, INIT, "score (points)"), "{:.1f}")]


def grid(part: pd.DataFrame) -> pd.DataFrame:
    """Scores in points: a row for each initialisation, a column for each order of the data, NaN where there is none."""
    table = part.pivot_table(index=INIT, columns=DATA, values="points", aggfunc="last", dropna=False)
    return table.reindex(index=part[INIT].unique(), columns=part[DATA].unique())


def parts(scores: pd.DataFrame) -> dict[str, float]:
    """SDs of the effects of rows, of columns and of the rest, with F tests; NaN until the grid is complete.

    Two-way analysis of variance (statsmodels) with one score per place: ``var_rows = (MS_rows - MS_rest) / columns``, 0
    where the estimate is negative; interaction cannot be separated from noise here, and both are the rest.
    """
    if scores.isna().any(axis=None) or min(scores.shape) < 2:
        return NOTHING
    flat = scores.rename_axis(index="init", columns="data").stack().rename("score").reset_index()
    with warnings.catch_warnings():  # of a grid without any rest
        warnings.simplefilter("ignore", RuntimeWarning)
        table = anova_lm(ols("score ~ C(init) + C(data)", flat).fit())
    rest, found = table.loc["Residual", "mean_sq"], {}
    for name, repeats in (("init", scores.shape[1]), ("data", scores.shape[0])):
        found[f"SD {name}"] = float(np.sqrt(max(0.0, (table.loc[f"C({name})", "mean_sq"] - rest) / repeats)))
        found[f"p {name}"] = float(table.loc[f"C({name})", "PR(>F)"])
    return found | {"SD rest": float(np.sqrt(rest))}


def _table(groups: dict[tuple[str, str], pd.DataFrame], words: str) -> Table:
    data = pd.DataFrame(
        [
            {"method": method, "metric": label, "runs": part["done"].sum(), "runs of": len(part)}
            | {"mean": part["points"].mean(), "SD": sd(part["points"])}
            | parts(grid(part))
            for (method, label), part in groups.items()
        ]
    )
    caption = (
        "Points. SD of all runs (population), and SDs of the effect of the initialisation, of the order of the data, "
        "and of the rest (their interaction and what dropout does), from a two-way analysis of variance; an estimate "
        f"below zero is printed as zero. p: F test against the rest. Empty until a grid is complete. {words}"
    )
    return Table("seeds", "Parts of the variance", caption.strip(), data, dict.fromkeys(("p init", "p data"), "{:.4f}"))
