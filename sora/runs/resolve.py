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
from sora.config import HEADS, MEASURING, PathsConfig, RunConfig, SeedsConfig, TaskConfig, TrainerConfig
from sora.errors import UserError
from sora.files import CONF, expanded, is_inside, is_name
from sora.method_config import METHODS, MethodConfig
from sora.runs.sources import filled
from sora.tasks import own

NOT_OF_A_RUN = ("pack", "cluster", "experiment", "study")  # keys of the config that name no part of a single run


def build_runs(cfg: DictConfig | Mapping[str, Any]) -> list[RunConfig]:
    """The runs of one job, one per replica of the pack, in the order of ``seed`` or ``pack``.

    Every value is coerced to its type and checked against its range; every null that stands for another value
    is resolved, so that equal science gives equal runs. Raises UserError that names the key.
    """
    values = plain_values(cfg)
    runs = [_build(with_overrides(values, each)) for each in _replicas(values)]
    for later, run in enumerate(runs):
        if run in runs[:later]:
            source = "pack" if values.get("pack") is not None else "seed"
            raise UserError(f"{source}: entries {runs.index(run)} and {later} (from 0) are the same run; leave one out")
    return runs


def restored(values: Mapping[str, Any]) -> RunConfig:
    """The run in the config.yaml of a run folder: it is resolved, so no data, source or folder is looked for.

    Raises UserError where it is none of this project.
    """
    method = method_class(values)
    values = _without_training(dict(values), method)
    groups = {name: coerce(cls, values.get(name, {}), name) for name, cls in {**_GROUPS, "method": method}.items()}
    return coerce(RunConfig, {**values, **groups}, "")


# -- packs ---------------------------------------------------------------------------------------------------


def _replicas(values: dict[str, Any]) -> list[dict[str, Any]]:
    """One dictionary of overrides (dotted key -> value) per replica."""
    seed, pack = values.get("seed", 0), values.get("pack")
    method = method_class(values)
    name = values["method"]["name"]
    if pack is None:
        seeds = seed if isinstance(seed, list) else [seed]
        if not seeds:
            raise UserError("seed: got an empty list, must be an integer >= 0 or a list of them")
        if len(seeds) > 1 and "seed" not in method.PACKABLE:
            raise UserError(
                f"seed: method={name} cannot be packed, so it takes one seed at a time; "
                f"use -m seed={','.join(str(each) for each in seeds)}"
            )
        return [{"seed": each} for each in seeds]

    if isinstance(seed, list):
        raise UserError("seed: a list of seeds and pack were both given; put the seeds into pack, or leave pack out")
    if not isinstance(pack, list) or not pack or not all(isinstance(each, dict) and each for each in pack):
        raise UserError("pack: must be a list such as [{seed: 0}, {seed: 1}], one entry per replica")
    for key in {key: None for entry in pack for key in entry}:
        if key not in method.PACKABLE:
            allowed = one_of(method.PACKABLE) if method.PACKABLE else "no key at all"
            hint = nearest(str(key), method.PACKABLE)
            raise UserError(f"pack: got {key!r}, but method={name} can pack {allowed}{hint}")
    return pack


def method_class(values: Mapping[str, Any]) -> type[MethodConfig]:
    """The options of the method that the plain configuration ``values`` names. Raises UserError."""
    group = values.get("method")
    name = str(group.get("name", "")) if isinstance(group, dict) else show(group)
    if name not in METHODS:
        raise UserError(f"method.name: got {name!r}, must be {one_of(METHODS)}{nearest(name, METHODS)}")
    return METHODS[name]


