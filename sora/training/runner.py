"""From checked runs to records: what a command does beside training. Torch-free until something has to be trained.

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
import shlex
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from sora.backbones.source import backbone_identity
from sora.cluster.run_lock import run_locks
from sora.cluster.signals import Preempted, Preemption
from sora.config import RunConfig
from sora.errors import UserError
from sora.files import write_text
from sora.runs import records
from sora.runs.commands import program
from sora.runs.estimate import facts_of
from sora.runs.run_id import run_id
from sora.tasks import TaskData, load, load_test


@dataclass(frozen=True)
class Job:
    """One run on its way to a record."""

    run: RunConfig
    run_id: str
    weights: dict[str, Any]  # identity of the backbone's weights
    differs: str = ""  # what sets it apart in its pack, beside the seed

    @property
    def folder(self) -> Path:
        """Checkpoints, logs and the adapter."""
        return Path(self.run.paths.runs) / self.run_id

    @property
    def record_path(self) -> Path:
        return records.record_path(Path(self.run.paths.results), self.run, self.run_id)

    @property
    def label(self) -> str:
        """How a person tells the replicas of a pack apart."""
        return f"seed {self.run.seed}{self.differs}"

    @property
    def in_progress(self) -> bool:
        """Whether checkpoints are there: they go when every record of the pack is written."""
        return any((self.folder / "checkpoint").glob("step-*.json"))

    @property
    def status(self) -> str:
        """What status.json says; empty without one."""
        try:
            return str(json.loads((self.folder / "status.json").read_text(encoding="utf-8"))["status"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def set_status(self, status: str, **values: Any) -> None:
        """Replace status.json."""
        who = {"host": socket.gethostname(), "pid": os.getpid()}
        content = {"status": status, "run_id": self.run_id, **who, "time": now()} | values
        write_text(self.folder / "status.json", json.dumps(content, indent=2) + "\n")


def now() -> str:
    """The time in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def run_pack(runs: Sequence[RunConfig], command: str) -> list[dict[str, Any]]:
    """The records of ``runs``, in their order: read where they exist, else trained now, as one pack.

    ``runs`` differ only in what their method can pack. With ``dry_run`` nothing is trained and what comes back, and
    is printed as one line of JSON each, are the sizes.

    Raises:
        UserError: data, weights or, with ``predict``, the test set cannot be had, another process trains one of the
            runs, the device's memory or the disk does not suffice, a checkpoint does not fit.
        Preempted: TERM, USR1 or USR2 came; a checkpoint is written.
    """
    first = runs[0]
    data = load(first.task, first.protocol, first.data)
    weights = backbone_identity(first.backbone)
    jobs = [
        Job(run, run_id(run, data.sha256, weights), weights, differs)
        for run, differs in zip(runs, _differences(runs), strict=True)
    ]
    if len({job.run_id for job in jobs}) < len(jobs):
        labels = "; ".join(f"{job.label} is {job.run_id}" for job in jobs)
        raise UserError(f"pack: entries whose difference has no effect are one run, leave one out ({labels})")
    if first.predict:
        load_test(first.task, first.data)  # what is missing there is told now, not after hours of training
    if first.dry_run:
        return _dry_run(jobs, data)

    finished = {job.run_id: records.find(Path(job.run.paths.results), job.run_id) for job in jobs}
    for job in jobs:
        path = finished[job.run_id]
        if path is not None:
            records.read(path)  # a damaged one is no result
            print(f"{job.run_id} ({job.label}) is finished: {path}", flush=True)
    with Preemption() as preemption:
        if any(path is None for path in finished.values()):
            _train(jobs, data, command, preemption)
        else:
            _complete(jobs)
        if first.predict:
            _predict(jobs, data, preemption)
    written = (records.find(Path(job.run.paths.results), job.run_id) for job in jobs)
    return [records.read(path) for path in written if path is not None]


def _differences(runs: Sequence[RunConfig]) -> list[str]:
    """Of each run the packable values, beside the seed, in which the runs differ: `` threshold 1e-05``."""
    texts = [""] * len(runs)
    for key in runs[0].method.packable:
        group, _, name = key.partition(".")
        values = [getattr(getattr(run, group), name) for run in runs] if name else []
        follows = group == "seeds" and values == [run.seed for run in runs]
        if len(set(values)) > 1 and not follows:
            shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
            named = key if group == "seeds" else name
            texts = [f"{text} {named} {value}" for text, value in zip(texts, shown, strict=True)]
    return texts


def _dry_run(jobs: Sequence[Job], data: TaskData) -> list[dict[str, Any]]:
    from sora.training.session import sizes

    lines = sizes(jobs, data)
    for line in lines:
        print(json.dumps(line), flush=True)
    return lines


def _predict(jobs: Sequence[Job], data: TaskData, preemption: Preemption) -> None:
    from sora.training import predictions
    from sora.training.device import choose_device

    predictions.write(jobs, data, choose_device(jobs[0].run.deterministic, jobs[0].run.device), preemption.check)


