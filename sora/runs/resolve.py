"""From a composed Hydra config to checked, fully resolved runs (torch-free)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sora.backbones.auto import described
from sora.backbones.families import NAMES, dimension, positions
from sora.coercion import coerce, nearest, one_of, show
from sora.config import (
    HEADS,
    MEASURING,
    METHODS,
    MethodConfig,
    RunConfig,
    SeedsConfig,
    TaskConfig,
    TrainerConfig,
)
from sora.errors import UserError
from sora.files import CONF, expanded, is_inside, is_name
from sora.runs.sources import filled
from sora.tasks import own

GROUPS: dict[str, Any] = {  # those whose type does not depend on their name
    name: hint
    for name, hint in get_type_hints(RunConfig).items()
    if name != "method" and isinstance(hint, type) and dataclasses.is_dataclass(hint)
}
REQUIRED = ("backbone", "method", "task", "protocol", "trainer", "schedule")
NOT_OF_A_RUN = ("pack", "cluster", "experiment", "study")  # keys of the config that name no part of a single run


def build_runs(cfg: DictConfig | Mapping[str, Any]) -> list[RunConfig]:
    """The runs of one job, one per replica of the pack, in the order of ``seed`` or ``pack``.

    Every value is coerced to its type and checked against its range; every null that stands for another value
    is resolved, so that equal science gives equal runs. Raises UserError that names the key.
    """
    values = plain_values(cfg)
    for group in REQUIRED:
        if values.get(group) is None:
            raise UserError(f"{group}: missing; choose one with {group}=<name>")
    overrides = _replicas(values)
    runs = [_build(with_overrides(values, each)) for each in overrides]
    for later, run in enumerate(runs):
        if run in runs[:later]:
            source = "pack" if values.get("pack") is not None else "seed"
            raise UserError(f"{source}: entries {runs.index(run)} and {later} (from 0) are the same run; leave one out")
    return runs


# -- packs ---------------------------------------------------------------------------------------------------


def _replicas(values: dict[str, Any]) -> list[dict[str, Any]]:
    """One dictionary of overrides (dotted key -> value) per replica."""
    seed, pack = values.get("seed", 0), values.get("pack")
    name = str(values["method"].get("name", "")) if isinstance(values["method"], dict) else ""
    packable = packable_keys(values["method"])
    if pack is None:
        if not isinstance(seed, list):
            return [{"seed": seed}]
        if not seed:
            raise UserError("seed: got an empty list, must be an integer >= 0 or a list of them")
        if len(seed) > 1 and "seed" not in packable:
            raise UserError(
                f"seed: method={name} cannot be packed, so it takes one seed at a time; "
                f"use -m seed={','.join(str(each) for each in seed)}"
            )
        return [{"seed": each} for each in seed]

    if isinstance(seed, list):
        raise UserError("seed: a list of seeds and pack were both given; put the seeds into pack, or leave pack out")
    if not isinstance(pack, list) or not pack or not all(isinstance(each, dict) and each for each in pack):
        raise UserError("pack: must be a list such as [{seed: 0}, {seed: 1}], one entry per replica")
    if len(pack) > 1 and not packable:
        raise UserError(f"pack: method={name} cannot be packed; use -m to train one run after the other")
    for entry in pack:
        for key in entry:
            if key not in packable:
                allowed = one_of(packable) if packable else "no key at all"
                raise UserError(f"pack: got {key!r}, but method={name} can pack {allowed}{nearest(str(key), packable)}")
    return pack


def packable_keys(values: Any) -> list[str]:
    """The keys in which runs of one pack may differ, from the composed ``method`` group."""
    if not isinstance(values, dict):
        return []
    declared = values.get("packable")
    if declared is None:
        cls = METHODS.get(str(values.get("name")), MethodConfig)
        declared = cls(name="").packable
    if not isinstance(declared, list):
        raise UserError(f"method.packable: got {show(declared)}, must be a list of texts")
    return [str(key) for key in declared]


def with_overrides(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``values`` with the dotted keys of ``overrides`` set. Raises UserError where a key's group is none."""
    result = deepcopy(values)
    for dotted, value in overrides.items():
        *parents, leaf = dotted.split(".")
        node = result
        for parent in parents:
            if node.get(parent) is None:  # its defaults
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise UserError(f"{parent}: got {show(node)}, must be a group of keys")
        node[leaf] = value
    return result


# -- one run -------------------------------------------------------------------------------------------------


