"""LoRA's ranks and SoRA's thresholds, two arms of one study, on the axis of live parameters."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sora.runs import manifest as studies
from sora.runs import records
from tests.experiments import answered, made

SEEDS = [0, 1]


def arm(results: Path, name: str, axis: str, live: dict[float, int], right: dict[float, int]) -> None:
    runs = []
    for value, size in live.items():
        for seed in SEEDS:
            axes = {"method": name, "task": "sst2", axis: value, "seed": seed}
            hits = answered.share(right[value], 400)
            path = made.write_run(results, axes)
            content = answered.arrays_of(hits, hits)
            record = made.record(axes, made.scores("sst2", content), records.arrays_digest(content))
            record["params"]["live"] = size
            if name == "lora":
                del record["config"]["method"]["threshold"]
            records.write(path, record, content)
            place = path.relative_to(results).as_posix()
            runs.append({"run_id": record["run_id"], "axes": axes, "record": place, "command": "python run.py"})
    axes_of = {"method": [name], "task": ["sst2"], axis: list(live), "seed": SEEDS}
    studies.write(results, studies.make("rank_budget", axes_of, {"backbone": "minilm-l6", studies.ARM: name}, runs))


def test_both_are_compared_at_as_many_live_parameters(tmp_path: Path) -> None:
    arm(tmp_path, "lora", "method.r", {1: 1000, 4: 4000}, {1: 200, 4: 300})
    arm(tmp_path, "sora", "method.threshold", {1e-4: 3000, 2e-4: 2000}, {1e-4: 320, 2e-4: 280})
    found = answered.built(tmp_path)
    rows = {float(row["ξ"]): row for row in found["iso_parameter"]}
    assert set(rows) == {1e-4, 2e-4}
    there = 50 + 25 * math.log(2) / math.log(4)  # 2,000 lies half way between LoRA's 1,000 and 4,000
    assert float(rows[2e-4]["LoRA there"]) == pytest.approx(there)
    assert float(rows[2e-4]["difference"]) == pytest.approx(70 - there)
    assert {(row["method"], row["r"], row["ξ"]) for row in found["rank_budget"]} == {
        ("LoRA", "1", ""),
        ("LoRA", "4", ""),
        ("SoRA", "8", "0.0001"),
        ("SoRA", "8", "0.0002"),
    }