def _complete(jobs: Sequence[Job]) -> None:
    """Write the card and the status of runs whose process ended between their record and that, and drop checkpoints."""
    left = [job for job in jobs if job.in_progress or job.status not in ("", "ok", "diverged")]
    left = [job for job in left if _pack_is_finished(job)]
    if not left:
        return
    from sora.publish import card
    from sora.training import checkpoint

    with contextlib.suppress(UserError), run_locks({job.run_id: job.folder for job in left}):  # held: at work on it
        for job in left:
            path = records.find(Path(job.run.paths.results), job.run_id)
            if path is not None and (job.folder / "adapter").is_dir():
                record = records.read(path)
                card.write(job.folder / "adapter", job.run, record)
                job.set_status(record["status"], record=str(path))
                checkpoint.discard(job.folder)


def _pack_is_finished(job: Job) -> bool:
    """Whether nobody needs the checkpoints of a finished run any more: its pack would want them to come together."""
    from sora.training import checkpoint

    results = Path(job.run.paths.results)
    return all(records.find(results, member) is not None for member in checkpoint.company(job.folder))


def _train(pack: Sequence[Job], data: TaskData, command: str, preemption: Preemption) -> None:
    from sora.training.device import choose_device

    choose_device(pack[0].run.deterministic, pack[0].run.device)  # device=cuda without one ends here, before any folder
    for job in pack:
        _make_writable(job.record_path.parent, "paths.results")  # now, not after hours of training
        _make_writable(job.folder, "paths.runs")
    with run_locks({job.run_id: job.folder for job in pack}):
        jobs = _unfinished(pack)  # another process may have finished some before they were locked here
        if not jobs:
            return
        for job in jobs:
            write_text(job.folder / "config.yaml", yaml.safe_dump(asdict(job.run), sort_keys=False))
            job.set_status("running", command=command, resume=_again(command))
        waiting = _companies(jobs)
        try:
            _train_packs(waiting, data, command, preemption)
        except BaseException as error:
            status = {Preempted: "preempted", KeyboardInterrupt: "interrupted"}.get(type(error), "failed")
            for job in itertools.chain.from_iterable(waiting):
                # The error itself must reach the user, also when the disk is too full for this file.
                with contextlib.suppress(UserError, OSError):
                    reason = f"{type(error).__name__}: {error}"
                    job.set_status(status, reason=reason, command=command, resume=_again(command))
            raise


def _again(command: str) -> str:
    """The line for a shell that goes on with the run, here; status.json is not published and may name folders.

    In a launcher's worker, whose arguments are the launcher's, it is ``command`` without its absolute paths.
    """
    words = [word for word in sys.argv if word != "resume=never"]  # which would start anew
    if Path(words[0]).name not in ("run.py", "sora"):
        return f"cd {shlex.quote(os.getcwd())} && {command}"
    typed = shlex.join([*program(), *words[1:]])
    return f"cd {shlex.quote(os.getcwd())} && {typed}"


def _train_packs(waiting: list[list[Job]], data: TaskData, command: str, preemption: Preemption) -> None:
    """Train the packs ``waiting``, split where memory asks for it; what is done leaves the list."""
    from sora.training import memory
    from sora.training.device import choose_device
    from sora.training.session import train

    device = choose_device(waiting[0][0].run.deterministic, waiting[0][0].run.device)
    facts = facts_of(data)
    waiting[:] = [pack for company in waiting for pack in memory.fitting(company, facts, device)]
    # The parts of a pack each go on from the checkpoints that their members share.
    memory.work_off(waiting, device, lambda pack: train(pack, data, command, preemption))


def _companies(jobs: Sequence[Job]) -> list[list[Job]]:
    """Runs whose newest checkpoints were written together stay together, so that they resume to the bit; the others
    form one more pack for each point they have reached, so that none goes back to what another has."""
    from sora.training import checkpoint

    by_id = {job.run_id: job for job in jobs if job.run.resume == "auto"}
    written = {name: tuple(checkpoint.company(job.folder)) for name, job in by_id.items()}
    # A member without any was not reached when the first was being written.
    whole = {names for names in written.values() if names and all(written.get(n) in (names, ()) for n in names)}
    together = [[by_id[name] for name in names] for names in sorted(whole)]
    taken = set(itertools.chain.from_iterable(whole))
    others: dict[tuple[int, bool], list[Job]] = {}
    for job in jobs:
        if job.run_id not in taken:
            point = checkpoint.reached(job.folder) if job.run_id in by_id else (0, False)
            others.setdefault(point, []).append(job)
    return [*together, *others.values()]


def _unfinished(pack: Sequence[Job]) -> list[Job]:
    """The runs of a pack that must train, none when each has its record.

    A finished run that still has checkpoints was stopped before its pack had written every record. It joins its pack
    again, so that the others are evaluated in the company they were trained in, and keeps its record.
    """
    missing = {job.run_id for job in pack if records.find(Path(job.run.paths.results), job.run_id) is None}
    return [job for job in pack if job.run_id in missing or (missing and job.in_progress)]


def _make_writable(folder: Path, key: str) -> None:
    """Make a folder. Raises UserError, naming ``key``, when it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); set {key} to a folder that can") from error
