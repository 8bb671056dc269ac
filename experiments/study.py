"""From a results folder to studies: the runs each manifest names as a DataFrame, with their records' values or why not.

Bad input never stops the rest: every damaged, foreign or contradictory file becomes one sentence in ``problems``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

import experiments
from experiments.labels import TASKS, Column, columns_of
from sora import runs
from sora.errors import UserError
from sora.files import CONF
from sora.runs import manifest as studies
from sora.runs.records import Arrays, read_arrays
from sora.runs.results import Record

SEEDS = ["seed", "seeds.init", "seeds.data"]  # what tells repetitions apart, not settings
COLUMNS = (  # of Study.runs, also where no run has them; the other keys of sora.runs.frame are there where one has
    *("run_id", "backbone", "task", "method", "protocol", *SEEDS, "status", "score", "select", "task.metrics", "head"),
    *("task.select_metric", "method.r", "method.init_r", "method.threshold", "method.targets", "precision", "epochs"),
    *("trainer.learning_rate", "trainer.max_steps", "trainer.epochs", "trainer.batch_size", "data.train"),
    *("schedule.kind", "schedule.lr", "schedule.levels", "schedule.steps", "ranks", "matrices"),
    *("data_dependence", "data_dependence_same_total"),
    *("params.live", "params.trainable", "params.authors_formula", "pack.size", "throughput.examples_per_s"),
    *("time.setup_s", "time.train_s", "time.eval_s", "memory.peak_bytes", "provenance.recipe.tuned"),
    *("flags.one_class", "flags.synthetic", "flags.random_weights", "flags.partial", "provenance.device"),
    *("provenance.threads", "last.step", "regime.rho", "regime.travel"),
)
REFUSABLE = {"partial": "partial data", "synthetic": "a synthetic task", "random_weights": "random weights"}
IDENTITY = ("method", "task", "backbone", "seed")  # what a record must have as its manifest has it
NAMED_ELSEWHERE = ("own", "auto")  # choices of a group whose name another key gives
SINGLE = "runs"  # the study of the runs that no manifest names


@dataclass
class Study:
    """A manifest and what became of its runs.

    Attributes:
        axes, fixed: of the manifest.
        runs: one row for each place of the sweep, in its order: its value on every axis, ``run_id``, ``command``,
            ``done`` (whether it has a record to use), ``reason`` (why not), ``diverged``, ``one_class``, and every
            column of :func:`sora.runs.frame`, those of ``COLUMNS`` always.
        records, paths: run id -> the record and its file, of the runs that are done.
        problems: grows while tables are built.
    """

    name: str
    hash: str
    axes: Mapping[str, Sequence[Any]]
    fixed: Mapping[str, str]
    runs: pd.DataFrame
    records: Mapping[str, Record]
    paths: Mapping[str, Path]
    problems: list[str] = field(default_factory=list)
    memo: dict[object, Any] = field(default_factory=dict, repr=False, compare=False)  # resampled scores by their runs

    @property
    def key(self) -> str:
        """``<study>-<hash>``: the name of its manifest and of its folders."""
        return f"{self.name}-{self.hash}" if self.hash else self.name

    @property
    def done(self) -> pd.DataFrame:
        """The runs that have a record."""
        return self.runs[self.runs["done"]]

    @property
    def tasks(self) -> list[str]:
        """In the order of the sweep."""
        return [str(task) for task in self.values("task")]

    def columns(self, task: str) -> list[Column]:
        """The numbers that a table has of a task, see :func:`experiments.labels.columns_of`."""
        known = self.runs.loc[self.runs["task"] == task, "task.metrics"].dropna()
        return columns_of(task, next(iter(known), None))

    @property
    def first_labels(self) -> list[str]:
        """The label of each task's first number."""
        return [self.columns(task)[0].label for task in self.tasks]

    def values(self, column: str) -> list[Any]:
        """The values of a column, in order of appearance; [] where there is no such column."""
        return list(self.runs[column].dropna().unique()) if column in self.runs else []

    def varied(self, *without: str) -> list[str]:
        """The axes with several values, but for ``without`` and the seeds."""
        return [axis for axis, all_ in self.axes.items() if len(all_) > 1 and axis not in (*SEEDS, *without)]

    def missing(self) -> list[str]:
        """The commands that would fill the study, each once."""
        refused = self.runs["reason"].str.startswith("refused")
        return list(dict.fromkeys(self.runs.loc[~self.runs["done"] & ~refused, "command"]))

    def arrays(self, run_id: str) -> Arrays | None:
        """The logits of a run, or None, with a problem noted, where they cannot be used."""
        try:
            return read_arrays(self.paths[run_id], self.records[run_id])
        except UserError as error:
            self.problems.append(str(error))
            return None


