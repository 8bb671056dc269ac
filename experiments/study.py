"""From a results folder to studies: the runs each manifest names, with their records or the reason there is none.

Bad input never stops the rest: every damaged, foreign or contradictory file becomes one sentence in ``problems``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.artefacts import Artefact
from sora import records, studies
from sora.errors import UserError
from sora.recipes import CONF

Record = Mapping[str, Any]
SEED_AXES = ("seed", "seeds.init", "seeds.data")  # what tells repetitions apart, not settings
NAMED_ELSEWHERE = ("own", "auto")  # choices of a group whose name another key gives
REFUSABLE = {"partial": "partial data", "synthetic": "a synthetic task", "random_weights": "random weights"}


@dataclass(frozen=True)
class Definition:
    """A kind of study: what it is called, what it accepts, how its runs become artefacts.

    ``accepts``: the flags of ``REFUSABLE`` that are no reason to leave a record out, because the study is about them.
    """

    name: str
    title: str
    build: Callable[[Study], list[Artefact]]
    accepts: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Run:
    """One run a manifest names. ``record`` is None where there is none to use; ``reason`` then says why."""

    run_id: str
    axes: Mapping[str, Any]
    command: str
    record: Record | None
    path: Path | None
    reason: str = ""


@dataclass
class Study:
    """A manifest and what became of its runs, in the manifest's order. ``problems`` grows while artefacts are built."""

    name: str
    hash: str
    axes: Mapping[str, Sequence[Any]]
    fixed: Mapping[str, str]
    runs: Sequence[Run]
    problems: list[str] = field(default_factory=list)
    memo: dict[object, Any] = field(default_factory=dict, repr=False, compare=False)  # what is dear to compute twice

    @property
    def key(self) -> str:
        """``<study>-<hash>``: the name of its manifest and of its folders."""
        return f"{self.name}-{self.hash}"

    def value(self, run: Run, axis: str) -> Any:
        """The run's value on an axis of the sweep, else the value fixed for all, else its record's; None if unknown."""
        if axis in run.axes:
            return run.axes[axis]
        if axis in self.fixed:
            return self.fixed[axis]
        return None if run.record is None else configured(run.record, axis)

    def values(self, axis: str) -> list[Any]:
        """The values on an axis, in order of appearance; [] where nothing says any."""
        return list(dict.fromkeys(v for v in (freeze(self.value(run, axis)) for run in self.runs) if v is not None))

    def groups(self, *axes: str) -> dict[tuple[Any, ...], list[Run]]:
        """The runs by their values on ``axes`` (lists as tuples), in order of appearance."""
        result: dict[tuple[Any, ...], list[Run]] = {}
        for run in self.runs:
            result.setdefault(tuple(freeze(self.value(run, axis)) for axis in axes), []).append(run)
        return result

    def setting(self, run: Run, *without: str) -> tuple[tuple[str, Any], ...]:
        """The run's axes but its seeds and ``without``: runs of one setting are repetitions of each other."""
        return tuple((k, freeze(v)) for k, v in run.axes.items() if k not in SEED_AXES and k not in without)

    def arrays(self, run: Run) -> records.Arrays | None:
        """The logits of a run, or None, with a problem noted, where they cannot be used."""
        if run.record is None or run.path is None:
            return None
        try:
            return records.read_arrays(run.path, run.record)
        except UserError as error:
            self.problems.append(str(error))
            return None


def freeze(value: Any) -> Any:
    """The value, lists and dictionaries as tuples, so that it can be a key."""
    if isinstance(value, dict):
        return tuple((str(key), freeze(each)) for key, each in sorted(value.items()))
    return tuple(freeze(each) for each in value) if isinstance(value, list) else value


def configured(record: Record, axis: str) -> Any:
    """What the record's configuration says on an axis: ``task`` is the group's name, ``method.r`` a field."""
    node: Any = record["config"]
    for part in axis.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node.get("name") if isinstance(node, Mapping) else node


@dataclass(frozen=True)
class Loaded:
    """All studies of a results folder, by manifest name, and one sentence for each file that could not be used."""

    studies: list[Study]
    problems: list[str]


