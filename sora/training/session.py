"""One training of one pack, from an empty process to records and adapters."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sora.backbones import drop_op
from sora.backbones.head import describe
from sora.methods.regime import regime
from sora.publish import card, export
from sora.runs import records
from sora.runs.recipes import origin
from sora.runs.run_id import recorded_config
from sora.tasks import TaskData, compute_metrics
from sora.training import checkpoint, closed_form, memory
from sora.training.device import choose_device, environment, named, peak_bytes, slow, take_free_threads
from sora.training.diagnostics import gate_array, rank_diagnostics, regime_lines
from sora.training.evaluation import EVALUATED, Logits, evaluate, predicts_one_class
from sora.training.logging import Logger, Tracker
from sora.training.loop import Loop
from sora.training.pack import Pack, build_pack

if TYPE_CHECKING:
    from sora.cluster.signals import Preemption
    from sora.training.runner import Job

STORED = ("select", "report", "report_mm")  # splits whose logits go into the .npz; of levels, all splits
NO_SUMMARY = ("config", "history", "level_results", "provenance")  # of a record; remote loggers have the first two
Arrays = dict[str, np.ndarray]
SMALLER = "lower trainer.batch_size or trainer.max_length. The newest checkpoint stays"


def train(jobs: Sequence[Job], data: TaskData, command: str, preemption: Preemption) -> None:
    """Train the pack, from its newest checkpoint unless ``resume=never``, and write what it leaves.

    Raises:
        Preempted: one of the signals of ``preemption`` came.
        UserError: memory or disk do not suffice, a checkpoint does not fit.
    """
    from sora.training.runner import now

    started, clock = now(), time.perf_counter()
    run = jobs[0].run
    for job in jobs:
        if run.resume == "never":
            checkpoint.discard(job.folder)
    remotes = remote_loggers(jobs)
    device = choose_device(run.deterministic, run.device)
    surroundings = environment(device)  # now: the commit may be another one when the training is over
    with memory.errors(len(jobs), run.trainer.batch_size, SMALLER), _threads_as_before():
        threads = take_free_threads(device)
        pack = build_pack([job.run for job in jobs], data, device)
        fitted_s = closed_form.fit(pack, preemption.check)
        folders, labels = [job.folder for job in jobs], [job.label for job in jobs]
        with Tracker(folders, labels, pack.total_steps, remotes=remotes) as tracker:
            loop = Loop(pack, tracker, [job.run_id for job in jobs], folders, check=preemption.check)
            tracker.print(f"device={run.device}: {named(device)}, {threads}")
            if words := slow(run.precision, device):
                tracker.print(f"warning: {words}")
            if words := describe(pack.model.backbone, run.backbone.pooling):
                tracker.print(f"backbone {words}")
            if words := drop_op.missing(device):
                loop.fall_back(f"dropout in one launch: {words}")
            if run.trainer.cuda_graphs:
                loop.use_graphs()
            step = loop.resume() if run.resume == "auto" else 0
            if step:
                tracker.print(f"resumed at step {step} of {pack.total_steps}")
            for line in regime_lines(pack, labels):
                tracker.print(line)
            setup_s = time.perf_counter() - clock
            if run.method.TRAINS:
                loop.run()
            clock = time.perf_counter()
            final = final_evaluation(loop)
            for progress in loop.progress:
                progress.train_s += fitted_s
                progress.eval_s += time.perf_counter() - clock
            provenance = {"command": command, "started": started, "finished": now()} | surroundings
            provenance["threads"] = torch.get_num_threads()  # of the first half, where a run was continued
            for replica, job in enumerate(jobs):
                _finish(loop, replica, job, data, final[replica], setup_s - fitted_s, provenance)
    for job in jobs:  # only now: see runner.run_pack
        checkpoint.discard(job.folder)


@contextlib.contextmanager
def _threads_as_before() -> Iterator[None]:
    """A run that is continued takes the threads it began with; the next job of this process does not."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def remote_loggers(jobs: Sequence[Job]) -> list[Logger]:
    """Build what ``tracker`` adds to metrics.jsonl. Raises UserError when W&B has no key to be online with."""
    run = jobs[0].run
    if run.tracker.name == "none":
        return []
    from sora.training.logging.wandb import WandbLogger, check_key

    check_key(run.tracker)
    described = [
        {
            "id": job.run_id,
            "name": job.record_path.stem,
            "config": recorded_config(job.run, job.weights),
            "tags": [job.run.backbone.name, job.run.task.name, job.run.method.name, job.run.protocol.name],
        }
        for job in jobs
    ]
    return [WandbLogger(run.tracker, described, Path(run.paths.runs))]


def sizes(jobs: Sequence[Job], data: TaskData) -> list[dict[str, Any]]:
    """What a dry run tells of each run: identity, sizes of the splits, parameter counts, adapted matrices."""
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
                **({"built": words} if words else {}),
                "record": str(job.record_path),
            }
        )
    return lines


