"""Joins results folders of several machines into one.

    python scripts/merge_results.py results-from-a results-from-b --into results

Every record is read and checked, with its logits, and every study manifest, before anything is written. A run that
several folders have counts once when its science is equal; when it differs, nothing is written, and both files are
named. Manifests of one sweep become one that names all their runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sora.cli.console import Parser, place_of, run
from sora.errors import UserError
from sora.files import write_bytes
from sora.runs import Results, read, records
from sora.runs import manifest as studies


def merge(sources: Sequence[Path], target: Path) -> dict[str, int]:
    """Copy what ``target`` lacks; returns how many records were ``new``, and how many it had as ``equal`` ones.

    Raises:
        UserError: a folder has no results, a file is damaged, two records of one run or two manifests of one sweep
            differ, or the target cannot be written.
    """
    known = _read(target) if target.is_dir() else Results()
    new: dict[Path, Path] = {}  # place below the target -> file to copy
    equal = 0
    for source in sources:
        if not any((source / name).is_dir() for name in ("records", studies.FOLDER)):
            raise UserError(f"{source}: has neither records/ nor {studies.FOLDER}/, so it is no folder of results")
        found = _read(source)
        for run_id, record in found.records.items():
            path = found.paths[run_id]
            if run_id not in known.records:
                new[path.relative_to(source)] = path
                known.records[run_id], known.paths[run_id] = record, path
                continue
            if unlike := records.unlike(record, known.records[run_id]):
                raise UserError(
                    f"{path} and {known.paths[run_id]}: both are run {run_id}, but differ in {', '.join(unlike)}; "
                    "nothing was merged. Find out which machine is wrong, and take that record away"
                )
            equal += 1
    manifests = _manifests([*([target] if target.is_dir() else []), *sources])
    for place, path in new.items():
        for suffix in (".npz", ".json"):  # the JSON last: where it is, the run is complete
            write_bytes((target / place).with_suffix(suffix), path.with_suffix(suffix).read_bytes())
    for manifest in manifests:
        place = studies.path(target, manifest)
        if not place.is_file() or studies.read(place) != manifest:
            studies.write(target, manifest)
    return {"new": len(new), "equal": equal}


def _read(folder: Path) -> Results:
    """The records of a results folder. Raises UserError where one is damaged, or has arrays that are not its own."""
    found = read(folder)
    if found.problems:
        raise UserError(f"{found.problems[0]}; nothing was merged")
    for run_id, path in found.paths.items():
        records.read_arrays(path, found.records[run_id])
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