def load(results: Path, accepts: Callable[[str], frozenset[str]]) -> Loaded:
    """Read the manifests of ``results`` and the records they name.

    ``accepts``: study name -> the flags it accepts (``Definition.accepts``).
    """
    problems: list[str] = []
    found, spoilt = _records(results, problems)
    loaded = []
    for file in sorted((results / studies.FOLDER).glob("*.json")):
        try:
            manifest = studies.read(file)
        except UserError as error:
            problems.append(str(error))
            continue
        if file != studies.path(results, manifest):
            problems.append(f"{file}: holds the manifest {manifest['study']}-{manifest['hash']}; give it that name")
            continue
        runs = [_run(each, found, spoilt, accepts(manifest["study"]), problems) for each in manifest["runs"]]
        if runs and not any(run.path or run.run_id in spoilt for run in runs):
            problems.append(f"{file}: none of its {len(runs)} runs has a record; run them, or delete the manifest")
        loaded.append(Study(manifest["study"], manifest["hash"], manifest["axes"], manifest["fixed"], runs))
    return Loaded(loaded, problems)


def _records(results: Path, problems: list[str]) -> tuple[dict[str, tuple[Path, Record]], dict[str, str]]:
    """Run id -> its file and record, and run id -> why its file is of no use."""
    found: dict[str, tuple[Path, Record]] = {}
    spoilt: dict[str, str] = {}
    for path in sorted((results / "records").rglob("*.json")):
        named = path.stem.rpartition("-")[2]
        try:
            record = records.read(path)
        except UserError as error:
            problems.append(str(error))
            spoilt[named] = "damaged record"
            continue
        run_id = record["run_id"]
        if named != run_id:
            problems.append(f"{path}: holds run {run_id}, which is not the one it is named after; restore or remove it")
            continue
        if run_id not in found:
            found[run_id] = path, record
        elif records.science(found[run_id][1]) == records.science(record):
            if not found[run_id][0].with_suffix(".npz").is_file():  # the copy that still has its arrays serves better
                found[run_id] = path, record
        else:
            problems.append(f"{path}: says of run {run_id} other things than {found[run_id][0]}; remove the wrong one")
            spoilt[run_id] = "two records that contradict each other"
    for run_id in spoilt.keys() & found.keys():
        if spoilt[run_id] != "damaged record":  # a damaged copy beside a whole record does no harm
            del found[run_id]
    return found, spoilt


def _run(
    entry: Mapping[str, Any],
    found: Mapping[str, tuple[Path, Record]],
    spoilt: Mapping[str, str],
    accepts: frozenset[str],
    problems: list[str],
) -> Run:
    run_id, axes, command = entry["run_id"], entry["axes"], entry["command"]
    path, record = found.get(run_id, (None, None))
    if record is None or path is None:
        return Run(run_id, axes, command, None, None, spoilt.get(run_id, "not run"))
    if contradiction := _contradiction(axes, record):
        problems.append(f"{path}: {contradiction}, against the study's manifest; restore or remove it")
        return Run(run_id, axes, command, None, path, "foreign record")
    for flag, words in REFUSABLE.items():
        if record["flags"][flag] and flag not in accepts:
            return Run(run_id, axes, command, None, path, f"refused, as it is about {words}")
    return Run(run_id, axes, command, record, path)


def _contradiction(axes: Mapping[str, Any], record: Record) -> str:
    """Where the record's configuration differs from the axes, or an empty string."""
    for axis, wanted in axes.items():
        held = configured(record, axis)
        if held is None or wanted is None or _equal(held, wanted):
            continue
        if isinstance(held, list) and sorted(map(str, held)) == sorted(map(str, [wanted])):
            continue  # method.targets=query and [query] are one setting
        if wanted in NAMED_ELSEWHERE and axis in ("task", "backbone"):
            continue  # task=own task.name=mine: the run id ties the two
        if (CONF / axis).is_dir() and not (CONF / axis / f"{wanted}.yaml").is_file():
            continue  # somebody's own choice of a group, whose file may give another name: the run id ties the two
        return f"{axis} is {held!r} and not {wanted!r}"
    return ""


def _equal(held: Any, wanted: Any) -> bool:
    if isinstance(held, list) and isinstance(wanted, list):
        return sorted(map(str, held)) == sorted(map(str, wanted))
    try:
        return held == wanted or math.isclose(float(held), float(wanted), rel_tol=1e-9)
    except (TypeError, ValueError):
        return bool(held == wanted)


def commands(runs: Iterable[Run]) -> tuple[str, ...]:
    """The commands of the runs that could be filled by running them."""
    return tuple(run.command for run in runs if run.record is None and not run.reason.startswith("refused"))
