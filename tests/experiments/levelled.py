"""Records with levels, made up: what a run with a schedule leaves, without training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sora.runs import records
from tests.experiments import made

NAMES = [f"encoder.layer.{layer}.{module}" for layer in range(6) for module in ("query", "dense")]
RANK = 8


def level(index: int, threshold: float, ranks: Sequence[int], scores: Mapping[str, float]) -> dict[str, Any]:
    """An entry of ``level_results``; a rank of a matrix costs 100 parameters. ``scores``: of accuracy, by split."""
    return {
        "level": index,
        "step": 100 * (index + 1),
        "threshold": threshold,
        **{split: {"accuracy": value} for split, value in scores.items()},
        "live": 100 * sum(ranks),
        "authors_formula": 100 * sum(ranks) + 7,
        "ranks": dict(zip(NAMES, ranks, strict=True)),
    }


def study(
    folder: Path,
    name: str,
    axes: Mapping[str, Sequence[Any]],
    levels: Callable[[Mapping[str, Any]], list[dict[str, Any]]],
    schedule: Callable[[Mapping[str, Any]], dict[str, Any]],
    leave_out: int = 0,
) -> None:
    """A manifest and the records of its runs; ``levels`` and ``schedule`` give those of a run from its axes."""
    manifest = made.study(folder, name, axes, leave_out=leave_out, items=20)
    for run in manifest["runs"][: len(manifest["runs"]) - leave_out]:
        path = folder / run["record"]
        record = records.read(path)
        record["level_results"], record["config"]["schedule"] = levels(run["axes"]), schedule(run["axes"])
        records.validate(record, str(path))
        path.write_text(json.dumps(record), encoding="utf-8")
