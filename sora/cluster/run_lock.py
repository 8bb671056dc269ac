"""Let one process at a time train a run, on one machine or on all that share the folder of runs (torch-free).

The lock is ``<run folder>/.lock``, held by ``flock``: the system frees it when its process ends, however it ends. Where
a file system has no flock, filelock warns and takes the existence of the file for the lock instead.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from sora.errors import UserError
from sora.files import as_user_error

LOCK = ".lock"
PATIENCE_S = 0.3  # who only looks whether a run is held (holder) holds it for a moment, and is no reason to refuse it


@contextlib.contextmanager
def run_locks(folders: Mapping[str, Path]) -> Iterator[None]:
    """Hold the locks of some runs (run id -> run folder) while the block lasts: all of them, or none.

    Raises:
        UserError: another process holds one of them, or the folder cannot be written.
    """
    with contextlib.ExitStack() as held:
        for run_id, folder in sorted(folders.items()):  # in one order: two packs with common runs must not block both
            advice = "free some space, or set paths.runs to a folder that can be written"
            with as_user_error(folder / LOCK, "cannot be locked", advice):
                folder.mkdir(parents=True, exist_ok=True)
                try:
                    held.enter_context(FileLock(folder / LOCK, timeout=PATIENCE_S))
                except Timeout:
                    raise UserError(
                        f"{folder}: another process is training run {run_id} ({_described(folder)}); wait for it, or "
                        "leave this run out"
                    ) from None
        yield


def holder(folder: Path) -> str | None:
    """Describe the process that trains the run in ``folder``; None where no process does."""
    if not (folder / LOCK).exists():
        return None
    try:
        with FileLock(folder / LOCK, timeout=0):
            return None
    except Timeout:
        return _described(folder)
    except OSError:  # no permission to lock another user's run: nobody knows
        return None


def _described(folder: Path) -> str:
    """Name the holder by status.json, which it writes once it has the lock."""
    try:
        status = json.loads((folder / "status.json").read_text(encoding="utf-8"))
        return f"process {status['pid']} on {status['host']}, since {status['time']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "its status.json does not name it"
