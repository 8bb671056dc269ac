"""Hydra's submitit launcher with what a long sweep needs: jobs run from a snapshot, and nobody has to wait for them.

The launcher of the package hydra-submitit-launcher composes a job's configuration when the job starts, from the files
as they are then, waits until every job is over, and calls a job that ended in a mistake completed. This one submits the
plain command of each job, with the same keys under ``hydra.launcher``, through submitit as well.
"""

import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

if find_spec("hydra_plugins.hydra_submitit_launcher") is not None:  # Hydra imports every plugin, wanted or not
    from omegaconf import OmegaConf

    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

    class SnapshotLauncher(SlurmLauncher):
        """Submits one job a pack, as an array; returns at once unless ``cluster.wait``."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            """Called by the sweeper. Raises UserError when Slurm does not take the jobs."""
            import submitit

            from hydra_plugins.sora_packed.packed_sweeper import own_files
            from sora.cli.slurm_job import Command
            from sora.cluster import code_snapshot
            from sora.errors import UserError
            from sora.files import expanded

            code = code_snapshot.take(Path(expanded("paths.runs", self.config.paths.runs)) / ".snapshots")
            params = dict(self.params)
            folder, timeouts = params.pop("submitit_folder"), params.pop("max_num_timeout")
            # Safe path: else python -m would look into the current folder first, where the code may have changed.
            path = f"export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"
            params["setup"] = [path, *(params["setup"] or [])]
            common = set(OmegaConf.structured(BaseQueueConf))
            try:
                executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=timeouts)
                executor.update_parameters(**{k if k in common else f"slurm_{k}": v for k, v in params.items()})
                files = own_files(self.config)
                jobs = executor.map_array(Command(), [[*files, *overrides] for overrides in job_overrides])
            except (RuntimeError, submitit.core.utils.FailedSubmissionError) as error:
                reason = " ".join(str(error).split())
                raise UserError(
                    f"cluster=slurm: the jobs could not be submitted ({reason}); submit where sbatch can be called, "
                    "or list the jobs with --dry-run"
                ) from error
            names = ", ".join(job.job_id for job in jobs)
            output = jobs[0].paths.folder.parent
            print(f"submitted to Slurm: {names}\n  code   {code}\n  output {output}", file=sys.stderr)
            return [_outcome(job) for job in jobs] if self.config.cluster.wait else []


def _outcome(job: Any) -> JobReturn:
    """Wait for a job of submitit."""
    outcome = JobReturn(status=JobStatus.COMPLETED)
    try:
        job.result()
    except Exception as error:  # whatever ended the job: the sweep waits for the others
        print(f"error: job {job.job_id}: {error}", file=sys.stderr, flush=True)
        outcome.status = JobStatus.FAILED
    return outcome
