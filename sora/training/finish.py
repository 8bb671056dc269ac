"""What a run leaves when its training is over: adapter, record with its arrays, model card, status."""

from __future__ import annotations

from typing import Any

import numpy as np

from sora.publish import card, export
from sora.runs import records
from sora.runs.recipes import origin
from sora.runs.run_id import recorded_config
from sora.tasks import TaskData, compute_metrics
from sora.training import checkpoint
from sora.training.device import peak_bytes
from sora.training.diagnostics import gate_array, rank_diagnostics
from sora.training.evaluation import predicts_one_class
from sora.training.job import Job
from sora.training.loop import Loop
from sora.training.sizes import parameter_counts

STORED = ("select", "report", "report_mm")  # splits whose logits go into the .npz; of levels, all splits
NO_SUMMARY = ("config", "history", "level_results", "provenance")  # of a record; remote loggers have the first two
Arrays = dict[str, np.ndarray]


def finish(
    loop: Loop,
    replica: int,
    job: Job,
    data: TaskData,
    final: dict[str, Any],
    setup_s: float,
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Write adapter, record, model card and status of one run; return the record."""
    pack, progress = loop.pack, loop.progress[replica]
    status = "ok" if progress.diverged_at is None else "diverged"
    adapter = job.folder / "adapter"
    pack.method.export(replica, adapter, pack.model.head)
    export.name_labels(adapter, job.run.task)
    if job.run.method.name != "full" or job.run.predict:  # a whole model lies twice only to predict
        checkpoint.keep_selected(job.folder, pack.optimizer.named(replica))
    written = job.finished()  # of a run that only joined its pack again
    if written is not None:
        record = records.read(written)
    else:
        stored = {name: values for name, values in final["logits"].items() if name in STORED}
        arrays = arrays_of(data, stored)
        for level in (entry["level"] for entry in progress.levels):
            of_level = {name: values[replica] for name, values in loop.levels.logits[level].items()}
            arrays |= arrays_of(data, of_level, f"level{level}_")
        arrays |= gate_array(pack, replica)
        # A run that diverged was changed neither by the update in which it did nor by a later one.
        updates = loop.step if progress.diverged_at is None else progress.diverged_at - 1
        record = {
            "schema": records.SCHEMA_VERSION,
            "run_id": job.run_id,
            "status": status,
            "flags": {
                "one_class": predicts_one_class(job.run.task, final["logits"]["report"], data.splits["report"]),
                "partial": bool(data.partial),
                "synthetic": job.run.task.benchmark == "synthetic",
                "random_weights": job.run.backbone.weights == "random",
                "members_changed": progress.members_changed,
                "device_changed": progress.device_changed,
                "fallbacks": progress.fallbacks,
                "diverged_at": progress.diverged_at,
            },
            "config": recorded_config(job.run, job.weights),
            "history": progress.history,
            "level_results": progress.levels,
            "pack": {"size": len(loop.run_ids), "members": loop.run_ids},
            "metrics": {which: final[which] for which in ("selected", "last")},
            "params": parameter_counts(pack, replica),
            "ranks": pack.method.summary(replica).ranks,
            **rank_diagnostics(pack, replica, final.get("ranks_last"), progress.best_step or 0, updates),
            "data": {
                "sizes": data.sizes,
                "partial": data.partial,
                "truncated": {name: split.tokens.truncated for name, split in pack.splits.items()},
                "sha256": data.sha256,
                "sources": {name: examples.source for name, examples in data.splits.items()},
                "arrays_sha256": records.arrays_digest(arrays),
            },
            "time": {"setup_s": setup_s, "train_s": progress.train_s, "eval_s": progress.eval_s},
            "throughput": {
                "examples_per_s": progress.examples * pack.replicas / max(progress.train_s, 1e-9),
                "tokens_per_s": progress.tokens * pack.replicas / max(progress.train_s, 1e-9),
                "padding": 1.0 - progress.tokens / progress.padded_tokens if progress.padded_tokens else 0.0,
            },
            "memory": {"peak_bytes": peak_bytes(pack.device)},
            "provenance": provenance
            | {"recipe": origin(job.run), "resumed_at": progress.resumed_at}
            | ({"source": source} if (source := getattr(job.run.method, "source", "")) else {}),
        }
        written, record = job.record_path, records.write(job.record_path, record, arrays)
    card.write(adapter, job.run, record)
    loop.tracker.summarize(replica, **{key: record[key] for key in record if key not in NO_SUMMARY})
    job.set_status(status, record=str(written))
    metric = job.run.task.select_metric
    reported = " ".join(f"{name} {value:.4f}" for name, value in final["selected"]["report"].items())
    print(
        f"{job.label}: {status}, step {progress.best_step or 0} selected by {metric}; report {reported}\n"
        f"  record   {written}\n"
        f"  adapter  {adapter}",
        flush=True,
    )
    return record


def arrays_of(data: TaskData, logits: Arrays, prefix: str = "") -> Arrays:
    """Collect ``<split>_{ids,labels}``, where the task has them ``<split>_{groups,credit}``, and the logits."""
    arrays: Arrays = {}
    for name, values in logits.items():
        examples = data.splits[name]
        arrays |= {f"{name}_ids": examples.ids} | {f"{name}_{key}": array for key, array in examples.gold.items()}
        arrays[f"{prefix}{name}_logits"] = _compact(data, name, values)
    return arrays


def _compact(data: TaskData, split: str, logits: np.ndarray) -> np.ndarray:
    """Store logits as float16 where they give the same metrics, else as float32."""
    gold, exact = data.splits[split].gold, logits.astype(np.float32)
    with np.errstate(over="ignore"):
        half = exact.astype(np.float16)
    same = compute_metrics(data.task, half, **gold) == compute_metrics(data.task, exact, **gold)
    return half if same else exact
