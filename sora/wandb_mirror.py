"""W&B as a mirror of ``metrics.jsonl``: one W&B run for each run, under its run id, and one group for a pack.

Best effort, as every mirror: the tracker reports an error here once and goes on. W&B is imported when the first line
comes, and told to keep to what it is given: no console, no code, no git, no host, no system metrics.
"""

from __future__ import annotations

import contextlib
import netrc
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from sora.config import TrackerConfig
from sora.errors import UserError
from sora.metrics_file import METRICS, read_metrics

FOLDER = "wandb"  # W&B's own name for its folder


@dataclass(frozen=True)
class MirroredRun:
    """What W&B is told of a run before its first line."""

    run_id: str
    name: str
    folder: Path  # of its metrics.jsonl
    config: Mapping[str, Any]
    tags: tuple[str, ...]


def has_key() -> bool:
    """Whether W&B would find a key, without importing it: in WANDB_API_KEY, or where ``wandb login`` wrote it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        found = netrc.netrc(str(path)).authenticators(host)
        return bool(found and found[2])
    return False


def check_key(config: TrackerConfig) -> None:
    """Raises UserError when W&B is to be online and no key is there: it would ask for one in the middle of a job."""
    if config.name == "wandb" and config.mode == "online" and not has_key():
        raise UserError(
            "tracker.mode=online: W&B has no key; run wandb login, set WANDB_API_KEY, or take tracker.mode=offline"
        )


class WandbSink:
    """The W&B runs of one pack; see ``sora.tracking.Sink``. A run that was not summarised ends as failed."""

    def __init__(self, config: TrackerConfig, runs: Sequence[MirroredRun], folder: Path) -> None:
        self._config, self._mirrored, self._folder = config, list(runs), folder
        self._runs: list[Any] = []
        self._summarised: set[int] = set()

    def resume_at(self, step: int) -> None:
        """Begin with the lines of ``metrics.jsonl`` up to ``step``: W&B cannot go on from an offline run."""
        for replica, run in enumerate(self._mirrored):
            if (run.folder / METRICS).is_file():
                for line in read_metrics(run.folder / METRICS):
                    if line["step"] <= step:
                        self.log(replica, line)

    def log(self, replica: int, line: dict[str, Any]) -> None:
        """One line, its numbers named ``train/loss`` or ``eval/select/accuracy``, at its optimiser step."""
        self._open()
        kind = line["kind"]
        values = dict(_flat({key: line[key] for key in line if key not in ("step", "kind", "nonfinite")}, f"{kind}/"))
        values |= {f"{kind}/{key}": float(name) for key, name in line.get("nonfinite", {}).items()}
        self._runs[replica].log(values, step=line["step"])

    def summarize(self, replica: int, values: Mapping[str, Any]) -> None:
        """What the record says of the finished run, named ``metrics/selected/report/accuracy``."""
        self._open()
        self._runs[replica].summary.update(dict(_flat(values, "")))
        self._summarised.add(replica)

    def close(self) -> None:
        """Finish every W&B run, whatever one of them raises."""
        runs, self._runs = self._runs, []
        with contextlib.ExitStack() as stack:
            for replica, run in enumerate(runs):
                stack.callback(run.finish, exit_code=0 if replica in self._summarised else 1)

    def _open(self) -> None:
        if self._runs:
            return
        import wandb

        mode: Literal["online", "offline"] = "online" if self._config.mode == "online" else "offline"
        settings = wandb.Settings(
            console="off",
            disable_git=True,
            save_code=False,
            silent=True,
            x_disable_meta=True,
            x_disable_stats=True,
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        for run in self._mirrored:
            if mode == "offline":
                self._forget(run.run_id)
            self._runs.append(
                wandb.init(
                    project=self._config.project,
                    entity=self._config.entity,
                    mode=mode,
                    id=run.run_id,
                    name=run.name,
                    group=f"pack-{self._mirrored[0].run_id}",
                    tags=list(run.tags),
                    config=dict(run.config),
                    dir=str(self._folder),
                    resume="allow" if mode == "online" else None,
                    reinit="create_new",
                    settings=settings,
                )
            )

    def _forget(self, run_id: str) -> None:
        """Remove what an earlier process left of this run and nobody has sent: the new one begins at the start."""
        for folder in (self._folder / FOLDER).glob(f"offline-run-*-{run_id}"):
            if not any(folder.glob("*.synced")):
                shutil.rmtree(folder)


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        elif value is not None:
            yield f"{prefix}{key}", value
