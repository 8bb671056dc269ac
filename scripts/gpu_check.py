"""Check on a GPU what no other machine can show: masks to the bit, recorded steps against plain ones, time a step.

    python scripts/gpu_check.py [--backbone NAME] [--steps N] [--out FILE]

Writes one JSON file and prints it. Ends with status 1 where bits differ or something cannot run, 2 without a GPU.
Weights are random and texts are made up: what a step costs does not depend on either.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sora.backbones import DropoutKey, dropout_op
from sora.runs import records
from sora.runs.compose import runs_of
from sora.training import cuda_graphs
from sora.training.device import environment
from sora.training.job import now
from sora.training.pack import Pack, build_pack, losses_of

LENGTHS = (61, 96, 96, 40)  # tokens of the batches, in turns


def main() -> int:
    """Check, print, write; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/gpu_check.py", description="What only a GPU can show.")
    parser.add_argument("--backbone", default="deberta-v3-base", help="architecture (default: deberta-v3-base)")
    parser.add_argument("--steps", type=int, default=20, help="steps of each training (default: 20)")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="where the findings are written")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: torch sees no GPU here", file=sys.stderr)
        return 2
    device, started = torch.device("cuda"), now()
    found: dict[str, Any] = {"dropout_kernel": dropout_op.fault(device) or "equal to the CPU's masks", "trainings": []}
    for replicas, precision in ((1, "fp32"), (5, "fp32"), (1, "bf16"), (5, "bf16")):
        found["trainings"].append(compared(options.backbone, replicas, precision, options.steps))
    found["provenance"] = environment(device) | {"started": started, "finished": now(), "backbone": options.backbone}
    records.write_text(options.out, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    wrong = ["error" in each or (each["precision"] == "fp32" and not each["equal"]) for each in found["trainings"]]
    return 1 if any(wrong) or dropout_op.fault(device) else 0


def compared(backbone: str, replicas: int, precision: str, steps: int) -> dict[str, Any]:
    """A short training with and one without recorded steps: whether they end in the same bits, and milliseconds a step.

    Both see the same padded batches, so that nothing but the recording differs.
    """
    words = [f"backbone={backbone}", "backbone.weights=random", "task=rte", "method=sora", "recipe=none"]
    seeds = str(list(range(replicas))).replace(" ", "")
    runs = runs_of([*words, "trainer.max_steps=1000", f"precision={precision}", f"seed={seeds}"])
    ends: list[Tensor] = []
    row: dict[str, Any] = {"runs": replicas, "precision": precision}
    for recorded in (False, True):
        data: Any = types.SimpleNamespace(splits={"train": range(2490)})
        pack = build_pack(runs, data, torch.device("cuda"), encode=False)
        try:
            row["graphs_ms" if recorded else "eager_ms"] = train(pack, recorded, steps)
        except RuntimeError as error:
            row["error"] = f"{'graphs' if recorded else 'eager'}: {' '.join(str(error).split())[:300]}"
            return row
        ends.append(pack.optimizer.rows.cpu())
        row["graphs_peak_bytes" if recorded else "eager_peak_bytes"] = torch.cuda.max_memory_allocated()
        del pack
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    row["equal"] = torch.equal(*ends)
    row["apart"] = (ends[0] - ends[1]).abs().max().item()
    return row


def train(pack: Pack, recorded: bool, steps: int) -> float:
    """Train ``steps`` steps; returns the median milliseconds of the later half, the device waited for."""
    pack.model.train()
    recorder = cuda_graphs.StepGraphs(pack, max(LENGTHS), cuda_graphs.CudaGraphs()) if recorded else None
    rounded = cuda_graphs.StepGraphs.rounded
    stand_in: Any = types.SimpleNamespace(pack=pack, longest=max(LENGTHS))
    times = []
    for step, (batch, labels) in zip(range(steps), batches(pack), strict=False):
        torch.cuda.synchronize()
        clock = time.perf_counter()
        key = DropoutKey(pack.dropout_seeds, step)
        if recorder is not None:
            losses, penalty = recorder(batch, labels, key)
        else:
            pack.model.backbone.dropout.begin(key)
            losses = losses_of(pack.model(rounded(stand_in, batch)), labels, pack.replicas)
            penalty = pack.method.penalty()
            pack.optimizer.zero_grad()
            (losses if penalty is None else losses + penalty).sum().backward()
        objective = losses if penalty is None else losses + penalty
        pack.optimizer.step(objective, pack.timeline.multiplier(step), pack.thresholds(step))
        pack.method.after_step(step, pack.optimizer.alive)
        torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - clock))
    return float(np.median(times[steps // 2 :]))


def batches(pack: Pack) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Made-up batches of 8 examples a run, of the lengths in turn."""
    rng, count = np.random.default_rng(0), 8 * pack.replicas
    while True:
        for length in LENGTHS:
            words = torch.from_numpy(rng.integers(5, 50, (count, length)))
            valid = torch.from_numpy(np.arange(length) < rng.integers(length // 2, length + 1, (count, 1)))
            batch = {"input_ids": words * valid, "attention_mask": valid.long()}
            labels = torch.from_numpy(rng.integers(0, 2, count))
            yield {name: tensor.to(pack.device) for name, tensor in batch.items()}, labels.to(pack.device)


if __name__ == "__main__":
    sys.exit(main())
