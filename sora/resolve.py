"""From a composed Hydra config to checked, fully resolved runs (torch-free)."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sora.config import (
    MAX_SEED,
    METHODS,
    BackboneConfig,
    DataConfig,
    MethodConfig,
    PathsConfig,
    ProtocolConfig,
    RunConfig,
    ScheduleConfig,
    SeedsConfig,
    TrackerConfig,
    TrainerConfig,
)
from sora.errors import UserError
from sora.tasks.spec import TaskConfig
from sora.untrusted import is_inside, is_name

T = TypeVar("T")

GROUPS: dict[str, type[Any]] = {
    "backbone": BackboneConfig,
    "task": TaskConfig,
    "protocol": ProtocolConfig,
    "trainer": TrainerConfig,
    "schedule": ScheduleConfig,
    "seeds": SeedsConfig,
    "data": DataConfig,
    "paths": PathsConfig,
    "tracker": TrackerConfig,
}
REQUIRED = ("backbone", "method", "task", "protocol", "trainer", "schedule")
NOT_OF_A_RUN = (
    "pack",
    "cluster",
    "experiment",
    "study",
)  # keys of the config that name no part of a single run


def build_runs(cfg: DictConfig | Mapping[str, Any]) -> list[RunConfig]:
    """The runs of one job, one per replica of the pack, in the order of ``seed`` or ``pack``.

    Every value is coerced to its type and checked against its range; every null that stands for another value
    is resolved, so that equal science gives equal runs. Raises UserError that names the key.
    """
    values = plain_values(cfg)
    known = {f.name for f in dataclasses.fields(RunConfig)}
    _refuse_unknown(values, [*known, *NOT_OF_A_RUN], "")
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


def nearest(word: str, options: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the option most like ``word``, or an empty string."""
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def one_of(options: Iterable[str]) -> str:
    """``one of a, b, c``, or the only option."""
    listed = list(options)
    return listed[0] if len(listed) == 1 else "one of " + ", ".join(listed)


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
    return [str(key) for key in declared]


