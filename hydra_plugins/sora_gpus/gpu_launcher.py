"""One machine with several GPUs and no Slurm: Hydra's joblib launcher with one process for each GPU.

Whichever GPU is free trains the next pack.
"""

import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn

if find_spec("hydra_plugins.hydra_joblib_launcher") is not None:  # Hydra imports every plugin, wanted or not
    from hydra_plugins.hydra_joblib_launcher.joblib_launcher import JoblibLauncher

    class GpuLauncher(JoblibLauncher):
        """As many jobs at once as there are GPUs, each alone on one."""

        task_function: Any

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            """Called by the sweeper. Raises UserError where there is no GPU, or a process was killed."""
            from joblib.externals.loky.process_executor import TerminatedWorkerError

            from sora.cluster.gpus import OnFreeGpu, gpus_of
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
