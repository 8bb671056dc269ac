"""The two readings of SoRA and each difference between them alone, on one task: what changes, on how many seeds.

``scripts/fidelity.py`` (``make fidelity``) trains the runs and writes the study's manifest: its settings are no grid.
``python run.py experiment=fidelity`` is the grid of readings by heads on more tasks: experiments/readings.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments import readings
from experiments.artefacts import EMPTY, Artefact, Caption, Cell, Table, number, text
from experiments.captions import caption
from experiments.columns import Column, columns, task_label
from experiments.groups import Group, params_cell, score, score_cell
from experiments.study import REFUSABLE, Definition, Record, Study
from sora import stats
from sora.config import SoraConfig


@dataclass(frozen=True)
class Switch:
    """One place where the paper and the released code differ (TsinghuaC3I/SoRA, commit c275ac2).

    ``code``: the value of the released code; ``paper``: that of the paper, or what is trained against it where the
    paper is silent.
    """

    key: str
    paper: str
    code: str
    paper_says: str
    code_does: str
    place: str


READINGS = SoraConfig.SWITCHES
SWITCHES = (
    Switch(
        "method.gate_update",
        READINGS["paper"]["gate_update"],
        READINGS["authors"]["gate_update"],
        "the gate takes a gradient step, g − η ∇L (Eq. 10)",
        "the gate takes an Adam step (no weight decay, eps 1e-6)",
        "src/sparse_optimizer.py",
    ),
    Switch(
        "method.threshold_rule",
        READINGS["paper"]["threshold_rule"],
        READINGS["authors"]["threshold_rule"],
        "ξ = η_t λ, so it falls with the learning rate (Eq. 10, 11)",
        "ξ is the same at every step",
        "src/sparse_optimizer.py; sparse_optimizer_multiply_lr.py exists and is not used",
    ),
    Switch(
        "method.prox",
        READINGS["paper"]["prox"],
        READINGS["authors"]["prox"],
        "soft threshold: what is within ξ of zero becomes zero (Eq. 11)",
        "shrinks by ξ in place, then zeroes what is below ξ: within 2ξ becomes zero",
        "src/sparse_optimizer.py, lines 117-119",
    ),
    Switch(
        "method.penalty_rule",
        READINGS["paper"]["penalty_rule"],
        READINGS["authors"]["penalty_rule"],
        "the proximal step stands for the L1 term (Eq. 10, 14)",
        "adds λ times the mean |g| to the loss beside the proximal step",
        "compute_loss of its trainer",
    ),
    Switch(
        "head",
        "classifier+pooler",
        "frozen",
        "says nothing",
        "leaves classifier and pooler at their initial values",
        "config/lora_config.json, unfrozen_modules",
    ),
)
READING = tuple(switch for switch in SWITCHES if switch.key != "head")  # what method.fidelity sets; never the head
DEFAULT_HEAD = "classifier+pooler"
Values = Mapping[str, str]


def settings() -> dict[str, dict[str, str]]:
    """What is trained, by name, as values of all switches: the code's reading, each switch changed alone, the paper's.

    All but one train the head, which is what both readings do here by default.
    """
    code = {switch.key: switch.code for switch in READING} | {"head": DEFAULT_HEAD}
    found = {"authors": code}
    for switch in READING:
        found[f"only {switch.key.partition('.')[2]}={switch.paper}"] = code | {switch.key: switch.paper}
    found["only head=frozen"] = code | {"head": "frozen"}
    found["paper"] = {switch.key: switch.paper for switch in READING} | {"head": DEFAULT_HEAD}
    return found


def axes(task: str, seeds: Sequence[int]) -> dict[str, list[Any]]:
    """The axes of the study's manifest."""
    switches = {key: list(dict.fromkeys(each[key] for each in settings().values())) for key in settings()["authors"]}
    return {"method": ["sora"], "task": [task], **switches, "seed": list(seeds)}