def _build(values: dict[str, Any]) -> RunConfig:
    values = {key: value for key, value in values.items() if key not in NOT_OF_A_RUN}
    for group in GROUPS:
        if values.get(group) is None:
            values[group] = {}  # its defaults
        elif not isinstance(values[group], dict):
            raise UserError(f"{group}: got {show(values[group])}, must be a group of keys")
    values |= {name: "" for name in ("recipe", "budget") if values.get(name) is None}
    method = _method_class(values["method"])
    if not method.TRAINS:  # a budget is for those that train
        values["trainer"] = {key: each for key, each in values["trainer"].items() if key in MEASURING}
    is_own = own.is_own(values["task"])
    values["task"] = own.plain(values["task"]) if is_own else values["task"]
    given = {key for key, value in values["task"].items() if value is not None}
    values["task"] = {key: values["task"][key] for key in given}
    groups = {name: _group(cls, name, values.pop(name)) for name, cls in {**GROUPS, "method": method}.items()}
    run = coerce(RunConfig, values | groups, "")
    if is_own:
        run.task = own.completed(run.task, given, run.data.dir)
    run.backbone = described(run.backbone)
    for key in run.method.packable:
        possible = method(run.method.name).packable
        if key not in possible:  # the replicas would silently share the first one's value
            can = one_of(possible) if possible else "no key at all"
            name = run.method.name
            raise UserError(f"method.packable: got {key!r}, but method={name} can pack {can}{nearest(key, possible)}")
    return filled(checked(run))


_KNOWN: dict[str, Any] = {}  # the runs of a sweep have most of their groups in common


def _group(cls: type[Any], name: str, values: dict[str, Any]) -> Any:
    key = repr((cls, values))
    if key not in _KNOWN:
        _KNOWN[key] = coerce(cls, values, name)
    return deepcopy(_KNOWN[key])


def _method_class(values: Any) -> type[MethodConfig]:
    if not isinstance(values, dict):
        raise UserError(f"method: got {show(values)}, must be a group of keys")
    name = str(values.get("name", ""))
    if name not in METHODS:
        raise UserError(f"method.name: got {name!r}, must be {one_of(METHODS)}{nearest(name, METHODS)}")
    return METHODS[name]


def checked(run: RunConfig) -> RunConfig:
    """Fill every null that stands for another value, then check what only shows when the parts meet."""
    run = resolved(run)
    _check_together(run)
    return run


def resolved(run: RunConfig) -> RunConfig:
    """Fill every null that stands for another value. Raises UserError where a part by itself cannot be."""
    method = run.method.resolved()
    targets = getattr(method, "targets", None)
    if targets is not None:
        if not targets:
            raise UserError("method.targets: got an empty list, must be null or a list of patterns")
        # The patterns choose a set of matrices: their order changes nothing, so not the run id.
        method = dataclasses.replace(method, targets=sorted(set(targets)))  # type: ignore[call-arg]
    trainer = dataclasses.replace(
        run.trainer,
        learning_rate=run.trainer.learning_rate if run.trainer.learning_rate is not None else method.learning_rate,
        optimizer=run.trainer.optimizer or method.optimizer(),
        max_length=run.trainer.max_length if run.trainer.max_length is not None else run.task.max_length,
    )
    method = method.at_rate(float(trainer.learning_rate or 0.0))
    if not method.TRAINS:
        kept = {f.name: getattr(trainer, f.name) for f in dataclasses.fields(trainer) if f.name in MEASURING}
        trainer = TrainerConfig(**kept, max_steps=0)
    if method.OWN_HEAD:
        run = dataclasses.replace(run, head=HEADS[0])
    seeds = SeedsConfig(
        init=run.seeds.init if run.seeds.init is not None else run.seed,
        data=run.seeds.data if run.seeds.data is not None else run.seed,
    )
    data = dataclasses.replace(run.data, dir=expanded("data.dir", run.data.dir) if run.data.dir else None)
    folders = {key: value for key, value in dataclasses.asdict(run.paths).items() if value}
    paths = dataclasses.replace(run.paths, **{key: expanded(f"paths.{key}", value) for key, value in folders.items()})
    schedule = run.schedule.resolved()
    run = dataclasses.replace(run, method=method, trainer=trainer, schedule=schedule, seeds=seeds, data=data)
    return dataclasses.replace(run, paths=paths)


