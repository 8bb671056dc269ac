"""Run one command of a sweep in a Slurm job, as anybody could type it, in a snapshot of the code (torch-free).

submitit stores a reference to this class, not its content, so that a job which is requeued for days still runs the code
it was submitted with. The job's exit status is the command's.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import Any

from sora.cluster.code_snapshot import ROOT
from sora.cluster.signals import Preempted


class Command:
    """``python run.py <overrides>``, called in the job; the interface is submitit's."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Run the command; ``overrides`` begin with the flags for a user's own configuration files.

        Raises:
            SystemExit: with the command's status, unless that is 0. USR1 and USR2 first go to submitit's handler, which
                puts the job back into the queue; TERM does not, as it may be somebody's scancel.
        """
        from sora.cli.main import main

        # A study's file asks for a multirun by itself; this is one job of it.
        sys.argv = [str(ROOT / "run.py"), *overrides, "hydra.mode=RUN"]
        try:
            main()
        except Preempted as stop:
            if stop.signal is not signal.SIGTERM:
                signal.raise_signal(signal.SIGUSR2)
            raise

    def checkpoint(self, overrides: Sequence[str]) -> Any:
        """Return the job to submit again: the same, as the runs' own folders hold their checkpoints."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, overrides)
