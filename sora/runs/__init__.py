"""The runs of a results folder as tables (pandas).

    import sora.runs
    runs = sora.runs.load("results")  # one row a run
    runs.groupby(["task", "method"]).score.agg(["mean", "std", "count"])

pandas is imported with the first of these names, so that a training does not wait for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = [
    "Results",
    "data_dependence",
    "frame",
    "frozen",
    "history",
    "leaves",
    "load",
    "points",
    "ranks",
    "read",
    "table",
    "varying",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "results" if name in ("Results", "read") else "dataframe"
    return getattr(import_module(f"{__name__}.{home}"), name)
