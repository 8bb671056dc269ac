"""Copy ``metrics.jsonl`` to W&B: one W&B run for each run, under its run id, and one group for a pack.

W&B is imported with the first line, and gets what is logged alone: no console, no code, no git, no host.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sora.config import TrackerConfig
from sora.errors import UserError

FOLDER = "wandb"  # W&B's own name for its folder


def check_key(config: TrackerConfig) -> None:
    """Raise UserError when W&B is to be online and has no key: it would ask for one in the middle of a job."""
    if config.name != "wandb" or config.mode != "online":
        return
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise UserError(
            "tracker.mode=online: W&B has no key; run wandb login, set WANDB_API_KEY, or take tracker.mode=offline"
        )


class WandbLogger:
    """The W&B runs of one pack. A run that was not summarised ends as failed.

    ``runs``: of each replica the ``id``, ``name``, ``config`` and ``tags`` of its W&B run. ``folder``: paths.runs.
    """

    def __init__(self, config: TrackerConfig, runs: Sequence[Mapping[str, Any]], folder: Path) -> None:
        self._config, self._described, self._folder = config, list(runs), folder
        self._runs: list[Any] = []
        self._summarised: set[int] = set()

    def log(self, replica: int, line: Mapping[str, Any]) -> None:
        """Log the numbers of a line, named ``train/loss`` or ``eval/select/accuracy``, at its optimiser step."""
        self._open()
        values = {key: value for key, value in line.items() if key not in ("step", "kind")}
        self._runs[replica].log(dict(_flat(values, f"{line['kind']}/")), step=line["step"])

    def summarize(self, replica: int, values: Mapping[str, Any]) -> None:
        """Set the summary to the values of a record, named ``metrics/selected/report/accuracy``."""
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

        settings = wandb.Settings(
            console="off", disable_git=True, save_code=False, silent=True, x_disable_meta=True, x_disable_stats=True
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        for described in self._described:
            if self._config.mode == "offline":
                self._forget(described["id"])
            self._runs.append(
                wandb.init(
                    project=self._config.project,
                    entity=self._config.entity,
                    mode="online" if self._config.mode == "online" else "offline",
                    group=f"pack-{self._described[0]['id']}",
                    dir=str(self._folder),
                    resume="allow",
                    reinit="create_new",
                    settings=settings,
                    **described,
                )
            )

    def _forget(self, run_id: str) -> None:
        """Remove offline runs of this id that were not sent: W&B cannot go on from one, and all lines come again."""
        for folder in (self._folder / FOLDER).glob(f"offline-run-*-{run_id}"):
            if not any(folder.glob("*.synced")):
                shutil.rmtree(folder)


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        elif value is not None:
            yield f"{prefix}{key}", value
