"""Study manifests: which runs a table or figure needs, by run id, with the command of each (torch-free).

    <paths.results>/studies/<study>-<hash>.json

The sweeper writes one before its first job starts, and the same command writes the same file again. Readers take from
the records what a manifest names and nothing else: what is missing is known, with its command, and runs of another
study never slip in. docs/studies.md defines each key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from sora.errors import UserError
from sora.files import read_json, write_text
from sora.runs import run_id
from sora.runs.schema import RUN_ID, Part, check

SCHEMA_VERSION = 1
FOLDER = "studies"
UNNAMED = "sweep"  # study of a sweep that was given no name
ARM = "study.arm"  # key of ``fixed``: which row of a study this sweep is
SOURCES = ("method.source", "method.size")  # runs that a control was made from: others with every seed
WAY_OUT = "repeat the sweep's command, which writes it again"


class Place(Part):
    """One run of a study. ``axes``: its value on each axis. ``record``: a path below paths.results."""

    run_id: str = Field(pattern=RUN_ID)
    axes: dict[str, Any]
    record: str
    command: str


class Layout(Part):
    """A manifest; docs/studies.md defines each key."""

    schema_: int = Field(alias="schema", ge=SCHEMA_VERSION)
    study: str
    hash: str
    axes: dict[str, list[Any]]
    fixed: dict[str, str]
    runs: list[Place]


NAME = "[A-Za-z0-9][A-Za-z0-9_-]*"
Manifest = dict[str, Any]
Parts = tuple[dict[str, list[Any]], list[dict[str, Any]], list[str]]  # axes, runs, problems


def make(
    study: str, axes: Mapping[str, Sequence[Any]], fixed: Mapping[str, str], runs: Sequence[Mapping[str, Any]]
) -> Manifest:
    """Return a manifest.

    Args:
        study: its name, letters, digits, ``_`` and ``-``.
        axes: key -> its values, JSON values, in the order of the sweep.
        fixed: key -> the value all runs were given, as it was typed.
        runs: of each run its ``run_id``, its value on every axis (``axes``), the path of its ``record`` below
            paths.results, and the ``command`` that computes it alone.

    Raises:
        UserError: a name that cannot be a file's.
    """
    for key, name in (("study.name", study), (ARM, fixed.get(ARM, study))):
        if re.fullmatch(NAME, name) is None:
            raise UserError(f"{key}: got {name!r}, must be letters, digits, _ and -, as it names a file or a row")
    plain: Manifest = json.loads(
        json.dumps({"axes": dict(axes), "fixed": dict(fixed), "runs": [dict(run) for run in runs]}, allow_nan=False)
    )
    manifest = {
        "schema": SCHEMA_VERSION,
        "study": study,
        "hash": digest(study, plain["axes"], plain["fixed"]),
        **plain,
    }
    return manifest


def digest(study: str, axes: Mapping[str, Any], fixed: Mapping[str, str]) -> str:
    """Return the digest that names a manifest's file."""
    content = {"study": study, "axes": axes, "fixed": fixed}
    return run_id.digest(content)


def path(results: Path, manifest: Manifest) -> Path:
    """Return where a manifest belongs."""
    return Path(results) / FOLDER / f"{manifest['study']}-{manifest['hash']}.json"


