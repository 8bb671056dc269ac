"""One training of one pack, from an empty process to records and adapters."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sora.backbones import dropout_op
from sora.backbones.head import describe
from sora.runs.run_id import recorded_config
from sora.tasks import TaskData
from sora.training import checkpoint, memory
from sora.training.device import device_name, environment, slow, take_free_threads
from sora.training.diagnostics import regime_lines
from sora.training.evaluation import EVALUATED, Logits, evaluate, predict
from sora.training.finish import finish
from sora.training.job import Job, now
from sora.training.logging import Tracker
from sora.training.loop import Loop
from sora.training.pack import Pack, PackModel, build_pack, notes_of

SMALLER = "lower trainer.batch_size or trainer.max_length. The newest checkpoint stays"


def train(
    jobs: Sequence[Job], data: TaskData, device: torch.device, command: str, check: Callable[[], None]
) -> dict[str, dict[str, Any]]:
    """Train the pack, from its newest checkpoint unless ``resume=never``; return each run's record by its id.

    ``check`` is called after every step and every batch of an evaluation, and may raise Preempted.

    Raises:
        Preempted: from ``check``; a checkpoint is written.
        UserError: memory or disk do not suffice, a checkpoint does not fit.
    """
    started, clock = now(), time.perf_counter()
    run = jobs[0].run
    for job in jobs if run.resume == "never" else ():
        checkpoint.discard(job.folder)
    remotes = remote_loggers(jobs)
    surroundings = environment(device)  # now: the commit may be another one when the training is over
    with memory.errors(len(jobs), run.trainer.batch_size, SMALLER), _threads_as_before():
        threads = take_free_threads(device)
        pack = build_pack([job.run for job in jobs], data, device)
        fitted_s = fit(pack, check)
        folders, labels = [job.folder for job in jobs], [job.label for job in jobs]
        with Tracker(folders, labels, pack.total_steps, remotes=remotes) as tracker:
            loop = Loop(pack, tracker, [job.run_id for job in jobs], folders, check=check)
            tracker.print(f"device={run.device}: {device_name(device)}, {threads}")
            if words := slow(run.precision, device):
                tracker.print(f"warning: {words}")
            if words := describe(pack.model.backbone, run.backbone.pooling):
                tracker.print(f"backbone {words}")
            step = loop.resume() if run.resume == "auto" else 0
            if step:
                tracker.print(f"resumed at step {step} of {pack.total_steps}")
            if words := dropout_op.missing(device):  # after resuming, which replaces the list
                loop.fall_back(f"dropout in one launch: {words}")
            if run.trainer.cuda_graphs:
                loop.use_graphs()
            for line in [*regime_lines(pack, labels), *(f"note: {each}" for each in notes_of(run, data))]:
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
            written = {
                job.run_id: finish(loop, replica, job, data, final[replica], setup_s - fitted_s, provenance)
                for replica, job in enumerate(jobs)
            }
    for job in jobs:  # only now: a run joins its pack mates again until the record of each is written
        checkpoint.discard(job.folder)
    return written


def fit(pack: Pack, check: Callable[[], None] = lambda: None) -> float:
    """Let a head that can solve for its weights at once, without steps, do so; return the seconds it took."""
    started = time.perf_counter()
    head: Any = pack.model.head
    if not hasattr(head, "solve"):
        return 0.0
    split = pack.splits["train"]
    pooling = PackModel(pack.model.backbone, head.pool)
    head.solve(predict(replace(pack, model=pooling), split, check)[0], split.examples.labels)
    return time.perf_counter() - started


@contextlib.contextmanager
def _threads_as_before() -> Iterator[None]:
    """Restore the thread count: a continued run takes the one it began with, the next job of this process does not."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def remote_loggers(jobs: Sequence[Job]) -> list[Any]:
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


def final_evaluation(loop: Loop) -> list[dict[str, Any]]:
    """Measure the last and the selected weights of each replica; keep the logits of the latter.

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
        selected = progress.best_step or 0
        # A run that diverged has the weights from before that update, however long its pack went on.
        last = loop.step if progress.diverged_at is None else max(selected, progress.diverged_at - 1)
        result["last"]["step"], result["selected"]["step"] = last, selected
    return results


def splits_of(which: str, train_subset: str) -> list[str]:
    """List the splits on which the ``last`` or ``selected`` weights are measured, by ``trainer.train_subset``."""
    left_out = train_subset == "never" or (train_subset == "selected" and which == "last")
    return [name for name in EVALUATED if name != "train_subset" or not left_out]