def build(study: Study) -> list[Artefact]:
    """What the switches are, and what each changes against the released code's reading."""
    if "method.fidelity" in study.axes:
        return [_switches(), *readings.build(study)]
    keys = list(settings()["authors"])
    groups = {key: Group(tuple(runs)) for key, runs in study.groups(*keys).items()}
    named = {tuple(values[key] for key in keys): name for name, values in settings().items()}
    arms = {named[key]: group for key, group in groups.items() if key in named}
    tables: list[Artefact] = [_switches()]
    if "authors" in arms:
        tables += [_changes(study, arms, column) for task in study.values("task") for column in columns(study, task)]
    return tables


def _switches() -> Table:
    rows = [
        [
            text(switch.key),
            text(switch.paper_says),
            text(switch.paper if switch in READING else EMPTY),
            text(switch.code_does),
            text(switch.code),
            text(switch.place),
        ]
        for switch in SWITCHES
    ]
    return Table(
        name="switches",
        title="Where the paper and the released code differ",
        caption=Caption("Beside each its value of our switch. Places are those of TsinghuaC3I/SoRA at commit c275ac2."),
        columns=["switch", "the paper", "value", "the released code", "value", "place in the code"],
        rows=rows,
        notes=[
            "A further difference is a count, which every run reports both ways: for a dead rank the code deducts "
            "2 × hidden whatever the matrix' shape (src/util.py); a rank of a feed-forward matrix has more.",
            "And with a schedule of sparsity levels the code goes on with a learning rate of 0 after the first level "
            "(schedule.lr=authors_zero), where Algorithm 1 trains on; no setting below has a schedule.",
        ],
    )


def _changes(study: Study, arms: Mapping[str, Group], column: Column) -> Table:
    base = arms["authors"]
    rows = []
    for name, group in arms.items():
        rows.append(
            [
                text({"authors": "authors (all as the code)", "paper": "paper (all four as printed)"}.get(name, name)),
                score_cell(group, column),
                _paired(group, base, column) if name != "authors" else Cell(EMPTY),
                number(_mean([100.0 * dead_share(record) for record in group.records]), 1),
                params_cell(group.live()),
                params_cell(_mean([float(record["params"]["authors_formula"]) for record in group.records])),
                text(group.coverage),
            ]
        )
    sizes = {record["data"]["sizes"]["report"] for group in arms.values() for record in group.records}
    notes = [
        f"One of the {size:,} reported examples is {100 / size:.2f} points. A difference that changes sign between "
        "seeds, or is no larger than their spread, shows nothing."
        for size in sorted(sizes)
    ]
    return Table(
        name=f"changes-{column.task}-{column.metric}",
        title=f"What each changes: {task_label(column.task)}",
        caption=caption(
            study,
            f"{column.label} in points, mean ± population SD over seeds; the difference to the first row is paired "
            "by seed: its mean, and the smallest and largest of the seeds.",
        ),
        columns=["setting", "score", "difference", "dead ranks, %", "live weights", "by the code's formula", "seeds"],
        rows=rows,
        notes=notes,
    )


def dead_share(record: Record) -> float:
    """Share of the ranks that were trained and are gone from the selected weights, 0 to 1."""
    ranks = record["ranks"]
    return 1.0 - sum(ranks.values()) / (record["config"]["method"]["r"] * len(ranks))


def _paired(group: Group, base: Group, column: Column) -> Cell:
    """``-1.20 (-2.1 to +0.3)`` over the seeds that both have."""
    own, other = ({r["config"]["seed"]: score(r, column) for r in each.records} for each in (group, base))
    found = [a - b for seed, a in own.items() if a is not None and (b := other.get(seed)) is not None]
    if not found:
        return Cell(EMPTY)
    mean = stats.mean(found)
    extra = {"min": round(min(found), 6), "max": round(max(found), 6), "n": len(found)}
    return Cell(f"{mean:+.2f} ({min(found):+.2f} to {max(found):+.2f})", round(mean, 6), extra)


def _mean(values: Sequence[float]) -> float:
    return stats.mean(values) if values else float("nan")


STUDY = Definition("fidelity", "The two readings of SoRA", build, frozenset(REFUSABLE))
