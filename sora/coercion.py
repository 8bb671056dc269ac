"""Options as dataclass fields: declared with :func:`opt`, checked with :func:`coerce` (torch-free).

Types are OmegaConf's business, ranges are checked here. Every mistake is one sentence that names the key, what was
given, what may be, and the nearest choice.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import operator
import re
import types
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from sora.errors import UserError

T = TypeVar("T")
MAX_SEED = 2**63 - 1  # what a torch generator takes


def opt(default: Any, meaning: str, *, science: bool = True, unnamed: Any = None, **rule: Any) -> Any:
    """A dataclass field with its meaning, in a line of ``--help``, and its range.

    ``rule``: ``choices`` (a tuple), ``minimum`` and ``maximum`` (ends included), ``above`` and ``below``
    (ends excluded); on a list they hold for each item. ``science=False``: runs of one name may differ. ``unnamed``:
    where the default null stands for another value, the value that is left out of the run id in its place.
    """
    metadata = {"meaning": meaning, "science": science, "rule": rule, "unnamed": unnamed}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


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
    """An instance of the dataclass ``cls``, each value in the field's type and inside its range.

    ``where``: the key of the group, for messages. Values that are dataclasses are taken as they are.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: got {show(values)}, must be {_describe(cls, {})}")
    ready = {key: value for key, value in values.items() if dataclasses.is_dataclass(value)}
    try:
        schema = _schema(cast(Any, cls))
        node: Any = OmegaConf.merge(schema, {key: values[key] for key in values if key not in ready})
        plain = {str(key): node[key] for key in schema if key not in ready}
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
        return f"{full}: no such key{nearest(str(error.key), known) or '; the keys are ' + ', '.join(sorted(known))}"
    if isinstance(error, MissingMandatoryValue):
        return f"{full}: missing, must be given"
    if not isinstance(error, ValidationError):
        return f"{full or 'config'}: cannot be resolved ({str(error).strip().splitlines()[0]})"
    node, key = error.parent_node, error.key if error.key is not None else (error.full_key or "").rpartition(".")[2]
    while node is not None and not dataclasses.is_dataclass(OmegaConf.get_type(node)):
        node, key = node._get_parent(), node._key()  # from an item of a list to the list
    owner = None if node is None else OmegaConf.get_type(node)
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
                hint = nearest(str(each), rule.get("choices", ()))
                raise UserError(f"{key}{at and f'.{at}'}: got {show(each)}, must be {may}{hint}")
        if isinstance(value, float):
            setattr(group, item.name, value + 0.0)  # -0.0 becomes 0.0: one value, one text, one run id


def _within(value: Any, rule: Mapping[str, Any]) -> bool:
    if value is None:
        return True
    if isinstance(value, list):
        return all(not isinstance(each, list | dict) and _within(each, rule) for each in value)
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if "choices" in rule and value not in rule["choices"]:
        return False
    return all(holds(value, rule[name]) for name, (_, holds) in BOUNDS.items() if name in rule)


BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "minimum": (">=", operator.ge),
    "above": (">", operator.gt),
    "maximum": ("<=", operator.le),
    "below": ("<", operator.lt),
}
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
        return f"a group of keys ({', '.join(item.name for item in dataclasses.fields(hint))})"
    if "choices" in rule:
        return one_of(rule["choices"])
    limits = [
        f"{sign} {rule[key]:g}" if isinstance(rule[key], float) else f"{sign} {rule[key]}"
        for key, (sign, _) in BOUNDS.items()
        if key in rule and rule[key] != MAX_SEED
    ]
    noun = _NOUNS.get(hint, ("a value", "values"))[plural]
    return " ".join([noun, " and ".join(limits)]).strip()


def show(value: Any) -> str:
    """A value in a sentence, in at most 80 characters."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
