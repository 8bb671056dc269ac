"""Check everything a run needs before it starts: one verdict a line.

python scripts/doctor.py task=rte seed=[0,1,2] tracker=wandb       the words are those of run.py

Exit status: 0 nothing failed, 1 a check failed, 2 the words make no run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sora.cli import explain
from sora.compose import runs_of
from sora.errors import UserError

SWEEPS = ("-m", "--multirun")


def main(words: Sequence[str]) -> int:
    """Print the verdicts; returns the exit status."""
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    try:
        if sweep := next((word for word in words if word in SWEEPS or word.startswith("experiment=")), None):
            raise UserError(f"{sweep}: the doctor looks at one job; run.py lists those of a sweep with --dry-run")
        runs = runs_of(words)
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from sora.doctor import examine  # only now: a mistake in the words is told at once

    failed = 0
    for verdict in examine(runs):
        print(verdict, flush=True)
        failed += verdict.level == "FAIL"
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