@dataclass(frozen=True)
class Loaded:
    """All studies of a results folder, by manifest name, and one sentence for each file that could not be used.

    ``single``: the runs that no manifest names, as a study; None where there are none.
    """

    studies: list[Study]
    single: Study | None
    results: runs.Results
    problems: list[str]

    def named(self, names: Sequence[str]) -> list[Study]:
        """The studies of these names; of none all of them, and the single runs. Raises UserError for an unknown one."""
        every = [*self.studies, *([self.single] if self.single else [])]
        if unknown := [name for name in names if name not in {study.name for study in every}]:
            raise UserError(f"--study {unknown[0]}: no manifest of that name in studies/ of the results")
        return [study for study in every if not names or study.name in names]


def load(results: Path, by_manifest: bool = False) -> Loaded:
    """Read the manifests of ``results`` and the records they name. Raises UserError where there is no such folder.

    ``by_manifest``: leave the parts of a study apart, one manifest a study.
    """
    found = runs.read(results)
    problems, loaded = found.problems, []
    frame = runs.frame(found.records.values()).set_index("run_id", drop=False)
    named: set[str] = set()
    manifests = []
    for file in sorted((results / studies.FOLDER).glob("*.json")):
        try:
            manifest = studies.read(file)
        except UserError as error:
            problems.append(str(error))
            continue
        entries = manifest["runs"]
        named |= {entry["run_id"] for entry in entries}
        if file != studies.path(results, manifest):
            problems.append(f"{file}: holds the manifest {manifest['study']}-{manifest['hash']}; give it that name")
            continue
        if entries and not any(each["run_id"] in {*found.records, *found.spoilt} for each in entries):
            problems.append(f"{file}: none of its {len(entries)} runs has a record; run them, or delete the manifest")
        manifests.append(manifest)
    for manifest in manifests if by_manifest else _united(manifests, problems):
        accepts = experiments.find(manifest["study"]).accepts
        reasons = [_reason(each, manifest["fixed"], found, accepts) for each in manifest["runs"]]
        loaded.append(_study(manifest, reasons, frame, found))
    return Loaded(loaded, _single(frame[~frame["run_id"].isin(named)], found), found, problems)


def _united(manifests: Sequence[studies.Manifest], problems: list[str]) -> list[studies.Manifest]:
    """The manifests, those that are parts of one study as one, in the place of the first.

    Parts are the arms of one study and backbone, and the sweeps of one name that differ in nothing but the values on
    their axes, as when a grid grows. Sweeps that nobody named stay apart.
    """
    groups: dict[object, list[studies.Manifest]] = {}
    for index, manifest in enumerate(manifests):
        name, fixed = manifest["study"], manifest["fixed"]
        if studies.ARM in fixed:
            key: object = name, fixed.get("backbone")
        else:
            key = index if name == studies.UNNAMED else (name, *sorted(fixed.items()), *sorted(manifest["axes"]))
        groups.setdefault(key, []).append(manifest)
    result = []
    for group in groups.values():
        if studies.ARM not in group[0]["fixed"] and len(group) == 1:
            result += group
            continue
        united, found = studies.joined(sorted(group, key=_first_task))
        problems += found
        result.append(united)
    return result


def _first_task(manifest: studies.Manifest) -> tuple[int, str]:
    tasks = [run["axes"].get("task") for run in manifest["runs"]]
    known = list(TASKS)
    return min((known.index(task) for task in tasks if task in known), default=len(known)), manifest["hash"]