def with_overrides(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``values`` with the dotted keys of ``overrides`` set. Raises UserError where a key's group is none."""
    result = deepcopy(values)
    for dotted, value in overrides.items():
        group, _, leaf = dotted.rpartition(".")
        if group and result.get(group) is None:  # its defaults
            result[group] = {}
        node = result[group] if group else result
        if not isinstance(node, dict):
            raise UserError(f"{group}: got {show(node)}, must be a group of keys")
        node[leaf] = value
    return result


# -- one run -------------------------------------------------------------------------------------------------


def _build(values: dict[str, Any]) -> RunConfig:
    method = method_class(values)
    unset = {"recipe", "budget", *_GROUPS}  # null: its defaults
    values = {
        key: value for key, value in values.items() if key not in NOT_OF_A_RUN and not (value is None and key in unset)
    }
    values = _without_training(values, method)
    task, is_own = values.get("task"), own.is_own(values.get("task"))
    given: set[str] = set()
    if isinstance(task, dict):
        plain = own.plain(task) if is_own else task
        values["task"] = {key: value for key, value in plain.items() if value is not None}
        given = set(values["task"])
    groups = {name: _group(cls, name, values.pop(name, {})) for name, cls in {**_GROUPS, "method": method}.items()}
    run = coerce(RunConfig, values | groups, "")
    _check_range(run.task)
    if is_own:
        run.task = own.completed(run.task, given, run.data.dir)
    run.backbone = described(run.backbone)
    run = resolved(run)
    _check_together(run)
    return filled(run)


def _without_training(values: dict[str, Any], method: type[MethodConfig]) -> dict[str, Any]:
    """Leave out what a method that does not train has no use for: a budget is for those that train."""
    if method.TRAINS or not isinstance(values.get("trainer"), dict):
        return values
    return values | {"trainer": {key: each for key, each in values["trainer"].items() if key in MEASURING}}


_GROUPS: dict[str, Any] = {  # those whose type does not depend on their name
    name: cls for name, cls in get_type_hints(RunConfig).items() if name != "method" and dataclasses.is_dataclass(cls)
}
_KNOWN: dict[str, Any] = {}  # the runs of a sweep have most of their groups in common


def _group(cls: type[Any], name: str, values: Any) -> Any:
    key = repr((cls, values))
    if key not in _KNOWN:
        _KNOWN[key] = coerce(cls, values, name)
    return deepcopy(_KNOWN[key])


def resolved(run: RunConfig) -> RunConfig:
    """Fill every null that stands for another value. Raises UserError where a part by itself cannot be."""
    method = run.method.resolved()
    targets = getattr(method, "targets", None)
    if targets is not None:
        if not targets:
            raise UserError("method.targets: got an empty list, must be null or a list of patterns")
        # The patterns choose a set of matrices: their order changes nothing, so not the run id.
        method = dataclasses.replace(method, targets=sorted(set(targets)))  # type: ignore[call-arg]
    rate, length = run.trainer.learning_rate, run.trainer.max_length
    trainer = dataclasses.replace(
        run.trainer,
        learning_rate=rate if rate is not None else method.learning_rate,
        optimizer=run.trainer.optimizer or method.optimizer(),
        max_length=length if length is not None else run.task.max_length,
    )
    method = method.at_rate(float(trainer.learning_rate or 0.0))
    if run.backbone.arch.get("relative_attention") and method.drops():
        # Before, the masks on relative embeddings depended on how far a batch was padded.
        method = dataclasses.replace(method, version=max(2, method.version))
    if not method.TRAINS:
        trainer = TrainerConfig(**{name: getattr(trainer, name) for name in MEASURING}, max_steps=0)
    places = dataclasses.asdict(run.paths)
    return dataclasses.replace(
        run,
        method=method,
        trainer=trainer,
        schedule=run.schedule.resolved(),
        head=HEADS[0] if method.OWN_HEAD else run.head,
        seeds=SeedsConfig(
            init=run.seeds.init if run.seeds.init is not None else run.seed,
            data=run.seeds.data if run.seeds.data is not None else run.seed,
        ),
        data=dataclasses.replace(run.data, dir=expanded("data.dir", run.data.dir or "") or None),
        paths=PathsConfig(**{key: place and expanded(f"paths.{key}", place) for key, place in places.items()}),
    )


def _check_together(run: RunConfig) -> None:
    """Refuse what only shows when the parts of a run meet. Raises UserError."""
    _check_places(run)
    backbone, task, method, length = run.backbone, run.task, run.method, run.trainer.max_length
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"):
        for key in NAMES[name]:
            value = backbone.arch.get(key)
            if value is not None and (type(value) is not int or value < 1):
                raise UserError(f"backbone.arch.{key}: got {show(value)}, must be an integer >= 1")
    hidden = dimension(backbone.arch, "hidden_size")
    if hidden is None:
        raise UserError(
            f"backbone.arch: backbone={backbone.name} has no hidden_size; give the keys of its config.json, or family: "
            "auto, which reads them"
        )
    for key in ("r", "init_r"):
        if getattr(method, key, 0) > hidden:
            raise UserError(
                f"method.{key}: got {getattr(method, key)}, must be at most {hidden}, the hidden size of "
                f"backbone={backbone.name}"
            )
    longest = positions(backbone.family, backbone.arch)
    if longest and length and length > longest:
        raise UserError(
            f"trainer.max_length: got {length}, but backbone={backbone.name} reads at most {longest} tokens"
        )
    if task.standardize and not task.regression:
        raise UserError(f"task.standardize: task={task.name} has classes, no targets to standardize; leave it false")
    if method.name == "zero_shot" and (not task.regression or task.span_vectors or task.choices > 1):
        what = f"how similar two texts are, but task={task.name} asks another thing"
        raise UserError(f"method=zero_shot: it says {what}")
    if method.name == "zero_shot" and not task.score_range:
        raise UserError(
            "task.score_range: method=zero_shot puts the cosine on the scale of the targets, which is not known; give "
            "task.score_range=[LOWEST,HIGHEST]"
        )
    if method.name == "probe" and task.choices > 1:
        raise UserError(f"method=probe: it reads an example alone, but task={task.name} compares choices")
    _check_schedule(run)


def _check_range(task: TaskConfig) -> None:
    low, *high = task.score_range or [0.0]
    if (task.score_range or (task.regression and task.reader != "own")) and not (len(high) == 1 and low < high[0]):
        raise UserError(f"task.score_range: got {show(task.score_range)}, must be the lowest and the highest target")


def _check_places(run: RunConfig) -> None:
    """Names become parts of paths, and files are looked for in folders: none may lead out of them."""
    backbone, task = run.backbone, run.task
    if not run.paths.results.strip():
        raise UserError("paths.results: empty, must be a folder")
    for group, name in (("backbone", backbone.name), ("task", task.name)):
        if not is_name(name):
            raise UserError(f"{group}.name: got {show(name)}, must be letters, digits and . _ + -: it names a folder")
    below = {"task.folder": task.folder, "backbone.package_folder": backbone.package_folder}
    if task.reader != "own":
        below |= {f"task.files.{split}": str(file) for split, file in task.files.items()}
    for key, place in below.items():
        if not is_inside(place):
            raise UserError(f"{key}: got {show(place)}, must be a relative path without ..")
    if task.reader == "own" and task.files and _of_conf("task", task.name).get("reader", "own") != "own":
        raise UserError(f"task.name: {task.name} is a task of conf/task, whose records stand there; give another name")
    pinned = _of_conf("backbone", backbone.name).get("hub") or None
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
def _of_conf(group: str, name: str) -> dict[str, Any]:
    """What conf/<group>/<name>.yaml holds; empty where there is no such file."""
    path = CONF / group / f"{name}.yaml"
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


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