def write(results: Path, manifest: Manifest) -> Path:
    """Write a manifest, atomically; returns its path. Raises UserError when it is not valid or cannot be written."""
    file = path(results, manifest)
    validate(manifest, str(file))
    write_text(file, json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return file


def united(old: Manifest, new: Manifest) -> Manifest:
    """Add to ``new`` the runs that only ``old`` could name; both are one sweep, on machines with different data.

    The order is that of ``old``, so that repeating a sweep with less at hand changes nothing. A run that both name is
    that of ``new``.
    """
    own = {_place(run): run for run in new["runs"]}
    runs = [own.pop(_place(run), run) for run in old["runs"]]
    return {**new, "runs": [*runs, *own.values()]}


def contradictions(one: Manifest, other: Manifest) -> list[str]:
    """Return the places, as text, at which two manifests of one sweep name different runs."""
    ids = {_place(run): run["run_id"] for run in one["runs"]}
    return [place for run in other["runs"] if ids.get(place := _place(run), run["run_id"]) != run["run_id"]]


def joined(manifests: Sequence[Manifest]) -> tuple[Manifest, list[str]]:
    """The manifests of one study as one, and a sentence for each two that contradict each other.

    They are those of arms, or, with equal ``fixed``, the parts of one grid. ``fixed`` has what all share. A run that is
    not to be believed is ``contradicted``.
    """
    axes, runs, problems = (_of_arms if ARM in manifests[0]["fixed"] else _of_parts)(manifests)
    shared = [set(manifest["fixed"].items()) for manifest in manifests]
    fixed = {key: text for key, text in manifests[0]["fixed"].items() if all((key, text) in each for each in shared)}
    whole = {"schema": SCHEMA_VERSION, "study": manifests[0]["study"], "axes": axes, "fixed": fixed, "runs": runs}
    return whole | {"hash": digest(whole["study"], axes, fixed)}, problems


def _of_arms(manifests: Sequence[Manifest]) -> Parts:
    """Join arms: with one axis more, ``arm``, and None on axes that a run's own manifest does not have.

    Where two manifests give an arm other settings, or another run at one place, neither is believed: the runs of that
    arm on that task are contradicted.
    """
    settings: dict[tuple[str, Any], tuple[dict[str, str], str]] = {}
    places: dict[str, tuple[dict[str, Any], str]] = {}
    problems: dict[str, None] = {}
    refused = set()
    for manifest in manifests:
        arm, file = manifest["fixed"][ARM], path(Path(), manifest).as_posix()
        own = {key: text for key, text in manifest["fixed"].items() if key not in SOURCES}
        for run in manifest["runs"]:
            axes, row = {"arm": arm, **run["axes"]}, (arm, run["axes"].get("task"))
            place = json.dumps({key: value for key, value in axes.items() if key not in SOURCES}, sort_keys=True)
            known, other = settings.setdefault(row, (own, file))
            first, there = places.setdefault(place, ({**run, "axes": axes}, file))
            if unlike := sorted(key for key in {**known, **own} if known.get(key) != own.get(key)):
                what = f"{unlike[0]} is {known.get(unlike[0], 'not given')} and {own.get(unlike[0], 'not given')}"
            elif first["run_id"] != run["run_id"]:
                other, what = there, f"runs {first['run_id']} and {run['run_id']} at {place}"
            else:
                continue
            refused.add(row)
            problems[f"{other} and {file}: contradict each other on {arm} of {row[1]} ({what}); delete one"] = None
    runs = [run for run, _ in places.values()]
    names = dict.fromkeys(key for run in runs for key in run["axes"])
    for run in runs:
        run["contradicted"] = (run["axes"]["arm"], run["axes"].get("task")) in refused
        run["axes"] = {key: run["axes"].get(key) for key in names}
    return {key: _distinct(run["axes"][key] for run in runs) for key in names}, runs, list(problems)


def _of_parts(manifests: Sequence[Manifest]) -> Parts:
    """Join a grid that grew by further sweeps: each axis has the values of all, numbers in their order.

    A place at which two manifests name different runs is contradicted.
    """
    axes = {key: _distinct(value for each in manifests for value in each["axes"][key]) for key in manifests[0]["axes"]}
    for values in axes.values():
        if all(isinstance(value, int | float) for value in values):
            values.sort()
    places: dict[str, tuple[dict[str, Any], str]] = {}
    problems = []
    for manifest in manifests:
        file = path(Path(), manifest).as_posix()
        for run in manifest["runs"]:
            first, there = places.setdefault(_place(run), ({**run, "contradicted": False}, file))
            if first["run_id"] != run["run_id"]:
                first["contradicted"] = True
                what = f"runs {first['run_id']} and {run['run_id']} at {_place(run)}"
                problems.append(f"{there} and {file}: contradict each other ({what}); delete one")
    runs = [run for run, _ in places.values()]
    runs.sort(key=lambda run: [values.index(run["axes"][key]) for key, values in axes.items()])
    return axes, runs, problems


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Keep the first of equal values, which need not be hashable."""
    found: list[Any] = []
    for value in values:
        found += [value] if value not in found else []
    return found


def _place(run: Mapping[str, Any]) -> str:
    return json.dumps(run["axes"], sort_keys=True)


def read(file: Path) -> Manifest:
    """Return the manifest in ``file``, checked. Raises UserError that names the file and the key."""
    manifest: Manifest = read_json(file, WAY_OUT)
    validate(manifest, str(file))
    return manifest


def read_all(results: Path, study: str | None = None) -> list[Manifest]:
    """Load the manifests below ``results``, by file name: all, or those of one study; [] without any."""
    found = [read(file) for file in sorted((Path(results) / FOLDER).glob("*.json"))]
    return [manifest for manifest in found if study in (None, manifest["study"])]


def validate(manifest: Any, where: str) -> None:
    """Check a manifest against the layout of ``SCHEMA_VERSION``.

    ``where``: the file, for messages. Raises UserError that names it and the key.
    """
    check(Layout, manifest, SCHEMA_VERSION, where, WAY_OUT)
    if manifest["hash"] != digest(manifest["study"], manifest["axes"], manifest["fixed"]):
        _refuse(where, "hash", "is not that of study, axes and fixed")
    seen = set()
    for index, run in enumerate(manifest["runs"]):
        record, axes, place = run["record"], manifest["axes"], _place(run)
        if not (record.startswith("records/") and record.endswith(f"-{run['run_id']}.json")) or "../" in record:
            _refuse(where, f"runs.{index}.record", f"got {record!r}, must be records/.../...-{run['run_id']}.json")
        if run["axes"].keys() != axes.keys() or any(value not in axes[key] for key, value in run["axes"].items()):
            _refuse(where, f"runs.{index}.axes", f"got {place}, which is no place of its axes")
        if place in seen:
            _refuse(where, f"runs.{index}.axes", f"got {place}, which is another run's too")
        seen.add(place)


def _refuse(where: str, key: str, what: str) -> None:
    raise UserError(f"{where}: {key} {what}; {WAY_OUT}")
