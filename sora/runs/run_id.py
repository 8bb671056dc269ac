"""What decides a run's science, and the name made from it (torch-free)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from sora.config import RunConfig


def science_config(run: RunConfig, data_sha256: str, weights: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved run that affects its results; equal parts, equal runs.

    A field equal to its dataclass default is left out, and so is a group of which nothing is left: an option
    added later, with a default that changes nothing, renames no run.

    ``data_sha256``: of the canonical examples (``TaskData.sha256``). ``weights``: identity of the backbone's
    weights, plain JSON values.
    """
    return {**_decisive(run), "data": data_sha256, "weights": weights}


def run_id(run: RunConfig, data_sha256: str, weights: dict[str, Any]) -> str:
    """Return the digest of a run's science."""
    return digest(science_config(run, data_sha256, weights))


def digest(content: dict[str, Any]) -> str:
    """Return 12 hexadecimal digits of the sha256 of ``content`` as canonical JSON: sorted keys, no spaces, ASCII."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:12]


def recorded_config(run: RunConfig, weights: dict[str, Any]) -> dict[str, Any]:
    """Return every field that affects a run's results, at its value: the ``config`` of its record.

    Nothing else is in it, no path above all, so that a repeated run gives the same record wherever it is repeated.
    """
    return {**_decisive(run, defaults=True), "weights": weights}


def _decisive(group: Any, defaults: bool = False) -> dict[str, Any]:
    """Return the deciding fields of a dataclass, those at their default only with ``defaults``."""
    unused = group.unused() if hasattr(group, "unused") else frozenset()
    result = {}
    for item in dataclasses.fields(group):
        value = getattr(group, item.name)
        if item.name in unused or not item.metadata.get("science", True):
            continue
        if dataclasses.is_dataclass(value):
            value, default = _decisive(value, defaults), {}
        else:
            default = _default(item)
        if defaults or value != default:
            result[item.name] = value
    return result


def _default(item: dataclasses.Field[Any]) -> Any:
    """Return the value at which a field is left out: its default, or what is ``unnamed``; MISSING equals no value."""
    if item.metadata.get("unnamed") is not None:
        return item.metadata["unnamed"]
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
