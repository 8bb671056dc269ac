"""Published numbers, read from results/published of this repository: shown beside ours, never mixed with them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache

from experiments.columns import Column
from sora.place import ROOT

FOLDER = ROOT / "results" / "published"
NAMES = {"sora": "SoRA paper", "adalora": "AdaLoRA paper"}
BACKBONE = "deberta-v3-base"  # of every number in scores.csv
SENTENCE = (
    "Published numbers are those of results/published: the SoRA paper (arXiv 2311.11696) and the AdaLoRA paper "
    "(arXiv 2303.10512), both on DeBERTaV3-base. results/published/anomalies.md lists cells that the test sets in "
    "question cannot produce."
)


@dataclass(frozen=True)
class Published:
    """One published number, in points; ``sd`` where the source gives one. Hashable: it identifies its cell."""

    source: str  # sora | adalora
    table: str
    method: str
    setting: str  # such as method.r=8; empty where the table varies nothing
    params: str  # as printed
    column: Column
    mean: float
    sd: float | None

    @property
    def where(self) -> str:
        """``SoRA paper, Table 1``."""
        return f"{NAMES[self.source]}, Table {self.table}"


@cache
def scores() -> tuple[Published, ...]:
    """Every number of scores.csv, in its order; averages are left out, as they are no column of a task."""
    found = []
    with (FOLDER / "scores.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["task"] == "average":
                continue
            column = Column(row["task"], row["metric"], row["split"])
            sd = float(row["sd"]) if row["sd"] else None
            found.append(
                Published(
                    row["source"],
                    row["table"],
                    row["method"],
                    row["setting"],
                    row["params"],
                    column,
                    float(row["mean"]),
                    sd,
                )
            )
    return tuple(found)


def lookup(source: str, table: str, method: str, column: Column, setting: str | None = None) -> Published | None:
    """The number of that cell, or None. ``setting``: None = whatever it is, the first one printed."""
    for each in scores():
        cell = (each.source, each.table, each.method, each.column)
        if cell == (source, table, method, column) and (setting is None or each.setting in ("", setting)):
            return each
    return None


@cache
def ranks() -> dict[str, dict[str, list[int]]]:
    """Task -> module -> rank of each layer, as printed in Figure 3 of the SoRA paper."""
    result: dict[str, dict[str, list[int]]] = {}
    with (FOLDER / "ranks.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            layers = [int(row[f"layer_{layer}"]) for layer in range(12)]
            result.setdefault(row["task"], {})[row["module"]] = layers
    return result


@cache
def seconds_per_epoch() -> dict[tuple[str, str], float]:
    """(task, method) -> seconds, Table 4 of the SoRA paper."""
    with (FOLDER / "seconds_per_epoch.csv").open(encoding="utf-8", newline="") as file:
        return {(row["task"], row["method"]): float(row["seconds"]) for row in csv.DictReader(file)}


@dataclass(frozen=True)
class Kept:
    """A point of the SoRA paper's Figure 2. ``percent``: of the dense model's performance, as printed or read."""

    dense: int
    live: int
    percent: str
    source: str  # text | figure


@cache
def scheduler() -> dict[str, list[Kept]]:
    """Task -> points of Figure 2 of the SoRA paper, on RoBERTa-large; dense counts are read off the figure."""
    result: dict[str, list[Kept]] = {}
    with (FOLDER / "scheduler.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            point = Kept(int(row["dense_params"]), int(row["params"]), row["percent"], row["read"])
            result.setdefault(row["task"], []).append(point)
    return result