def parameter_counts(pack: Pack, replica: int) -> dict[str, int]:
    """``trainable`` (all, with head and gates), ``live`` and ``authors_formula`` (Summary), ``head`` (trained part)."""
    summary = pack.method.summary(replica)
    head = sum(g.columns.stop - g.columns.start for g in pack.optimizer.groups if g.name.startswith("head"))
    return {
        "trainable": pack.optimizer.rows.shape[1] - summary.absent,
        "live": summary.live,
        "authors_formula": summary.authors_formula,
        "head": head,
    }


# -- the end of a run ------------------------------------------------------------------------------------------


def final_evaluation(loop: Loop) -> list[dict[str, Any]]:
    """Of each replica the metrics of the last and of the selected weights, and the logits of the latter.

    ``ranks_last``: the live ranks of the last weights; not with a schedule, whose last level has them. No split is
    evaluated twice by the same weights. Afterwards the model holds the selected weights.
    """
    pack, optimizer = loop.pack, loop.pack.optimizer
    results: list[dict[str, Any]] = [{} for _ in pack.runs]
    logits: Logits = {}
    for which in ("last", "selected"):
        known = loop.known_logits(which)
        if which == "selected":
            known = {**known, **logits} if torch.equal(optimizer.rows, loop.best) else known
            optimizer.rows.copy_(loop.best)
        elif pack.runs[0].schedule.kind == "none":
            for replica, result in enumerate(results):
                result["ranks_last"] = pack.method.summary(replica).ranks
        metrics, logits = evaluate(pack, loop.check, splits_of(which, loop.trainer.train_subset), known)
        for replica, result in enumerate(results):
            result[which] = metrics[replica]
            result["logits"] = {name: values[replica] for name, values in logits.items()}
    for result, progress in zip(results, loop.progress, strict=True):
        result["last"]["step"] = loop.step
        result["selected"]["step"] = progress.best_step or 0
    return results


def splits_of(which: str, train_subset: str) -> list[str]:
    """The splits on which the ``last`` or ``selected`` weights are measured, by ``trainer.train_subset``."""
    left_out = train_subset == "never" or (train_subset == "selected" and which == "last")
    return [name for name in EVALUATED if name != "train_subset" or not left_out]


def _finish(
    loop: Loop,
    replica: int,
    job: Job,
    data: TaskData,
    final: dict[str, Any],
    setup_s: float,
    provenance: dict[str, Any],
) -> None:
    """Adapter, record and status of one run."""
    pack, progress = loop.pack, loop.progress[replica]
    status = "ok" if progress.diverged_at is None else "diverged"
    adapter = job.folder / "adapter"
    pack.method.export(replica, adapter, pack.model.head)
    export.name_labels(adapter, job.run.task)
    if job.run.method.name != "full" or job.run.predict:  # a whole model lies twice only to predict
        checkpoint.keep_selected(job.folder, pack.optimizer.named(replica))
    written = records.find(Path(job.run.paths.results), job.run_id)  # of a run that only joined its pack again
    if written is None:
        stored = {name: values for name, values in final["logits"].items() if name in STORED}
        arrays = arrays_of(data, stored) | level_arrays(loop, replica, data) | gate_array(pack, replica)
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
        records.write(job.record_path, record, arrays)
        written = job.record_path
    record = records.read(written)
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


def arrays_of(data: TaskData, logits: Arrays) -> Arrays:
    """``<split>_{ids,logits,labels}`` and, where the task has them, ``<split>_{groups,credit}``."""
    arrays: Arrays = {}
    for name, values in logits.items():
        arrays |= _examples(data, name) | {f"{name}_logits": _compact(data, name, values)}
    return arrays


def level_arrays(loop: Loop, replica: int, data: TaskData) -> Arrays:
    """``level<k>_<split>_logits`` of every level of a schedule, beside what ``arrays_of`` has but logits."""
    arrays: Arrays = {}
    for entry in loop.progress[replica].levels:
        for name, values in loop.levels.logits[entry["level"]].items():
            arrays |= _examples(data, name)
            arrays[f"level{entry['level']}_{name}_logits"] = _compact(data, name, values[replica])
    return arrays


def _examples(data: TaskData, split: str) -> Arrays:
    examples = data.splits[split]
    return {f"{split}_ids": examples.ids} | {f"{split}_{key}": array for key, array in examples.gold.items()}


def _compact(data: TaskData, split: str, logits: np.ndarray) -> np.ndarray:
    """Logits as float16 where they give the same metrics, else as float32."""
    gold, exact = data.splits[split].gold, logits.astype(np.float32)
    with np.errstate(over="ignore"):
        half = exact.astype(np.float16)
    same = compute_metrics(data.task, half, **gold) == compute_metrics(data.task, exact, **gold)
    return half if same else exact