def with_overrides(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``values`` with the dotted keys of ``overrides`` set."""
    result = deepcopy(values)
    for dotted, value in overrides.items():
        *parents, leaf = dotted.split(".")
        node = result
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return result


# -- one run -------------------------------------------------------------------------------------------------


def _build(values: dict[str, Any]) -> RunConfig:
    parts: dict[str, Any] = {}
    for group, cls in GROUPS.items():
        parts[group] = coerce(cls, values.get(group) or {}, group)
    parts["method"] = _method(values["method"])
    for name in ("recipe", "budget"):
        if values.get(name) is None:
            parts[name] = ""
    if isinstance(values.get("seed"), bool) or not isinstance(values.get("seed", 0), int | str | float):
        raise UserError(f"seed: got {_show(values['seed'])}, must be an integer >= 0 or a list of them")
    plain = {key: value for key, value in values.items() if key not in NOT_OF_A_RUN}
    return resolved(coerce(RunConfig, {**plain, **parts}, ""))


def _method(values: Any) -> MethodConfig:
    if not isinstance(values, dict):
        raise UserError(f"method: got {_show(values)}, must be a group of keys")
    name = str(values.get("name", ""))
    if name not in METHODS:
        raise UserError(f"method.name: got {name!r}, must be {one_of(METHODS)}{nearest(name, METHODS)}")
    if isinstance(values.get("targets"), str):
        values = {**values, "targets": [values["targets"]]}
    method = coerce(METHODS[name], values, "method")
    possible = METHODS[name](name).packable
    for key in method.packable:
        if key not in possible:  # the replicas would silently share the first one's value
            can = one_of(possible) if possible else "no key at all"
            raise UserError(f"method.packable: got {key!r}, but method={name} can pack {can}{nearest(key, possible)}")
    return method


def resolved(run: RunConfig) -> RunConfig:
    """Fill every null that stands for another value, then check what only shows when the parts meet."""
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
        max_length=run.trainer.max_length if run.trainer.max_length is not None else run.task.max_length,
    )
    seeds = SeedsConfig(
        init=run.seeds.init if run.seeds.init is not None else run.seed,
        data=run.seeds.data if run.seeds.data is not None else run.seed,
    )
    data = dataclasses.replace(run.data, dir=run.data.dir or None)
    schedule = run.schedule.resolved()
    run = dataclasses.replace(run, method=method, trainer=trainer, schedule=schedule, seeds=seeds, data=data)
    _check_together(run)
    return run


def _check_together(run: RunConfig) -> None:
    _check_places(run)
    backbone, arch = run.backbone, run.backbone.arch
    hidden = arch.get("hidden_size")
    if hidden is not None and (isinstance(hidden, bool) or not isinstance(hidden, int) or hidden < 1):
        raise UserError(f"backbone.arch.hidden_size: got {_show(hidden)}, must be an integer >= 1")
    for key in ("r", "init_r"):
        rank = getattr(run.method, key, None)
        if hidden and rank and rank > hidden:
            raise UserError(
                f"method.{key}: got {rank}, must be at most {hidden}, the hidden size of backbone={backbone.name}"
            )
    positions = _positions(backbone)
    if positions and run.trainer.max_length and run.trainer.max_length > positions:
        raise UserError(
            f"trainer.max_length: got {run.trainer.max_length}, "
            f"but backbone={backbone.name} reads at most {positions} tokens"
        )
    _check_schedule(run)
    if backbone.weights not in ("pretrained", "random") and not Path(backbone.weights).expanduser().is_dir():
        raise UserError(
            f"backbone.weights: got {backbone.weights!r}, must be pretrained, random or an existing folder"
            + nearest(backbone.weights, ("pretrained", "random"))
        )


def _check_places(run: RunConfig) -> None:
    """Names become parts of paths, and files are looked for in folders: none may lead out of them."""
    for group, name in (("backbone", run.backbone.name), ("task", run.task.name)):
        if not is_name(name):
            raise UserError(f"{group}.name: got {_show(name)}, must be letters, digits and . _ + -: it names a folder")
    below = {"task.folder": run.task.folder, "backbone.package_folder": run.backbone.package_folder}
    below |= {f"task.files.{split}": file for split, file in run.task.files.items()}
    for key, place in below.items():
        if not is_inside(place):
            raise UserError(f"{key}: got {_show(place)}, must be a relative path without ..")


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


def _positions(backbone: BackboneConfig) -> int | None:
    """Longest input in tokens, or None where positions are relative and so unbounded."""
    limit = backbone.arch.get("max_position_embeddings")
    if not isinstance(limit, int) or backbone.arch.get("position_biased_input") is False:
        return None
    # RoBERTa's positions start after its padding index, 1.
    return limit - 2 if backbone.family == "roberta" else limit


# -- coercion ------------------------------------------------------------------------------------------------


def coerce(cls: type[T], values: Any, where: str) -> T:
    """An instance of the dataclass ``cls``, each value in the field's type and inside its range.

    ``where``: the key of the group, for messages. Values that already are dataclasses are taken as they are.
    """
    if not isinstance(values, dict):
        keys = ", ".join(f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]
        raise UserError(f"{where}: got {_show(values)}, must be a group of keys ({keys})")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    _refuse_unknown(values, fields, where)
    hints = get_type_hints(cls)
    result: dict[str, Any] = {}
    for name, item in fields.items():
        key = f"{where}.{name}" if where else name
        if name not in values:
            if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
                raise UserError(f"{key}: missing, must be given")
            continue
        value = values[name]
        if dataclasses.is_dataclass(value):
            result[name] = value
            continue
        rule = item.metadata.get("rule", {})
        converted = _convert(value, hints[name])
        if converted is _WRONG or not _within(converted, rule):
            raise UserError(f"{key}: got {_show(value)}, must be {_describe(hints[name], rule)}{_hint(value, rule)}")
        result[name] = converted
    return cls(**result)


_WRONG = object()
_WORDS = {"true": True, "false": False}


def _convert(value: Any, hint: Any) -> Any:
    """``value`` as the type ``hint``, or ``_WRONG``. Nothing is rounded, and true is no number."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)))
    if hint is Any:
        return value
    if value is None:
        return _WRONG
    if origin is list:
        items = [_convert(each, arguments[0]) for each in value] if isinstance(value, list) else [_WRONG]
        return _WRONG if any(each is _WRONG for each in items) else items
    if origin is dict:
        if not isinstance(value, dict):
            return _WRONG
        pairs = {str(key): _convert(each, arguments[1]) for key, each in value.items()}
        return _WRONG if any(each is _WRONG for each in pairs.values()) else pairs
    if hint is bool:
        if isinstance(value, str):
            return _WORDS.get(value.lower(), _WRONG)
        return value if isinstance(value, bool) else _WRONG
    if isinstance(value, bool | list | dict):
        return _WRONG
    if hint is str:
        return _WRONG if isinstance(value, float) else str(value)
    return _number(value, hint)


def _number(value: Any, hint: type[int] | type[float]) -> Any:
    if hint is int and isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass  # "1e3" is an integer too
    try:
        number = value if hint is int and isinstance(value, int) else float(value)
    except (TypeError, ValueError, OverflowError):
        return _WRONG
    if not math.isfinite(number):
        return _WRONG
    if hint is float:
        return float(number) + 0.0  # -0.0 becomes 0.0: one value, one text, one run id
    return int(number) if number == int(number) else _WRONG


def _within(value: Any, rule: Mapping[str, Any]) -> bool:
    if value is None:
        return True
    if isinstance(value, list):
        return all(_within(each, rule) for each in value)
    return (
        ("choices" not in rule or value in rule["choices"])
        and ("minimum" not in rule or value >= rule["minimum"])
        and ("maximum" not in rule or value <= rule["maximum"])
        and ("above" not in rule or value > rule["above"])
        and ("below" not in rule or value < rule["below"])
    )


_NOUNS = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    bool: ("true or false", ""),
}


def _describe(hint: Any, rule: Mapping[str, Any], plural: bool = False) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _describe(next(a for a in arguments if a is not type(None)), rule) + " or null"
    if origin is list:
        return "a list of " + _describe(arguments[0], rule, plural=True)
    if origin is dict:
        return "a group of keys and values"
    if "choices" in rule:
        return one_of(rule["choices"])
    limits = [
        f"{sign} {rule[key]:g}" if isinstance(rule[key], float) else f"{sign} {rule[key]}"
        for key, sign in (("minimum", ">="), ("above", ">"), ("maximum", "<="), ("below", "<"))
        if key in rule and rule[key] != MAX_SEED
    ]
    noun = _NOUNS.get(hint, ("a value", "values"))[plural]
    return " ".join([noun, " and ".join(limits)]).strip()


def _hint(value: Any, rule: Mapping[str, Any]) -> str:
    return nearest(str(value), rule.get("choices", ()))


def _show(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _refuse_unknown(values: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    names = list(known)
    for key in values:
        if key not in names:
            full = f"{where}.{key}" if where else str(key)
            of = f" of {where}={values['name']}" if where and isinstance(values.get("name"), str) else ""
            hint = nearest(str(key), names) or f"; the keys are {', '.join(sorted(names))}"
            raise UserError(f"{full}: no such key{of}{hint}")


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
