"""Sizes and parameter counts of the runs of a pack: what a dry run prints, and what a record has of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sora.backbones.head import describe
from sora.methods.regime import regime
from sora.tasks import TaskData
from sora.training.job import Job
from sora.training.pack import Pack, build_pack, notes_of


def sizes(jobs: Sequence[Job], data: TaskData) -> list[dict[str, Any]]:
    """List for each run of a dry run: identity, sizes of the splits, parameter counts, adapted matrices."""
    pack = build_pack([job.run for job in jobs], data, torch.device("cpu"), encode=False)
    words = describe(pack.model.backbone, jobs[0].run.backbone.pooling)
    counts = {group.name: group.columns.stop - group.columns.start for group in pack.optimizer.groups}
    lines = []
    for replica, job in enumerate(jobs):
        summary = pack.method.summary(replica)
        expected = regime(job.run, pack.timeline)
        low_rank = {"low_rank": counts["adapter"], "gates": counts.get("gate", 0)} if summary.ranks else {}
        if summary.absent:
            low_rank["low_rank"] -= summary.absent
        lines.append(
            {
                "run_id": job.run_id,
                "backbone": job.run.backbone.name,
                "method": job.run.method.name,
                "task": job.run.task.name,
                "protocol": job.run.protocol.name,
                "seed": job.run.seed,
                "steps": pack.total_steps,
                "sizes": data.sizes,
                "partial": data.partial,
                "params": parameter_counts(pack, replica) | low_rank,
                **({"matrices": len(summary.ranks), "targets": list(summary.ranks)} if summary.ranks else {}),
                **({"regime": expected.numbers()} if expected else {}),
                **({"warning": expected.warning()} if expected and expected.warning() else {}),
                **({"built": words} if words else {}),
                **({"notes": notes} if (notes := notes_of(job.run, data)) else {}),
                "record": str(job.record_path),
            }
        )
    return lines


def described(line: dict[str, Any]) -> str:
    """Say in a sentence what ``line`` of a dry run holds, with its warning and notes below."""
    sizes = ", ".join(f"{count:,} {split}" for split, count in line["sizes"].items())
    partial = f" (partial: {', '.join(line['partial'])})" if line["partial"] else ""
    params = line["params"]
    regime = "".join(f", {name} {value:.3g}" for name, value in line.get("regime", {}).items())
    warning = f"\nwarning: {line['warning']}" if "warning" in line else ""
    warning += "".join(f"\nnote: {each}" for each in line.get("notes", []))
    return (
        f"run {line['run_id']}: {line['method']} on {line['task']} with {line['backbone']}, "
        f"protocol {line['protocol']}, seed {line['seed']}; {line['steps']:,} steps; {sizes}{partial}; "
        f"{params['trainable']:,} parameters train, {params['head']:,} of them the head's"
        f"{regime and f'; regime: {regime[2:]}'}{warning}"
    )


def parameter_counts(pack: Pack, replica: int) -> dict[str, int]:
    """Count ``trainable`` (with head and gates), ``live`` and ``authors_formula`` (see Summary), ``head`` (trained)."""
    summary = pack.method.summary(replica)
    head = sum(g.columns.stop - g.columns.start for g in pack.optimizer.groups if g.name.startswith("head"))
    return {
        "trainable": pack.optimizer.rows.shape[1] - summary.absent,
        "live": summary.live,
        "authors_formula": summary.authors_formula,
        "head": head,
    }
