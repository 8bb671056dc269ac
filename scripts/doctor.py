"""Check everything a run needs before it starts: one verdict a line.

python scripts/doctor.py task=rte seed=[0,1,2] tracker=wandb       the words are those of run.py

Exit status: 0 nothing failed, 1 a check failed, 2 the words make no run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sora.cli import CONF, explain
from sora.errors import UserError
from sora.resolve import build_runs


def main(words: Sequence[str]) -> int:
    """Print the verdicts; returns the exit status."""
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            runs = build_runs(compose("config", list(words)))
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
