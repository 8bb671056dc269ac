"""Check what a run needs and a dry run does not show, from the device to the gradients: one verdict a line.

python scripts/doctor.py task=rte seed=[0,1,2]                     the words are those of run.py
python scripts/doctor.py task=mine --config-dir my-conf            with configuration of your own

Exit status: 0 nothing failed, 1 a check failed, 2 the arguments make no run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from sora.cli.arguments import parsed, quoted
from sora.cli.console import run
from sora.cli.explain import explain
from sora.errors import UserError
from sora.runs.compose import runs_of


def main(words: Sequence[str]) -> int:
    """Print the verdicts; returns the exit status."""
    try:
        _, arguments = parsed(quoted(words))
        if arguments.help:
            print(__doc__)
            return 0
        for flag in ("cfg", "config_name", "config_path", "package", "info", "resolve", "dry_run"):
            if getattr(arguments, flag):
                name = flag.replace("_", "-")
                raise UserError(f"--{name}: the doctor knows the overrides of run.py and --config-dir; leave it out")
        if arguments.multirun or any(word.startswith("experiment=") for word in arguments.overrides):
            raise UserError("the doctor looks at one job; run.py lists those of a sweep with --dry-run")
        runs = runs_of(arguments.overrides, [arguments.config_dir] if arguments.config_dir else [])
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    from sora.cli.doctor import examine  # only now: a mistake in the command is reported at once

    failed = 0
    for verdict in examine(runs):
        print(verdict, flush=True)
        failed += verdict.level == "FAIL"
    return 1 if failed else 0


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
