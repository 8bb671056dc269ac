"""Collect the predictions of the best run of every task into the zip that a leaderboard takes, checked.

    python scripts/submission.py superglue --out superglue.zip          GLUE: glue
    python scripts/submission.py superglue --backbone deberta-v3-base --method sora --protocol paper
    python scripts/submission.py check runs/4f1c2a9b7d3e/predictions/RTE.jsonl ...

The best run is the one with the highest select metric: the report split has no say in it. Runs must have been trained
on complete data, with predict=true then or later. Without every file the zip is refused, unless --incomplete is given.
"""

from __future__ import annotations

import argparse
import io
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sora import records, submissions
from sora.errors import UserError
from sora.files import write_bytes

NOT_IN = ("partial", "random_weights", "synthetic")  # flags of runs that are handed in nowhere


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect or check; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.what == "check":
            for path in options.files:
                print(f"{path}: {submissions.check(path):,} predictions")
        else:
            collect(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def collect(options: argparse.Namespace) -> None:
    """Write the zip. Raises UserError where a file is wrong or, without --incomplete, missing."""
    out = options.out or Path(f"{options.what}.zip")
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder, must be the zip to write, such as {out / options.what}.zip")
    files: dict[str, Path] = {}
    missing: list[str] = []
    asked = [
        record
        for record in records.read_many(options.results / "records")
        if options.backbone in (None, record["config"]["backbone"]["name"])
        and options.method in (None, record["config"]["method"]["name"])
        and options.protocol in (None, record["config"]["protocol"]["name"])
    ]
    candidates = [record for record in asked if not any(record["flags"][flag] for flag in NOT_IN)]
    if len(candidates) < len(asked):
        print(f"left out: {len(asked) - len(candidates)} runs on partial or generated data, or of random weights")
    tasks = submissions.benchmark_tasks(options.what)
    for task in tasks:
        models = [each.name for each in tasks if each.name in (task.trained_on or [task.name])]
        best = best_run(models, candidates, options.runs)
        for name in task.submission.values():
            if best is None or not (path := options.runs / best["run_id"] / "predictions" / name).is_file():
                missing.append(name)
                continue
            count = submissions.check(path)
            files[name] = path
            print(f"{name:14} {count:>7,} predictions  {described(best)}")
    if not files:
        raise UserError(f"{options.runs}: no run of {options.what} that counts has predictions; give predict=true")
    if missing:
        print(f"missing: {', '.join(missing)}")
        if not options.incomplete:
            raise UserError(
                f"the leaderboard of {options.what} refuses a zip without {missing[0]}; train its task with "
                "predict=true, or write what there is with --incomplete"
            )
    write_bytes(out, zipped(files))
    print(out)


def best_run(tasks: list[str], candidates: list[dict[str, Any]], runs: Path) -> dict[str, Any] | None:
    """The record of these tasks with predictions and the highest select metric; ties to the smallest run id.

    Raises UserError where they were selected on examples of different kinds, so that their metrics say nothing of one
    another.
    """
    fitting = [
        record
        for record in candidates
        if record["config"]["task"]["name"] in tasks
        and (runs / record["run_id"] / "predictions" / "scores.json").is_file()
        and record["status"] == "ok"
    ]
    protocols = sorted({record["config"]["protocol"]["name"] for record in fitting})
    if len(protocols) > 1:
        raise UserError(
            f"{tasks[0]}: its runs were selected by the protocols {' and '.join(protocols)}, whose scores cannot be "
            f"compared; choose one, such as --protocol {protocols[0]}"
        )
    return min(fitting, key=lambda record: (-selected(record), record["run_id"]), default=None)


def selected(record: dict[str, Any]) -> float:
    """The select metric of the weights that predicted."""
    value: float | None = record["metrics"]["selected"]["select"].get(
        record["config"]["task"]["select_metric"]  # another one, where a task's file was changed since
    )
    return float("-inf") if value is None else value


def described(record: dict[str, Any]) -> str:
    """Which run it is."""
    config = record["config"]
    metric = config["task"]["select_metric"]
    return (
        f"{config['backbone']['name']} {config['method']['name']} seed {config['seed']} run {record['run_id']}, "
        f"protocol {config['protocol']['name']}, "
        f"select {metric} {selected(record):.4f}"
    )


def zipped(files: dict[str, Path]) -> bytes:
    """A zip without folders whose bytes depend on the files alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name].read_bytes())
    return buffer.getvalue()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/submission.py", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    for name in ("glue", "superglue"):
        command = commands.add_parser(name, help=f"collect the files of {name} into a zip")
        command.add_argument("--results", type=Path, default=Path("results"), help="folder of records/ (results)")
        command.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run folders (runs)")
        command.add_argument("--out", type=Path, help=f"the zip to write ({name}.zip)")
        command.add_argument("--backbone", help="only runs of this backbone")
        command.add_argument("--method", help="only runs of this method")
        command.add_argument("--protocol", help="only runs that were selected by this protocol")
        command.add_argument("--incomplete", action="store_true", help="write the zip although files are missing")
    check = commands.add_parser("check", help="check prediction files")
    check.add_argument("files", nargs="+", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
