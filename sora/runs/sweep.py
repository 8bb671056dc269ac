"""From the axes of a multirun to jobs: which runs train together, which are finished, what each costs (torch-free).

The runs of a sweep are the product of its axes. Those that differ only in keys their method declares packable become
one job, ``pack=[{seed: 0, method.threshold: 1e-05}, ...]``; every run is checked and named before the first one starts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from sora.backbones.source import backbone_identity
from sora.config import RunConfig, TrainerConfig
from sora.errors import UserError
from sora.method_config import METHODS, MethodConfig
from sora.runs import estimate, records
from sora.runs import manifest as studies
from sora.runs.commands import portable, without_paths
from sora.runs.recipes import check_recipe
from sora.runs.resolve import build_runs, plain_values, with_overrides
from sora.runs.run_id import run_id
from sora.tasks import load

# Keys that decide no number: where things lie, who watches, how a sweep is run.
NO_SCIENCE = (
    "paths",
    "data",
    "study",
    "tracker",
    "cluster",
    "resume",
    "predict",
    "dry_run",
    "deterministic",
    "device",
    "pack",
    "backbone.dir",
    *(f"trainer.{each.name}" for each in fields(TrainerConfig) if not each.metadata["science"]),
)


def decides(key: str) -> bool:
    """Return whether a key can affect a result; a manifest names such keys."""
    return key not in NO_SCIENCE and key.partition(".")[0] not in NO_SCIENCE


@dataclass(frozen=True)
class Value:
    """One value of an axis: in Hydra's grammar, and as JSON."""

    text: str
    json: Any


@dataclass(frozen=True)
class Axis:
    """A key and the values it is swept over. ``typed_key`` may have a + before it; ``group``: it chooses a file."""

    key: str
    typed_key: str
    values: tuple[Value, ...]
    group: bool


@dataclass(frozen=True)
class Fixed:
    """What all runs are given: a key, its value, and both as they were typed."""

    key: str
    text: str
    typed: str


Slots = Sequence[Axis | Fixed]
Chosen = Mapping[str, Value]
Compose = Callable[[Sequence[str]], DictConfig]


@dataclass(frozen=True)
class Cell:
    """One place of the sweep: its value on every axis, the overrides that compute it alone, and the run."""

    axes: dict[str, Any]
    overrides: list[str]
    run: RunConfig
    run_id: str


@dataclass(frozen=True)
class PlannedJob:
    """What one process trains together."""

    overrides: list[str]
    cells: list[Cell]
    facts: estimate.DataFacts

    def estimate(self) -> str:
        """Describe runs, steps, cost and memory in a few words."""
        return estimate.describe([cell.run for cell in self.cells], self.facts)


@dataclass
class Plan:
    """Every place of a sweep, the jobs that fill them, and what was wrong with the others."""

    slots: Slots
    cells: list[Cell] = field(default_factory=list)
    jobs: list[PlannedJob] = field(default_factory=list)
    mistakes: list[tuple[str, UserError]] = field(default_factory=list)  # what was asked for, why it cannot be
    names: dict[str, str] = field(default_factory=dict)  # choice of task= -> the name that its runs have
    lists: dict[str, list[Any]] = field(default_factory=dict)  # axes that were given as a list: seed=[0,1], pack=[...]

    def finished(self) -> set[str]:
        """Return ids of the runs that have a record; a sweep has one folder of results."""
        found = records.finished(Path(self.cells[0].run.paths.results)) if self.cells else {}
        return found.keys() & {cell.run_id for cell in self.cells}

    def unfinished(self) -> list[PlannedJob]:
        """Return the jobs in which a record is missing. The members of a pack stay together, whichever are finished.

        With ``predict`` every job: what of the test sets is predicted, the runner finds out.
        """
        done = self.finished()
        return [job for job in self.jobs if any(cell.run_id not in done or cell.run.predict for cell in job.cells)]

    def counts(self) -> str:
        """Describe the plan: ``30 runs, 10 of them finished``."""
        runs, done = len({cell.run_id for cell in self.cells}), len(self.finished())
        return f"{runs} run{'' if runs == 1 else 's'}, " + (f"{done} of them finished" if done else "none finished")

    def write_manifest(self, study: str, command: Callable[[Sequence[str]], list[str]]) -> str:
        """Write the study's manifest; returns ``; manifest <path>``, or nothing where no run could be named.

        ``command``: the words of a plain command from overrides.
        """
        if not self.cells or all(cell.run.dry_run for cell in self.cells):
            return ""
        axes = {slot.key: [each.json for each in slot.values] for slot in self.slots if isinstance(slot, Axis)}
        for key, values in self.lists.items():
            known = axes.setdefault(key, [])
            known += [value for value in values if value not in known]
        for key, values in axes.items():
            axes[key] = [_published(self.names.get(value, value) if key == "task" else value) for value in values]
            if len(set(map(repr, axes[key]))) < len(values):
                raise UserError(f"{key}: two of its folders have one name, which a manifest cannot tell; rename one")
        fixed = {
            slot.key: without_paths(slot.text)
            for slot in self.slots
            if isinstance(slot, Fixed) and (decides(slot.key) or slot.key == studies.ARM) and slot.key not in axes
        }
        runs = [
            {
                "run_id": cell.run_id,
                "axes": {key: _published(cell.axes.get(key)) for key in axes},
                "record": records.record_path(Path(), cell.run, cell.run_id).as_posix(),
                "command": portable(command(cell.overrides)),
            }
            for cell in self.cells
        ]
        results, manifest = Path(self.cells[0].run.paths.results), studies.make(study, axes, fixed, runs)
        if self.mistakes and (path := studies.path(results, manifest)).is_file():
            # What cannot be named here and now, for want of its data, may have been, or elsewhere.
            manifest = studies.united(studies.read(path), manifest)
        return f"; manifest {studies.write(results, manifest)}"


