"""From checked runs to records: what a command does around the training. Torch-free until something has to be trained.

A run whose record lies in ``paths.results`` is not computed again: its record is named and returned. The others of
the pack train together (session.py) and leave, each in ``<paths.runs>/<run id>/``::

    config.yaml    the resolved configuration
    status.json    running | ok | diverged | failed | interrupted | preempted, since when, and how to go on
    metrics.jsonl, log.txt, checkpoint/, adapter/
    .lock          held by the process that trains the run (sora/cluster/run_lock.py)
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sora.cluster.run_lock import run_locks
from sora.cluster.signals import Preempted, Preemption
from sora.config import RunConfig
from sora.errors import OutOfMemory, UserError
from sora.files import as_user_error, write_text
from sora.runs import records
from sora.runs.commands import again
from sora.runs.estimate import facts_of
from sora.tasks import TaskData, load, load_test
from sora.training.job import Job, jobs_of

if TYPE_CHECKING:
    import torch


def run_pack(runs: Sequence[RunConfig], command: str) -> list[dict[str, Any]]:
    """Return the records of ``runs``, in their order: read where they exist, else trained now, as one pack.

    ``runs`` differ only in what their method can pack. With ``dry_run`` nothing is trained and what comes back, and
    is printed as one line of JSON each, after a summary on standard error, are the sizes.

    Raises:
        UserError: data, weights or, with ``predict``, the test set cannot be had, another process trains one of the
            runs, the device's memory or the disk does not suffice, a checkpoint does not fit.
        Preempted: a signal came; a checkpoint is written.
    """
    first = runs[0]
    data = load(first.task, first.protocol, first.data)
    jobs = jobs_of(runs, data)
    if first.predict:
        load_test(first.task, first.data)  # a missing test set is an error now, not after hours of training
    if first.dry_run:
        return _dry_run(jobs, data)

    known: dict[str, dict[str, Any]] = {}  # run id -> record; a record is validated once, here or when it is written
    for job in jobs:
        if (path := job.finished()) is not None:
            known[job.run_id] = records.read(path)
            print(f"{job.run_id} ({job.label}) is finished: {path}", flush=True)
    with Preemption() as preemption:
        if len(known) == len(jobs):
            _complete(jobs)
        else:
            from sora.training import memory
            from sora.training.device import choose_device
            from sora.training.session import train

            device = choose_device(first.deterministic, first.device)  # device=cuda without one ends here
            with _locked(jobs, data, device, command) as packs:
                while packs:
                    try:
                        known |= train(packs[0], data, device, command, preemption.check)
                        del packs[0]
                    except OutOfMemory as error:
                        packs[:1] = memory.halved(packs[0], error)
                    finally:
                        memory.release(device)
        if first.predict:
            from sora.training import predictions
            from sora.training.device import choose_device

            predictions.write(jobs, data, choose_device(first.deterministic, first.device), preemption.check)
    for job in jobs:
        if job.run_id not in known and (path := job.finished()) is not None:  # by another process
            known[job.run_id] = records.read(path)
    return [known[job.run_id] for job in jobs if job.run_id in known]


def _dry_run(jobs: Sequence[Job], data: TaskData) -> list[dict[str, Any]]:
    from sora.training.sizes import described, sizes

    lines = sizes(jobs, data)
    for line in lines:
        print(described(line), file=sys.stderr, flush=True)
    for line in lines:
        print(json.dumps(line), flush=True)
    return lines


def _complete(jobs: Sequence[Job]) -> None:
    """Write the card and the status of runs whose process ended between their record and that, and drop checkpoints."""
    left = [job for job in jobs if job.in_progress or job.status not in ("", "ok", "diverged")]
    if not left:
        return
    from sora.publish import card
    from sora.training import checkpoint

    results = Path(left[0].run.paths.results)  # a pack needs the checkpoints until all its records exist
    left = [job for job in left if all(records.find(results, member) for member in checkpoint.pack_members(job.folder))]
    with contextlib.suppress(UserError), run_locks({job.run_id: job.folder for job in left}):  # held: at work on it
        for job in left:
            path = job.finished()
            if path is not None and (job.folder / "adapter").is_dir():
                record = records.read(path)
                card.write(job.folder / "adapter", job.run, record)
                job.set_status(record["status"], record=str(path))
                checkpoint.discard(job.folder)


@contextlib.contextmanager
def _locked(jobs: Sequence[Job], data: TaskData, device: torch.device, command: str) -> Iterator[list[list[Job]]]:
    """Lock the runs and yield those that must train, in packs that fit into memory; note in status.json how it ends."""
    from sora.training import memory

    for job in jobs:
        _make_writable(job.record_path.parent, "paths.results")  # now, not after hours of training
        _make_writable(job.folder, "paths.runs")
    with run_locks({job.run_id: job.folder for job in jobs}):
        waiting = _unfinished(jobs)  # another process may have finished some before they were locked here
        facts = facts_of(data)
        packs = [pack for group in _by_checkpoint(waiting) for pack in memory.fitting(group, facts, device)]
        note = {"command": command, "resume": again(command)}
        for job in waiting:
            write_text(job.folder / "config.yaml", yaml.safe_dump(asdict(job.run), sort_keys=False))
            job.set_status("running", **note)
        try:
            yield packs
        except BaseException as error:
            status = {Preempted: "preempted", KeyboardInterrupt: "interrupted"}.get(type(error), "failed")
            for job in (each for each in waiting if each.status == "running"):  # the others have their records
                # The error itself must reach the user, also when the disk is too full for this file.
                with contextlib.suppress(UserError, OSError):
                    job.set_status(status, reason=f"{type(error).__name__}: {error}", **note)
            raise


def _by_checkpoint(jobs: Sequence[Job]) -> list[list[Job]]:
    """Group runs whose newest checkpoints were written together, so that they resume to the bit.

    The others are grouped by the step of their newest checkpoint, so that none loses steps to its pack mates.
    """
    from sora.training import checkpoint

    by_id = {job.run_id: job for job in jobs if job.run.resume == "auto"}
    written = {name: tuple(checkpoint.pack_members(job.folder)) for name, job in by_id.items()}
    kept = {name: len(checkpoint.steps(job.folder)) for name, job in by_id.items()}

    def is_whole(names: tuple[str, ...]) -> bool:
        # A member without a checkpoint was not reached when the first was being written. Where the others have more
        # than that one, it has lost its own, and would send them back to the start.
        counts = [kept.get(name, 0) for name in names]
        return all(written.get(name) in (names, ()) for name in names) and (min(counts) > 0 or max(counts) == 1)

    whole = {names for names in written.values() if names and is_whole(names)}
    together = [[by_id[name] for name in names] for names in sorted(whole)]
    taken = set(itertools.chain.from_iterable(whole))
    others: dict[tuple[int, bool], list[Job]] = {}
    for job in jobs:
        if job.run_id not in taken:
            point = checkpoint.reached(job.folder) if job.run_id in by_id else (0, False)
            others.setdefault(point, []).append(job)
    return [*together, *others.values()]


def _unfinished(pack: Sequence[Job]) -> list[Job]:
    """Return the runs of a pack that must train, none when each has its record.

    A finished run that still has checkpoints was stopped before its pack had written every record. It joins its pack
    again, so that the others are evaluated with the pack mates they were trained with, and keeps its record.
    """
    missing = {job.run_id for job in pack if job.finished() is None}
    return [job for job in pack if job.run_id in missing or (missing and job.in_progress)]


def _make_writable(folder: Path, key: str) -> None:
    """Make a folder. Raises UserError, naming ``key``, when it cannot be made or written to."""
    with as_user_error(folder, "cannot be written", f"set {key} to a folder that can"):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