def _study(manifest: Mapping[str, Any], reasons: Sequence[str], frame: pd.DataFrame, found: runs.Results) -> Study:
    entries = manifest["runs"]
    ids = [entry["run_id"] for entry in entries]
    usable = [run_id if not reason else None for run_id, reason in zip(ids, reasons, strict=True)]
    table = frame.reindex(pd.Index(usable, dtype=object)).reset_index(drop=True)
    lacking = pd.Series([run_id is None for run_id in usable])
    for key, text in manifest["fixed"].items() if lacking.any() else ():  # what a run without a record will have
        held = table[key] if key in table else pd.Series(None, table.index)
        table[key] = held.astype(object).where(~lacking, _typed(text)).infer_objects()
    axes = {axis: [runs.frozen(entry["axes"][axis]) for entry in entries] for axis in manifest["axes"]}
    own = {"run_id": ids, "command": [each["command"] for each in entries], "reason": list(reasons), **axes}
    columns = {key: pd.Series(values, dtype=None if _plain(values) else object) for key, values in own.items()}
    for axis in axes:  # the arms of a study do not all have it
        if axis in table and None in axes[axis]:
            columns[axis] = columns[axis].where(columns[axis].notna(), table[axis]).infer_objects()
    table = pd.concat([pd.DataFrame(columns), table.drop(columns=[key for key in columns if key in table])], axis=1)
    return _made(manifest["study"], manifest["hash"], manifest["axes"], manifest["fixed"], table, found)


def _made(
    name: str, digest: str, axes: Mapping[str, Sequence[Any]], fixed: Mapping[str, str], table: pd.DataFrame, found: Any
) -> Study:
    """Mark what became of each run, and add the columns of ``COLUMNS`` that no run has."""
    table = table.assign(**{key: math.nan for key in COLUMNS if key not in table})
    done = table["reason"] == ""
    one_class = done & (table["flags.one_class"] == True)  # noqa: E712  (NaN without a record)
    table = table.assign(done=done, diverged=done & (table["status"] == "diverged"), one_class=one_class)
    ids = list(table.loc[done, "run_id"])
    records, paths = ({run_id: held[run_id] for run_id in ids} for held in (found.records, found.paths))
    return Study(name, digest, axes, fixed, table, records, paths)


def _typed(text: str) -> Any:
    """A value as it was typed: a number where it is one."""
    try:
        return runs.frozen(json.loads(text))
    except ValueError:
        return text


def _plain(values: Sequence[Any]) -> bool:
    """Whether pandas may choose the type of a column: not for tuples, and not for true and false among numbers."""
    return not any(isinstance(value, tuple | bool) for value in values)


def _single(frame: pd.DataFrame, found: runs.Results) -> Study | None:
    """The runs that no manifest names; what varies among them takes the place of axes."""
    if frame.empty:
        return None
    table = frame.reset_index(drop=True)
    commands = [found.records[run_id]["provenance"]["command"] for run_id in table["run_id"]]
    table = table.assign(command=commands, reason="")
    given = {key for key in table if key.startswith("task.")}  # by the task; what follows from the backbone's name:
    by_backbone = table.astype(str).groupby("backbone").nunique().max() == 1
    given |= {key for key in table if key.startswith("backbone.") and by_backbone[key]}
    keys = ["backbone", "task", "method", "protocol", *frame.attrs["configured"], "seed"]
    keys = [key for key in keys if key not in given and table[key].astype(str).nunique() > 1]
    axes = {key: list(table[key].unique()) for key in dict.fromkeys(["task", "method", *keys])}
    return _made(SINGLE, "", axes, {}, table, found)


# -- which records a study may use -----------------------------------------------------------------------------


def _reason(entry: Mapping[str, Any], fixed: Mapping[str, str], found: runs.Results, accepts: Collection[str]) -> str:
    """Why the run has no record to use; empty where it has one."""
    run_id = entry["run_id"]
    if entry.get("contradicted"):
        return "in manifests that contradict each other"
    if run_id not in found.records:
        return found.spoilt.get(run_id, "not run")
    record = found.records[run_id]
    if contradiction := _contradiction({**fixed, **entry["axes"]}, record["config"]):
        found.problems.append(
            f"{found.paths[run_id]}: {contradiction}, against the study's manifest; restore or remove it"
        )
        return "foreign record"
    flags = (words for flag, words in REFUSABLE.items() if record["flags"][flag] and flag not in accepts)
    return next((f"refused, as it is about {words}" for words in flags), "")


def _contradiction(place: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Where the record's configuration is not the manifest's; empty where it is. Names given elsewhere pass."""
    for key in IDENTITY:
        held, wanted = config[key], place.get(key)
        held = held["name"] if isinstance(held, Mapping) else held
        own = (CONF / key).is_dir() and not (CONF / key / f"{wanted}.yaml").is_file()  # a file of somebody's own folder
        if wanted is not None and str(held) != str(wanted) and not own and wanted not in NAMED_ELSEWHERE:
            return f"{key} is {held!r} and not {wanted!r}"
    return ""
