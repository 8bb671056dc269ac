"""One machine with several GPUs and no Slurm: Hydra's joblib launcher with one process for each GPU.

A process takes a GPU that no other one has, for as long as it lives, and CUDA_VISIBLE_DEVICES shows it nothing else. It
then trains one pack after the other: whichever GPU is free takes the next.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from hydra.core.utils import JobReturn

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
    """A GPU that no living process holds, held from now on; waits while there is none."""
    while True:
        for number, gpu in enumerate(gpus):
            lock = (locks / str(number)).open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                continue
            _held.append(lock)
            return gpu
        time.sleep(0.2)


def gpus_of(configured: Sequence[Any] | None) -> list[str]:
    """The names that CUDA_VISIBLE_DEVICES takes: those configured, else those visible here, else all of the machine."""
    from sora.errors import UserError

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


if find_spec("hydra_plugins.hydra_joblib_launcher") is not None:  # Hydra imports every plugin, wanted or not
    from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher

    class GpuLauncher(JoblibLauncher):
        """As many jobs at once as there are GPUs, each alone on one."""

        task_function: Any

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            """Called by the sweeper. Raises UserError where there is no GPU, or a process was killed."""
            from joblib.externals.loky.process_executor import TerminatedWorkerError

            from sora.errors import UserError

            gpus = gpus_of(self.config.cluster.gpus)
            # One job at a time to each process, as the next belongs to whichever GPU is free first.
            self.joblib |= {"n_jobs": len(gpus), "batch_size": "1", "pre_dispatch": "n_jobs"}
            function: Any = self.task_function
            with tempfile.TemporaryDirectory(prefix="sora-gpus-") as locks:
                self.task_function = OnFreeGpu(function, gpus, Path(locks))
                try:
                    return super().launch(job_overrides, initial_job_idx)
                except TerminatedWorkerError as error:
                    raise UserError(
                        "cluster=gpus: a process was killed, perhaps for want of memory, and the others were stopped; "
                        "the same command goes on from the newest checkpoints"
                    ) from error
                finally:
                    self.task_function = function