def _published(value: Any) -> Any:
    """Return a value of an axis without the folders of this machine: of an absolute path its name."""
    return Path(value).name if isinstance(value, str) and without_paths(value) != value else value


class Planner:
    """Forms the jobs of one sweep.

    Args:
        slots: the overrides in their order.
        compose: the configuration of one job from its overrides.
        max_pack: most runs of one job, None for no bound.
    """

    def __init__(self, slots: Slots, compose: Compose, max_pack: int | None) -> None:
        self.slots = [_flat(slot) if isinstance(slot, Axis) else slot for slot in slots]
        self.compose, self.max_pack = compose, max_pack
        self.known: dict[str, Any] = {}  # data and weights, each looked at once, and errors: a network that is gone
        self.planned: set[str] = set()  # ids of the runs that have their job

    def plan(self) -> Plan:
        """Return every combination of the axes.

        Raises:
            HydraException: an override that cannot be composed.
        """
        self.result = Plan(self.slots)
        axes = [slot for slot in self.slots if isinstance(slot, Axis)]
        others = [axis for axis in axes if not axis.group]
        for groups in _product([axis for axis in axes if axis.group]):
            values = self._values(groups)
            if values is None:
                continue
            packable = [] if self._is_fixed("pack") else _packable(values)
            together = [axis for axis in others if axis.key in packable]
            for picked in _product([axis for axis in others if axis not in together]):
                full = self._values(groups | picked) if picked else values
                if full is not None:
                    self._add_jobs(groups | picked, full, together)
        return self.result

    def _add_jobs(self, chosen: dict[str, Value], values: dict[str, Any], together: Sequence[Axis]) -> None:
        """Add what ``chosen`` on the other axes asks for: one job, or several where the pack would be too long."""
        cells: list[tuple[Cell, dict[str, Value]]] = []
        for entry in _entries(values, together):
            try:
                cell = self._cell(chosen, values, entry)
            except UserError as error:
                self.result.mistakes.append((" ".join(self._words(chosen | entry, values)), error))
                continue
            self.result.cells.append(cell)
            if cell.run_id not in self.planned:
                self.planned.add(cell.run_id)
                cells.append((cell, entry))
        size = self.max_pack or max(1, len(cells)) if _packable(values) else 1
        for start in range(0, len(cells), size):
            part = cells[start : start + size]
            overrides = part[0][0].overrides
            if len(part) > 1:
                entries = ["{" + ", ".join(f"{k}: {v.text}" for k, v in entry.items()) + "}" for _, entry in part]
                overrides = [*self._words(chosen, values), f"pack=[{', '.join(entries)}]"]
            members = [cell for cell, _ in part]
            self.result.jobs.append(PlannedJob(overrides, members, self._facts(members[0].run)))

    def _cell(self, chosen: dict[str, Value], values: dict[str, Any], entry: dict[str, Value]) -> Cell:
        """Return one run, checked and named. Raises UserError where it cannot be."""
        plain = {key: value.json for key, value in entry.items()}
        for key in entry.keys() & chosen.keys():
            raise UserError(f"{key}: swept over, and in the entries of pack; leave one out")
        own = {**values, "pack": [plain]} if values["pack"] is not None and plain else with_overrides(values, plain)
        (run,) = build_runs(own)
        weights = self._once(repr(run.backbone), lambda: backbone_identity(run.backbone))
        name = run_id(run, self._facts(run).sha256, weights)
        for key, value in plain.items():
            known = self.result.lists.setdefault(key, [])
            known += [value] if value not in known else []
        axes = {key: value.json for key, value in chosen.items()} | plain
        if isinstance(axes.get("task"), str):
            self.result.names[axes["task"]] = run.task.name
            axes["task"] = run.task.name
        return Cell(axes, self._words(chosen | entry, values), run, name)

    def _facts(self, run: RunConfig) -> estimate.DataFacts:
        """Return facts of the run's data, which itself is not kept. Raises UserError where it cannot be had."""
        key = repr((run.task, run.protocol, run.data))
        facts: estimate.DataFacts = self._once(key, lambda: estimate.facts_of(load(run.task, run.protocol, run.data)))
        return facts

    def _once(self, key: str, look: Callable[[], Any]) -> Any:
        if key not in self.known:
            try:
                self.known[key] = look()
            except UserError as error:
                self.known[key] = error
        if isinstance(self.known[key], UserError):
            raise self.known[key]
        return self.known[key]

    def _values(self, chosen: Chosen) -> dict[str, Any] | None:
        """Return the composed configuration as plain values; None after a mistake, which is noted."""
        overrides = self._words(chosen)
        config = self.compose(overrides)
        choices: Any = config.hydra.runtime.choices
        with open_dict(config):
            config.pop("hydra")
        try:
            check_recipe(config, choices, overrides)
            return plain_values(config)
        except UserError as error:
            self.result.mistakes.append((" ".join(overrides), error))
            return None

    def _words(self, chosen: Chosen, values: Mapping[str, Any] | None = None) -> list[str]:
        """Return the overrides of a job in their order, without those axes that ``chosen`` leaves open.

        With the composed ``values``, lists of replicas (seed=[0,1], pack=[...]) make way for what is chosen instead.
        """
        lists = [key for key in ("seed", "pack") if values is not None and isinstance(values[key], list)]
        words = []
        for slot in self.slots:
            if slot.key in chosen:
                typed = slot.typed_key if isinstance(slot, Axis) else slot.key
                words.append(f"{typed}={chosen[slot.key].text}")
            elif isinstance(slot, Fixed) and slot.key not in lists:
                words.append(slot.typed)
        placed = {slot.key for slot in self.slots}
        words += [f"{key}={value.text}" for key, value in chosen.items() if key not in placed]
        for key, nothing in (("seed", "0"), ("pack", "null")):
            if key in lists and key not in chosen and not self._is_fixed(key):  # a study's file has the list
                words.append(f"{key}={nothing}")
        return words

    def _is_fixed(self, key: str) -> bool:
        return any(isinstance(slot, Fixed) and slot.key == key for slot in self.slots)


