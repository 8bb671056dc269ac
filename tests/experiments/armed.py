"""Studies made of arms (study.arm), whose every answer is chosen by the test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sora.runs import manifest as studies
from tests.experiments import answered
from tests.experiments.answered import Answered, Right

METHOD = {"lora_r8": "lora", "sora_small": "sora", "sora_best": "sora", "probe": "probe", "full": "full"}
SEEDS = (0, 21, 42)


def arm(
    results: Path,
    name: str,
    rights: Mapping[int, Right],
    *,
    task: str = "sst2",
    live: int = 200_000,
    fixed: Mapping[str, str] | None = None,
    ranks: tuple[list[int], list[int]] | None = None,
) -> Path:
    """One arm on one task: seed -> which answers are right; returns the manifest's path."""
    method = METHOD.get(name, "masked_lora")
    runs = [
        Answered({"method": method, "task": task, "seed": seed}, right, right, live, ranks)
        for seed, right in rights.items()
    ]
    return answered.study(results, "main_table", runs, fixed={studies.ARM: name, **(fixed or {})})


def right(count: int, items: int = 400, start: int = 0) -> Right:
    """``count`` right answers of ``items``, from ``start`` on, over the end to the beginning."""
    return np.isin(np.arange(items), (np.arange(count) + start) % items)
