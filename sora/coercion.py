"""Values of a configuration as the types and ranges of its dataclasses ask (torch-free): checked, never rounded.

Each field says beside its type what it may be (``opt`` of sora/config.py). Every mistake is one sentence that names the
key, what was given, what may be, and the nearest choice.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from sora.config import MAX_SEED
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
    """An instance of the dataclass ``cls``, each value in the field's type and inside its range.

    ``where``: the key of the group, for messages. Values that already are dataclasses are taken as they are.
    """
    if not isinstance(values, dict):
        keys = ", ".join(f.name for f in dataclasses.fields(cls))  # type: ignore[arg-type]
        raise UserError(f"{where}: got {show(values)}, must be a group of keys ({keys})")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    refuse_unknown(values, fields, where)
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
            raise UserError(f"{key}: got {show(value)}, must be {_describe(hints[name], rule)}{_hint(value, rule)}")
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
    if hint is int and isinstance(value, int):
        return value  # of any size: beyond a double it is refused by its range
    try:
        number = float(value)
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


def show(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def refuse_unknown(values: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    names = list(known)
    for key in values:
        if key not in names:
            full = f"{where}.{key}" if where else str(key)
            of = f" of {where}={values['name']}" if where and isinstance(values.get("name"), str) else ""
            hint = nearest(str(key), names) or f"; the keys are {', '.join(sorted(names))}"
            raise UserError(f"{full}: no such key{of}{hint}")
