"""Give each process of a sweep a GPU of its own (torch-free).

A process takes a GPU that no other one has, for as long as it lives, and CUDA_VISIBLE_DEVICES shows it nothing else.
This stands outside Hydra's plugins on purpose: Hydra executes a plugin's file anew when it looks for plugins, and what
is pickled from a file executed twice travels as a copy, which would forget at each job that its process has a GPU.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from sora.errors import UserError

VARIABLE = "CUDA_VISIBLE_DEVICES"
_held: list[IO[str]] = []  # the lock of this process's GPU; the system releases it when the process ends


class OnFreeGpu:
    """A job's function, called on a GPU that no other process of this sweep has; ``locks`` is a folder for all."""

    def __init__(self, function: Any, gpus: Sequence[str], locks: Path) -> None:
        self.function, self.gpus, self.locks = function, list(gpus), locks

    def __call__(self, *arguments: Any) -> Any:
        if not _held:
            gpu = take(self.gpus, self.locks)
            os.environ[VARIABLE] = gpu  # before torch looks for devices, once in this process
            print(f"process {os.getpid()}: GPU {gpu}", file=sys.stderr, flush=True)
        return self.function(*arguments)


def take(gpus: Sequence[str], locks: Path) -> str:
    """Return a GPU that no living process holds, and hold it; waits while there is none."""
    while True:
        for number, gpu in enumerate(gpus):
            lock = (locks / str(number)).open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another process has it; any other error would make this wait for ever
                lock.close()
                continue
            _held.append(lock)
            return gpu
        time.sleep(0.2)


def gpus_of(configured: Sequence[Any] | None) -> list[str]:
    """Return the names that CUDA_VISIBLE_DEVICES takes: those configured, else those visible, else the machine's.

    Raises:
        UserError: there is none, one is named twice, or what is configured is no list.
    """
    if isinstance(configured, int | str):  # as typed; a list is OmegaConf's
        raise UserError(f"cluster.gpus: got {configured}, must be a list such as [0] or [0,1,3]")
    if configured is not None:
        found = [str(each).strip() for each in configured]
    elif (visible := os.environ.get(VARIABLE)) is not None:
        found = [each.strip() for each in visible.split(",") if each.strip()]
    else:
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        try:
            found = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout.split()
        except (OSError, subprocess.SubprocessError):
            found = []
    if not found:
        where = f"{VARIABLE} is empty" if os.environ.get(VARIABLE) == "" else "nvidia-smi lists none"
        where = where if configured is None else "cluster.gpus is empty"
        raise UserError(f"cluster=gpus: no GPU to give jobs to ({where}); cluster.gpus=[0,1] names them")
    if len(set(found)) < len(found):
        raise UserError(f"cluster.gpus: got {', '.join(found)}, must be each GPU once")
    return found
