"""Published numbers, read from results/published of this repository: shown next to ours, never mixed with them."""

from __future__ import annotations

from functools import cache

import pandas as pd

from sora.files import ROOT

FOLDER = ROOT / "results" / "published"
NAMES = {"sora": "SoRA paper", "adalora": "AdaLoRA paper"}
BACKBONE = "deberta-v3-base"  # of every number in scores.csv
SENTENCE = (
    "Published numbers are those of results/published: the SoRA paper (arXiv 2311.11696) and the AdaLoRA paper "
    "(arXiv 2303.10512), both on DeBERTaV3-base. results/published/anomalies.md lists cells that five runs on "
    "the authors' split cannot produce."
)


@cache
def scores() -> pd.DataFrame:
    """Every number of scores.csv but the averages, with its columns and ``where``: ``SoRA paper, Table 1``."""
    found = pd.read_csv(FOLDER / "scores.csv", dtype={"table": str, "params": str}, keep_default_na=False)
    found = found[found["task"] != "average"].reset_index(drop=True)
    found["sd"] = pd.to_numeric(found["sd"])
    return found.assign(where=found["source"].map(NAMES) + ", Table " + found["table"])


def lookup(
    source: str, table: str, method: str, task: str, metric: str, split: str = "report", setting: str | None = None
) -> pd.Series | None:
    """The number of that cell, or None. ``setting``: None = whatever it is, the first one printed."""
    every = scores()
    at = (
        every[["source", "table", "method", "task", "metric", "split"]] == [source, table, method, task, metric, split]
    ).all(axis=1)
    if setting is not None:
        at &= every["setting"].isin(["", setting])
    return every[at].iloc[0] if at.any() else None


@cache
def ranks() -> pd.DataFrame:
    """Ranks of Figure 3 of the SoRA paper: task, module, and a column for each layer (``layer_0`` ...)."""
    return pd.read_csv(FOLDER / "ranks.csv")


@cache
def seconds_per_epoch() -> pd.Series:
    """(task, method) -> seconds, Table 4 of the SoRA paper."""
    return pd.read_csv(FOLDER / "seconds_per_epoch.csv").set_index(["task", "method"])["seconds"].astype(float)


@cache
def scheduler() -> pd.DataFrame:
    """Points of the SoRA paper's Figure 2, on RoBERTa-large; ``read``: from the text or off the figure."""
    return pd.read_csv(FOLDER / "scheduler.csv", dtype={"percent": str})
