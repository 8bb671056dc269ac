"""Studies made of arms (study.arm), whose every answer is chosen by the test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sora.runs import manifest as studies
from sora.runs import records
from tests.experiments import answered, made
from tests.experiments.answered import Right

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
    """One arm on one task: seed -> which answers are right. ``ranks``: those that were kept, and those without data.

    Returns the manifest's path.
    """
    method, runs = METHOD.get(name, "masked_lora"), []
    for seed, right in rights.items():
        axes: dict[str, Any] = {"method": method, "task": task, "seed": seed}
        salt = name + repr(fixed)
        content = answered.arrays_of(right, right)
        record = made.record(axes, made.scores(task, content), records.arrays_digest(content), salt)
        record["params"]["live"] = live
        if ranks is not None:
            names = [f"encoder.layer.{index}.output.dense" for index in range(len(ranks[0]))]
            record["ranks"] = dict(zip(names, ranks[0], strict=True))
            drawn = dict(zip(names, ranks[1], strict=True))
            record["no_data_ranks"] = {"initial": drawn, "selected": drawn, "last": drawn}
        run_id = made.run_id(axes, salt)
        place = f"records/minilm-l6/{task}/{method}-s{seed}-{run_id}.json"
        records.write(results / place, record, content)
        runs.append({"run_id": run_id, "axes": axes, "record": place, "command": f"python run.py {name} seed={seed}"})
    return studies.write(
        results,
        studies.make(
            "main_table",
            {"method": [method], "task": [task], "seed": list(rights)},
            {"backbone": "minilm-l6", studies.ARM: name, **(fixed or {})},
            runs,
        ),
    )


def right(count: int, items: int = 400, start: int = 0) -> Right:
    """``count`` right answers of ``items``, from ``start`` on, over the end to the beginning."""
    return np.isin(np.arange(items), (np.arange(count) + start) % items)
