"""Values of a configuration as its dataclasses ask (torch-free): types by OmegaConf, ranges here.

Every mistake is one sentence that names the key, what was given, what may be, and the nearest choice.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import types
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from sora.config import MAX_SEED, METHODS
from sora.errors import UserError

T = TypeVar("T")


def nearest(word: str, options: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the option most like ``word``, or an empty string."""
    lowered = {option.lower(): option for option in options}
    close = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    return f"; did you mean {lowered[close[0]]}?" if close else ""


def one_of(options: Iterable[str]) -> str:
    """``one of a, b, c``, or the only option."""
    listed = list(options)
    return listed[0] if len(listed) == 1 else "one of " + ", ".join(listed)


def coerce(cls: type[T], values: Any, where: str) -> T:
    """An instance of the dataclass ``cls``, each value in the field's type (by OmegaConf) and inside its range.

    ``where``: the key of the group, for messages. Values that already are dataclasses are taken as they are.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: got {show(values)}, must be {_keys_of(cls)}")
    ready = {key: value for key, value in values.items() if dataclasses.is_dataclass(value)}
    given = {key: value for key, value in values.items() if key not in ready}
    try:
        node = OmegaConf.merge(_schema(cls), given)
        plain = {key: node[key] for key in _schema(cls) if key not in ready}
    except OmegaConfBaseException as error:
        raise UserError(explained(error, where)) from error
    except OverflowError as error:
        raise UserError(too_large(error, where)) from error
    made = {key: OmegaConf.to_object(value) if OmegaConf.is_config(value) else value for key, value in plain.items()}
    result = cls(**made, **ready)
    check_ranges(result, where)
    return result


@functools.cache
def _schema(cls: type[Any]) -> DictConfig:
    return cast(DictConfig, OmegaConf.structured(cls))


def explained(error: OmegaConfBaseException, where: str = "") -> str:
    """One sentence for what OmegaConf refused in a structured config: the key, what was given, what may be.

    ``where``: the key of the config that was merged.
    """
    full = ".".join(filter(None, (where, error.full_key)))
    owner = error.object_type
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and dataclasses.is_dataclass(owner):
        known = [item.name for item in dataclasses.fields(owner)]
        name = next((name for name, cls in METHODS.items() if cls is owner), "")
        hint = nearest(str(error.key), known) or f"; the keys are {', '.join(sorted(known))}"
        return f"{full}: no such key{f' of method={name}' if name else ''}{hint}"
    if isinstance(error, MissingMandatoryValue):
        return f"{full}: missing, must be given"
    if not isinstance(error, ValidationError):
        return f"{full or 'config'}: cannot be resolved ({str(error).strip().splitlines()[0]})"
    node, key = error.parent_node, error.key if error.key is not None else (error.full_key or "").rpartition(".")[2]
    while node is not None and not dataclasses.is_dataclass(OmegaConf.get_type(node)):
        node, key = node._get_parent(), node._key()  # from an item of a list to the list
    owner = OmegaConf.get_type(node) if node is not None else None
    if owner is None or key not in get_type_hints(owner):
        return f"{full or 'config'}: {str(error).strip().splitlines()[0]}"
    item = next(each for each in dataclasses.fields(owner) if each.name == key)
    may = _describe(get_type_hints(owner)[key], item.metadata.get("rule", {}))
    return f"{full}: got {show(error.value)}, must be {may}"


def too_large(error: OverflowError, where: str = "") -> str:
    """One sentence for an integer that is no double; OmegaConf names its key in the message."""
    full = re.search(r"full_key: (\S+)", str(error))
    key = ".".join(filter(None, (where, full and full[1])))
    return f"{key or 'config'}: the number has too many digits, must be below 1e308"


def check_ranges(group: Any, where: str) -> None:
    """Raise UserError for a value of a dataclass, or of those in it, that is out of its range."""
    hints = get_type_hints(type(group))
    for item in dataclasses.fields(group):
        key = f"{where}.{item.name}" if where else item.name
        value, rule = getattr(group, item.name), item.metadata.get("rule", {})
        if dataclasses.is_dataclass(value):
            check_ranges(value, key)
        for at, each in value.items() if isinstance(value, dict) and rule else [("", value)]:
            if not _within(each, rule):
                may = _describe(hints[item.name] if not at else int, rule)
                raise UserError(f"{key}{at and f'.{at}'}: got {show(each)}, must be {may}{_hint(each, rule)}")
        if isinstance(value, float):
            setattr(group, item.name, value + 0.0)  # -0.0 becomes 0.0: one value, one text, one run id


def _within(value: Any, rule: Mapping[str, Any]) -> bool:
    if value is None:
        return True
    if isinstance(value, list):
        return all(_within(each, rule) and not isinstance(each, list | dict) for each in value)
    if isinstance(value, float) and not math.isfinite(value):
        return False
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
    if dataclasses.is_dataclass(hint):
        return _keys_of(hint)
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


def show(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _keys_of(cls: Any) -> str:
    return f"a group of keys ({', '.join(item.name for item in dataclasses.fields(cls))})"
