"""How far each study is: what it has, lacks, what failed, what runs now, and what the rest may cost (torch-free).

    python scripts/status.py [--results results] [--runs runs] [--study main_table ...] [--commands 3]

Runs now: a process holds the run's lock (sora/cluster/run_lock.py). Exit status: 0; 2 for a mistake in the command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.progress import described, progress
from experiments.study import load
from sora.cli.console import Parser, place_of, run
from sora.runs.commands import here, hydra_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Print where the studies stand; returns the exit status."""
    parser = Parser(
        prog="scripts/status.py",
        description="Show what each study has, lacks, what failed, what runs now, and what the rest may cost.",
    )
    parser.add_argument(
        "--results", type=place_of, default="results", help="the folder of records/ and studies/ (default: results)"
    )
    parser.add_argument(
        "--runs", type=place_of, metavar="FOLDER", help="the folder of run folders, paths.runs (default: runs)"
    )
    parser.add_argument("--study", nargs="+", default=[], metavar="NAME", help="only these studies (default: all)")
    parser.add_argument("--config-dir", type=place_of, metavar="FOLDER", help="your own configuration, if one was used")
    parser.add_argument("--commands", type=int, default=3, help="commands of missing runs to print (default: 3)")
    options = parser.parse_args(arguments)
    results = Path(options.results)
    loaded = load(results)
    shown = [study for study in loaded.named(options.study) if study is not loaded.single]
    folders = {"paths.results": str(options.results), "paths.runs": str(options.runs or "runs")}
    words = [f"{key}={hydra_text(folder)}" for key, folder in folders.items() if folder != key.partition(".")[2]]
    own = [str(options.config_dir)] if options.config_dir else []
    for study in shown:
        runs = progress(study, Path(options.runs or "runs"))
        print(described(study, runs, options.commands, lambda command: here(command, own, words)))
    if not shown:
        print(f"no study in {results / 'studies'}; python run.py experiment=main_table makes one")
    problems = [*loaded.problems]
    if options.runs is not None and not Path(options.runs).is_dir():
        problems.append(f"--runs {options.runs}: no such folder, so that no run seems to run now")
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
