"""SoRA as the released code has it, as the paper prints it, and each difference alone (conf/fidelity)."""

from __future__ import annotations

import pandas as pd

from experiments.comparisons import comparison_table, sides
from experiments.draws import draws
from experiments.scores import by_seed, cells, chosen, detail_table, long, paired, score_table
from experiments.study import REFUSABLE, Study
from experiments.tables import EMPTY, SIGNED, Artefact, Table, size
from sora.method_config import SoraConfig

TITLE = "SoRA as its paper prints it and as its code has it"
ACCEPTS = frozenset(REFUSABLE)
BASE = "authors"  # the setting that all others are compared with
AXES = {"fidelity": "reading", "method.fidelity": "reading", "head": "head"}
WORDS = (  # of each switch: the paper, the released code (TsinghuaC3I/SoRA, commit c275ac2), the place in the code
    (
        "gate_update",
        "the gate takes a gradient step, g − η ∇L (Eq. 10)",
        "the gate takes an Adam step (no weight decay, eps 1e-6)",
        "src/sparse_optimizer.py",
    ),
    (
        "threshold_rule",
        "ξ = η_t λ, so it falls with the learning rate (Eq. 10, 11)",
        "ξ is the same at every step",
        "src/sparse_optimizer.py; sparse_optimizer_multiply_lr.py exists and is not used",
    ),
    (
        "prox",
        "soft threshold: what is within ξ of zero becomes zero (Eq. 11)",
        "shrinks by ξ in place, then zeroes what is below ξ: within 2ξ becomes zero",
        "src/sparse_optimizer.py, lines 117-119",
    ),
    (
        "penalty_rule",
        "the proximal step stands for the L1 term (Eq. 10, 14)",
        "adds λ times the mean |g| to the loss beside the proximal step",
        "compute_loss of its trainer",
    ),
)
HEAD = (
    "head",
    "says nothing",
    EMPTY,
    "leaves classifier and pooler at their initial values",
    "frozen",
    "config/lora_config.json, unfrozen_modules",
)


def build(study: Study) -> list[Artefact | None]:
    """What the switches are, scores, what each changes against the released code with the same head, details."""
    keys = [axis for axis in AXES if axis in study.axes] or ["method"]
    heads = {axis: AXES.get(axis, axis) for axis in keys}
    runs = chosen(study, *keys)
    runs["setting"] = runs[keys].astype(str).agg(" ".join, axis=1)
    found, drawn = cells(study, runs, *keys), draws(study, runs)
    every = {str(name): side for name, side in sides(study, runs, "setting").items()}
    families = [
        (
            name,
            side,
            {other: each for other, each in every.items() if other != name and other.split()[1:] == name.split()[1:]},
        )
        for name, side in every.items()
        if name.split()[0] == BASE
    ]
    return [
        switches(),
        score_table(study, "fidelity", "Scores by reading", found, heads),
        *([_changes(study, runs)] if "fidelity" in keys else []),
        comparison_table(study, families, drawn),
        detail_table(study, found, heads, drawn),
    ]


def switches() -> Table:
    """Where the paper and the released code differ, with the value of our switch."""
    values = {name: {key: str(value) for key, value in each.items()} for name, each in SoraConfig.SWITCHES.items()}
    rows = [
        (f"method.{key}", paper, values["paper"][key], code, values["authors"][key], place)
        for key, paper, code, place in WORDS
    ]
    columns = ["switch", "the paper", "its value", "the released code", "the code's value", "place in the code"]
    data = pd.DataFrame([*rows, HEAD], columns=columns)
    caption = "Beside each its value of our switch. Places are those of TsinghuaC3I/SoRA at commit c275ac2."
    notes = [
        "A further difference is a count, which every run reports both ways: for a dead rank the code deducts 2 × "
        "hidden whatever the matrix' shape (src/util.py); a rank of a feed-forward matrix has more.",
        "And with a schedule of sparsity levels the code goes on with a learning rate of 0 after the first level "
        "(schedule.lr=authors_zero), where Algorithm 1 trains on; no setting below has a schedule.",
    ]
    return Table("switches", "Where the paper and the released code differ", caption, data, notes=notes)


def _changes(study: Study, runs: pd.DataFrame) -> Table:
    """Each setting against the released code's: the score paired by seed, dead ranks, sizes by both counts."""
    rows, data = long(study, runs), []
    rows["dead"] = 100 * (1 - pd.to_numeric(rows["ranks"]) / (rows["method.r"] * rows["matrices"]))
    for (setting, label), part in rows.groupby(["setting", "label"], sort=False):
        pairs = paired(by_seed(part), by_seed(rows[(rows["setting"] == BASE) & (rows["label"] == label)]), ["points"])
        gaps = (pairs["points"] - pairs["points_b"]).dropna() if setting != BASE else pd.Series(dtype=float)
        row = {"setting": setting, "metric": label, "runs": part["done"].sum(), "runs of": len(part)}
        row |= {"score": part["points"].mean(), "score sd": part["points"].std(ddof=0)}
        row |= {"difference": gaps.mean(), "smallest": gaps.min(), "largest": gaps.max()}
        row |= {"dead ranks, %": part["dead"].mean(), "live weights": part["params.live"].mean()}
        data.append(row | {"by the code's formula": part["params.authors_formula"].mean()})
    caption = (
        "Points, means over seeds; the difference to the released code's setting is paired by seed: its mean, and the "
        "smallest and largest of the seeds. A difference that changes sign between seeds, or is no larger than their "
        "spread, shows nothing."
    )
    formats = {"live weights": size, "by the code's formula": size, "dead ranks, %": "{:.1f}"}
    formats |= dict.fromkeys(("difference", "smallest", "largest"), SIGNED)
    return Table("changes", "What each changes", caption, pd.DataFrame(data), formats)