def _check_together(run: RunConfig) -> None:
    _check_places(run)
    for key, folder in (("paths.results", run.paths.results), ("paths.runs", run.paths.runs)):
        if not folder.strip():
            raise UserError(f"{key}: empty, must be a folder")
    backbone, arch = run.backbone, run.backbone.arch
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"):
        for key in NAMES[name]:
            value = arch.get(key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UserError(f"backbone.arch.{key}: got {show(value)}, must be an integer >= 1")
    hidden = dimension(arch, "hidden_size")
    _check_task(run.task)
    _check_reading(run)
    for key in ("r", "init_r"):
        rank = getattr(run.method, key, None)
        if hidden and rank and rank > hidden:
            raise UserError(
                f"method.{key}: got {rank}, must be at most {hidden}, the hidden size of backbone={backbone.name}"
            )
    longest = positions(backbone.family, arch)
    if longest and run.trainer.max_length and run.trainer.max_length > longest:
        raise UserError(
            f"trainer.max_length: got {run.trainer.max_length}, "
            f"but backbone={backbone.name} reads at most {longest} tokens"
        )
    _check_schedule(run)
    pinned = _pinned_hub(backbone.name)
    if pinned not in (None, backbone.hub):
        raise UserError(
            f"backbone.hub: got {backbone.hub!r}, but backbone={backbone.name} is {pinned}; for another model take "
            f"backbone=auto backbone.weights={backbone.hub or 'NAME'}"
        )
    if backbone.weights not in ("pretrained", "random") and not Path(backbone.weights).expanduser().is_dir():
        raise UserError(
            f"backbone.weights: got {backbone.weights!r}, must be pretrained, random or an existing folder "
            "(backbone=auto also takes the name of a model on the hub)"
            + nearest(backbone.weights, ("pretrained", "random"))
        )


@functools.cache
def _pinned_hub(name: str) -> str | None:
    """The repository in conf/backbone/<name>.yaml; None where there is no such file, or it names none."""
    path = CONF / "backbone" / f"{name}.yaml"
    if not is_name(name) or not path.is_file():
        return None
    return yaml.safe_load(path.read_text(encoding="utf-8")).get("hub") or None


def _check_task(task: TaskConfig) -> None:
    """Facts of a task that its file could get wrong."""
    if (task.score_range or (task.regression and task.reader != "own")) and (
        len(task.score_range) != 2 or task.score_range[0] >= task.score_range[1]
    ):
        raise UserError(f"task.score_range: got {show(task.score_range)}, must be the lowest and the highest target")
    if task.standardize and not task.regression:
        raise UserError(
            f"task.standardize: task={task.name} has classes, so there are no targets to standardize; leave it false"
        )


def _check_reading(run: RunConfig) -> None:
    """What a method without training can answer."""
    name, task = run.method.name, run.task
    if name == "zero_shot" and (not task.regression or task.span_vectors or task.choices > 1):
        raise UserError(
            f"method=zero_shot: a cosine says how similar two texts are, but task={task.name} asks another thing"
        )
    if name == "probe" and task.choices > 1:
        raise UserError(f"method=probe: it reads an example alone, but task={task.name} compares choices")


def _check_places(run: RunConfig) -> None:
    """Names become parts of paths, and files are looked for in folders: none may lead out of them."""
    for group, name in (("backbone", run.backbone.name), ("task", run.task.name)):
        if not is_name(name):
            raise UserError(f"{group}.name: got {show(name)}, must be letters, digits and . _ + -: it names a folder")
    below = {"task.folder": run.task.folder, "backbone.package_folder": run.backbone.package_folder}
    if run.task.reader != "own":
        below |= {f"task.files.{split}": str(file) for split, file in run.task.files.items()}
    for key, place in below.items():
        if not is_inside(place):
            raise UserError(f"{key}: got {show(place)}, must be a relative path without ..")


def _check_schedule(run: RunConfig) -> None:
    schedule, method = run.schedule, run.method
    if schedule.kind == "none":
        return
    if not method.GATED:
        gated = one_of(f"method={name}" for name, cls in METHODS.items() if cls.GATED)
        raise UserError(f"schedule.kind={schedule.kind}: method={method.name} has no gates to zero; choose {gated}")
    if schedule.kind == "one_shot":
        return
    threshold = getattr(method, "threshold", 0.0)
    if schedule.levels[0] < threshold:
        raise UserError(
            f"schedule.levels: got {schedule.levels[0]:g} first, must be at least method.threshold={threshold:g}, "
            "at which the training before the levels is done; raise schedule.start or lower method.threshold"
        )
    if schedule.lr == "authors_zero" and getattr(method, "threshold_rule", None) == "lr_scaled":
        raise UserError(
            "schedule.lr=authors_zero: with method.threshold_rule=lr_scaled the thresholds would be 0 too and nothing "
            "would change; set method.threshold_rule=constant or another schedule.lr"
        )


def plain_values(cfg: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as dictionaries, lists and numbers. Raises UserError where a ${...} has no value."""
    if not isinstance(cfg, DictConfig):
        return deepcopy(dict(cfg))
    try:
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{error.full_key or 'config'}: cannot be resolved ({reason})") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