def _packable(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys in which runs of one pack may differ; of a method that there is not, those of all."""
    return METHODS.get(str(values["method"].get("name")), MethodConfig).PACKABLE


def _flat(axis: Axis) -> Axis:
    """Flatten seed=[0,1],[2] to seed=0,1,2, as the planner decides which seeds are packed; each value once."""
    values: list[Value] = []
    for value in axis.values:
        lists = axis.key == "seed" and isinstance(value.json, list)
        values += [each for each in (map(_value, value.json) if lists else [value]) if each not in values]
    return replace(axis, values=tuple(values))


def _product(axes: Sequence[Axis]) -> Iterator[dict[str, Value]]:
    for values in itertools.product(*(axis.values for axis in axes)):
        yield {axis.key: value for axis, value in zip(axes, values, strict=True)}


def _entries(values: Mapping[str, Any], together: Sequence[Axis]) -> list[dict[str, Value]]:
    """Return what the runs of one job differ in: the lists the configuration has itself, times the packable axes."""
    own: list[dict[str, Value]] = [{}]
    if isinstance(values["pack"], list) and all(isinstance(each, dict) for each in values["pack"]):
        configured = OmegaConf.create(dict(values))  # for what one entry leaves out
        keys = list(dict.fromkeys(str(key) for each in values["pack"] for key in each))
        own = [
            {key: _value(each[key] if key in each else OmegaConf.select(configured, key)) for key in keys}
            for each in values["pack"]
        ]
    elif isinstance(values["seed"], list) and "seed" not in {axis.key for axis in together}:
        own = [{"seed": _value(seed)} for seed in values["seed"]]
    return [mine | more for more in _product(together) for mine in own]


def _value(plain: Any) -> Value:
    """Return a number as Hydra's grammar has it; other values in quotes, to be refused where they are checked."""
    if plain is None:
        return Value("null", None)
    return Value(str(plain) if isinstance(plain, int | float) else repr(str(plain)), plain)
