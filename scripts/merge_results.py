"""Joins results folders of several machines into one.

    python scripts/merge_results.py results-from-a results-from-b --into results

Every record is read and checked, with its logits, and every study manifest, before anything is written. A run that
several folders have counts once when its science is equal; when it differs, nothing is written, and both files are
named. Manifests of one sweep become one that names all their runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sora.cli.console import Parser, place_of, run
from sora.errors import UserError
from sora.files import replaced
from sora.runs import manifest as studies
from sora.runs import records

Record = dict[str, Any]


def merge(sources: Sequence[Path], target: Path) -> dict[str, int]:
    """Copy what ``target`` lacks; returns how many records were ``new``, and how many it had as ``equal`` ones.

    Raises:
        UserError: a folder has no results, a file is damaged, two records of one run or two manifests of one sweep
            differ, or the target cannot be written.
    """
    known = {record["run_id"]: (path, record) for path, record in _records(target)} if target.is_dir() else {}
    new: dict[str, Path] = {}  # place below the target -> file to copy
    equal = 0
    for source in sources:
        if not any((source / name).is_dir() for name in ("records", studies.FOLDER)):
            raise UserError(f"{source}: has neither records/ nor {studies.FOLDER}/, so it is no folder of results")
        for path, record in _records(source):
            name = record["run_id"]
            if name not in known:
                new[name] = path
                known[name] = (path, record)
            elif records.science(record) == records.science(known[name][1]):
                equal += 1
            else:
                keys = _different(record, known[name][1])
                raise UserError(
                    f"{path} and {known[name][0]}: both are run {name}, but differ in {', '.join(keys)}; nothing was "
                    "merged. Find out which machine is wrong, and take that record away"
                )
    manifests = _manifests([*([target] if target.is_dir() else []), *sources])
    for name, path in new.items():
        record = known[name][1]
        place = target / "records" / _place(record)
        for file in (path.with_suffix(".npz"), path):  # the JSON last: where it is, the run is complete
            _copy(file, place.with_suffix(file.suffix))
    for manifest in manifests:
        place = studies.path(target, manifest)
        if not place.is_file() or studies.read(place) != manifest:
            studies.write(target, manifest)
    return {"new": len(new), "equal": equal}


def _records(results: Path) -> list[tuple[Path, Record]]:
    """The records of a results folder with their files, each with arrays that are its own."""
    found = []
    for path in sorted((results / "records").rglob("*.json")):
        records.read_arrays(path)
        found.append((path, records.read(path)))
    return found


def _manifests(folders: Sequence[Path]) -> list[studies.Manifest]:
    """The manifests of all folders, those of one sweep united."""
    found: dict[str, tuple[Path, studies.Manifest]] = {}
    for folder in folders:
        for path in sorted((folder / studies.FOLDER).glob("*.json")):
            manifest = studies.read(path)
            if path.name not in found:
                found[path.name] = path, manifest
                continue
            known, first = found[path.name]
            if places := studies.contradictions(first, manifest):
                raise UserError(
                    f"{path} and {known}: name different runs for {places[0]}; nothing was merged. The data, the "
                    "weights or the versions of the two machines differ: take one of the manifests away"
                )
            found[path.name] = known, studies.united(first, manifest)
    return [manifest for _, manifest in found.values()]


def _place(record: Record) -> Path:
    config = record["config"]
    name = f"{config['method']['name']}-s{config['seed']}-{record['run_id']}.json"
    return Path(config["backbone"]["name"]) / config["task"]["name"] / name


def _different(one: Record, other: Record) -> list[str]:
    return [key for key, value in records.science(one).items() if value != records.science(other).get(key)]


def _copy(file: Path, place: Path) -> None:
    try:
        with replaced(place) as partial:
            shutil.copyfile(file, partial)
    except OSError as error:
        raise UserError(f"{place}: cannot be written ({error.strerror}); choose another folder with --into") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Join the folders; returns the exit status."""
    parser = Parser(description="Join results folders of several machines into one.")
    parser.add_argument("sources", nargs="+", type=place_of, help="results folders")
    parser.add_argument("--into", type=place_of, default=Path("results"), help="where to add them (default: results)")
    options = parser.parse_args(arguments)
    counts = merge(options.sources, options.into)
    print(f"{counts['new']} records added to {options.into}; {counts['equal']} were there already, and are equal")
    return 0


if __name__ == "__main__":
    run(main)
