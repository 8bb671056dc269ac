"""The runs of a results folder as tables (pandas).

import sora.runs
runs = sora.runs.load("results")  # one row a run
runs.groupby(["task", "method"]).score.agg(["mean", "std", "count"])
"""

from sora.runs.frames import (
    data_dependence,
    frame,
    frozen,
    history,
    leaves,
    levels,
    load,
    points,
    ranks,
    table,
    varying,
)
from sora.runs.results import Results, read

__all__ = [
    "Results",
    "data_dependence",
    "frame",
    "frozen",
    "history",
    "leaves",
    "levels",
    "load",
    "points",
    "ranks",
    "read",
    "table",
    "varying",
]
