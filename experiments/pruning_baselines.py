"""The sparsifying scheduler in its three variants against one-shot magnitude pruning of the same dense models."""

from __future__ import annotations

import math

import pandas as pd

from experiments.labels import TASKS
from experiments.levels import SENTENCE, SHARES, Line, curves, figure, interpolated, levels, varied
from experiments.stats import sd, t_interval
from experiments.study import Study
from experiments.tables import SIGNED, Artefact, Figure, Table

TITLE = "Sparsifying scheduler against one-shot magnitude pruning"
ACCEPTS = frozenset({"synthetic"})
VARIANTS = {  # name -> what it is, in words
    "scheduler": "learning rate warmed up and decayed anew in every level (the paper's Algorithm 1 as read here)",
    "scheduler, constant rate": "the peak learning rate in every level",
    "scheduler, no rate": "learning rate 0 in every level, as the released code runs: gates only shrink",
    "one-shot": "the gates of smallest magnitude zeroed at once, nothing trained again",
}
NAMES = tuple(VARIANTS)
OF_RATE = {"rewarm": NAMES[0], "constant": NAMES[1], "authors_zero": NAMES[2]}
OF_FILE = {"sparsify": NAMES[0], "sparsify_constant": NAMES[1], "sparsify_authors": NAMES[2], "one_shot": NAMES[3]}
BUDGETS = (50, 25, 10, 5, 2)  # percent of the dense model's live parameters
DRAWN = (
    "Thick: mean over seeds at each level, with a band of one population SD; thin: the seeds. Live parameters on "
    f"a log scale, without the head. {SENTENCE} "
    f"{' '.join(f'{name.capitalize()}: {words}.' for name, words in VARIANTS.items())}"
)


def build(study: Study) -> list[Artefact | None]:
    """Generalization and memorization over live parameters, and generalization at equal live parameters."""
    more = varied(study, "task", "method", "schedule", "schedule.lr")
    names, one_shot = (
        pd.Series([", ".join(filter(None, pair)) for pair in zip(variants, more, strict=True)], study.runs.index)
        for variants in (variant(study), [NAMES[3]] * len(more))
    )
    found = levels(study, names)
    figures = [_figure(study, found, share) for share in reversed(SHARES)]
    return [*figures, _budgets(curves(study, names, found), found, dict(zip(names, one_shot, strict=True)))]


def variant(study: Study) -> pd.Series:
    """What each run's schedule is called here: by its record, or, before it has one, by the file it is to use."""
    runs = study.runs
    planned = runs.get("schedule", pd.Series(None, runs.index, dtype=object))
    known = runs["schedule.lr"].map(OF_RATE.get).fillna(runs["schedule.kind"]).fillna("none")
    known = known.where(runs["schedule.kind"] != "one_shot", NAMES[3])
    return known.where(runs["done"], planned.map(lambda file: OF_FILE.get(file, str(file))))


def _figure(study: Study, found: pd.DataFrame, share: str) -> Figure | None:
    """One of the two percentages over live parameters, a panel for each task."""
    styles = list(dict.fromkeys([*NAMES, *found["name"]]))  # a variant looks the same everywhere
    lines = {
        TASKS.get(task, task): [
            Line(part, share, str(name), styles.index(name))
            for name, part in found[found["task"] == task].groupby("name", sort=False)
        ]
        for task in study.tasks
    }
    about = share, f"{share.capitalize()}: the scheduler's variants and one-shot pruning", DRAWN
    return figure(about, lines, f"{share}\n(% of the dense model)", columns=2, room=0.8)


def at_share(found: pd.DataFrame, percent: float) -> pd.Series:
    """Each seed's generalization where ``percent`` of its dense model's parameters live; NaN beyond its levels."""
    values = {
        seeds: interpolated(part["live"], part["generalization"], percent / 100 * part["dense"].iloc[0])
        for seeds, part in found.groupby("seeds", sort=False)
    }
    return pd.Series(values, dtype=float)


def _budgets(shown: pd.DataFrame, found: pd.DataFrame, one_shot: dict[str, str]) -> Table:
    """Generalization at equal shares of the dense model, and each variant's paired difference to one-shot pruning."""
    rows = []
    for _, curve in shown.iterrows():
        task, name, base = curve["task"], curve["name"], one_shot[curve["name"]]
        mine, theirs = (found[(found["task"] == task) & (found["name"] == each)] for each in (name, base))
        row = {"task": TASKS.get(task, task), "schedule": name, "runs": curve["runs"], "runs of": curve["runs of"]}
        for head, share in ((f"at {share} %", share) for share in BUDGETS):
            values = at_share(mine, share)
            whole = len(values) > 0 and values.notna().all()
            gaps = (values - at_share(theirs, share)).dropna() if whole and name != base else []
            low, high = t_interval(gaps)
            row |= {head: values.mean() if whole else math.nan, f"{head} sd": sd(values) if whole else math.nan}
            row |= {f"{head}, minus one-shot": low, f"{head}, minus one-shot high": high}
        rows.append(row)
    data = pd.DataFrame(rows)
    formats = {column: SIGNED if "minus" in column else "{:.1f}" for column in data}
    caption = (
        "Generalization in percent of the dense model at shares of the dense model's live parameters: mean ± "
        "population SD over seeds, each seed's curve interpolated linearly in the logarithm of live parameters + 1 "
        "between its levels (– where not every seed's levels reach the share). Minus one-shot: 95 % t-interval of "
        "the difference, paired by seed, as the dense model of a seed is the same; one interval for each share, not "
        f"corrected for their number. {SENTENCE}"
    )
    return Table("budgets", "Generalization at equal live parameters", caption, data, formats)
