"""A run on its way to a record: its id, its folder, its status. Torch-free."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sora.backbones.source import backbone_identity
from sora.config import RunConfig
from sora.errors import UserError
from sora.files import write_text
from sora.runs import records
from sora.runs.run_id import run_id
from sora.tasks import TaskData


@dataclass(frozen=True)
class Job:
    """One run on its way to a record."""

    run: RunConfig
    run_id: str
    weights: dict[str, Any]  # identity of the backbone's weights
    differs: str = ""  # packable values, other than the seed, in which its pack differs

    @property
    def folder(self) -> Path:
        """Return the folder of checkpoints, logs and the adapter."""
        return Path(self.run.paths.runs) / self.run_id

    @property
    def record_path(self) -> Path:
        return records.record_path(Path(self.run.paths.results), self.run, self.run_id)

    def finished(self) -> Path | None:
        """Find the run's record, wherever below ``paths.results`` it lies; None without one."""
        return records.find(Path(self.run.paths.results), self.run_id)

    @property
    def label(self) -> str:
        """Name the replica within its pack, for people."""
        return f"seed {self.run.seed}{self.differs}"

    @property
    def in_progress(self) -> bool:
        """Return whether there are checkpoints: they are removed when every record of the pack is written."""
        return any((self.folder / "checkpoint").glob("step-*.json"))

    @property
    def status(self) -> str:
        """Read ``status`` from status.json; empty without one."""
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
    """Return the time in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def jobs_of(runs: Sequence[RunConfig], data: TaskData) -> list[Job]:
    """Name the runs of a pack. Raises UserError where two of them are one run, or there are no weights."""
    weights = backbone_identity(runs[0].backbone)
    jobs = [
        Job(run, run_id(run, data.sha256, weights), weights, differs)
        for run, differs in zip(runs, differences(runs), strict=True)
    ]
    if len({job.run_id for job in jobs}) < len(jobs):
        labels = "; ".join(f"{job.label} is {job.run_id}" for job in jobs)
        raise UserError(f"pack: entries whose difference has no effect are one run, leave one out ({labels})")
    return jobs


def differences(runs: Sequence[RunConfig]) -> list[str]:
    """Describe the packable values, other than the seed, in which each run differs: `` threshold 1e-05``."""
    texts = [""] * len(runs)
    for key in runs[0].method.PACKABLE:
        group, _, name = key.partition(".")
        values = [getattr(getattr(run, group), name) for run in runs] if name else []
        follows = group == "seeds" and values == [run.seed for run in runs]
        if len(set(values)) > 1 and not follows:
            shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
            named = key if group == "seeds" else name
            texts = [f"{text} {named} {value}" for text, value in zip(texts, shown, strict=True)]
    return texts
