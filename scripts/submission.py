"""Zip the predictions of the best run of every task, as a leaderboard takes them.

    python scripts/submission.py superglue --out superglue.zip          GLUE: glue
    python scripts/submission.py superglue --backbone deberta-v3-base --method sora --protocol paper

The best run is the one with the highest select metric: the report split has no part in it. Runs must have been trained
on complete data, with predict=true then or later. Without every file the zip is refused, unless --incomplete is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sora.cli.console import Parser, place_of, run
from sora.publish.leaderboard import collect


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the zip; returns the exit status."""
    parser = Parser(prog="scripts/submission.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("benchmark", choices=("glue", "superglue"), help="the leaderboard")
    parser.add_argument("--results", type=place_of, default=Path("results"), help="folder of records/ (results)")
    parser.add_argument("--runs", type=place_of, default=Path("runs"), help="folder of the run folders (runs)")
    parser.add_argument("--out", type=place_of, help="the zip to write (<benchmark>.zip)")
    parser.add_argument("--backbone", help="only runs of this backbone")
    parser.add_argument("--method", help="only runs of this method")
    parser.add_argument("--protocol", help="only runs that were selected by this protocol")
    parser.add_argument("--incomplete", action="store_true", help="write the zip although files are missing")
    options = parser.parse_args(arguments)
    only = {group: getattr(options, group) for group in ("backbone", "method", "protocol")}
    out = options.out or Path(f"{options.benchmark}.zip")
    collect(options.benchmark, options.results, options.runs, out, only, options.incomplete)
    return 0


if __name__ == "__main__":
    run(main)
