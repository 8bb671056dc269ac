"""``predict=true``: a finished run's selected weights on the test sets, as the files that leaderboards take.

    <paths.runs>/<run id>/predictions/RTE.jsonl      one file a test set, named as the leaderboard wants it
    <paths.runs>/<run id>/predictions/scores.json    metrics of the diagnostic sets whose labels are public

A model of RTE also answers the diagnostic sets AX-b and AX-g, one of MNLI the diagnostic set of GLUE, where their files
are there. Weights come from ``checkpoint/selected.safetensors``, so that a run can be asked long after its training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sora.errors import OutOfMemory
from sora.files import as_user_error, write_text
from sora.publish import leaderboard
from sora.runs.estimate import facts_of
from sora.tasks import Examples, TaskConfig, TaskData, compute_metrics, load_test
from sora.tasks.load import why_not
from sora.training import checkpoint, memory
from sora.training.evaluation import BATCH, predict
from sora.training.pack import Pack, build_pack, encode_split

if TYPE_CHECKING:
    from sora.training.job import Job

# No smaller batch or length: the one is that of every evaluation (evaluation.py), the other would be another run.
LARGER = "the records stay, so give predict=true again on a machine with more memory"
Asked = tuple[TaskConfig, str, Examples]  # task, split, its examples


def write(jobs: Sequence[Job], data: TaskData, device: torch.device, check: Callable[[], None] = lambda: None) -> None:
    """Predict the test sets with every run of ``jobs`` that has not yet, and write its files.

    Packs are split where memory asks for it, as in training. ``check`` is called before every batch, and may raise.

    Raises:
        UserError: the task has no test set, its files are not as described, a run's weights are gone, or the device's
            memory does not suffice for one run.
    """
    asked = _test_sets(jobs[0])
    waiting = [job for job in jobs if not _done(job, asked)]
    if waiting:
        packs = memory.fitting(waiting, facts_of(data), device)
        while packs:
            try:
                _write_pack(packs[0], asked, data, device, check)
                del packs[0]
            except OutOfMemory as error:
                packs[:1] = memory.halved(packs[0], error)
            finally:
                memory.release(device)


def _write_pack(
    jobs: Sequence[Job], asked: Sequence[Asked], data: TaskData, device: torch.device, check: Callable[[], None]
) -> None:
    runs = [job.run for job in jobs]
    scores: list[dict[str, dict[str, float]]] = [{} for _ in jobs]
    with memory.errors(len(jobs), BATCH, LARGER):
        pack = build_pack(runs, data, device, encode=False)
        for replica, job in enumerate(jobs):
            _load_selected(pack, replica, job.folder)
        for task, split, examples in asked:
            logits = predict(pack, encode_split(pack.model.backbone, examples, runs[0]), check)
            for replica, job in enumerate(jobs):
                own = logits[replica]
                path = job.folder / "predictions" / leaderboard.file_of(task, split)
                write_text(path, leaderboard.content(task, examples, own))
                if not split.startswith("test"):
                    scores[replica][task.name] = compute_metrics(task, own.astype(np.float64), **examples.gold)
    for job, found in zip(jobs, scores, strict=True):
        # Written last, and also when it is empty: its presence means that the other files are complete.
        write_text(job.folder / "predictions" / "scores.json", json.dumps(found, indent=1) + "\n")
        print(f"{job.run_id} ({job.label}): predictions in {job.folder / 'predictions'}", flush=True)
        for name, metrics in found.items():
            print(f"  {name:8} " + " ".join(f"{key} {value:.4f}" for key, value in metrics.items()), flush=True)


def _done(job: Job, asked: Sequence[Asked]) -> bool:
    """Return whether every file asked for is complete: predictions of fewer examples are made again."""
    folder = job.folder / "predictions"
    done = (folder / "scores.json").is_file() and all(
        leaderboard.count(folder / leaderboard.file_of(task, split), task) == _asked_for(task, examples)
        for task, split, examples in asked
    )
    if done:
        print(f"{job.run_id} ({job.label}): predictions are in {folder}", flush=True)
    return done


def _asked_for(task: TaskConfig, examples: Examples) -> int:
    """Count the predictions a file must hold: one a question where a question has several candidates."""
    return len(examples) if task.scoring != "candidates" else len(np.unique(examples.gold["groups"]))


def _test_sets(job: Job) -> list[Asked]:
    """List every test set of the run's task and every diagnostic set that is there."""
    run = job.run
    asked = [(run.task, split, examples) for split, examples in load_test(run.task, run.data).items()]
    for task in leaderboard.diagnostics_of(run.task):
        if reason := why_not(task, run.data):
            print(f"{task.name} is left out: {reason}", flush=True)
            continue
        asked += [(task, split, examples) for split, examples in load_test(task, run.data).items()]
    return asked


def _load_selected(pack: Pack, replica: int, folder: Path) -> None:
    path = folder / "checkpoint" / checkpoint.SELECTED
    advice = "give its folder back, or move its record away and train it again with predict=true"
    unfit = (OSError, KeyError, RuntimeError, SafetensorError)
    with (
        as_user_error(path, "no weights of this run", advice, unfit),
        memory.errors(pack.replicas, BATCH, LARGER),  # without memory, weights may well fit the model
    ):
        pack.optimizer.load_named(replica, load_file(path))
