"""Controls made from a finished run: its record is found, checked against the control, and read (torch-free)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from sora import records
from sora.backbones.source import backbone_identity
from sora.config import MaskedLoraConfig, RunConfig
from sora.errors import UserError

SHAPE = ("r", "alpha", "rslora", "targets")  # of method: which matrices, how many ranks, and their scale


def filled(run: RunConfig) -> RunConfig:
    """The run with what its control takes from ``method.source``, and the run id in place of a path.

    Raises:
        UserError: there is no such finished run, or it is of another backbone or another shape.
    """
    method = run.method
    if not isinstance(method, MaskedLoraConfig):
        return run
    if method.source:
        record = finished(run)
        check_same_shape(run, record)
        if method.ranks not in (None, record["ranks"]):
            raise UserError(
                f"method.ranks: given beside method.source={record['run_id']}, whose ranks differ; leave one out"
            )
        method = replace(method, source=record["run_id"], ranks=record["ranks"])
    if method.pattern == "permuted" and method.permutation is None:
        method = replace(method, permutation=run.seed)
    return replace(run, method=method)


def finished(run: RunConfig) -> dict[str, Any]:
    """The record that ``method.source`` means: a file, or a run id below ``paths.results``."""
    source = str(getattr(run.method, "source", ""))
    path = Path(source) if source.endswith(".json") else records.find(Path(run.paths.results), source)
    if path is None or not path.is_file():
        where = f"in {run.paths.results}/records" if path is None else "at that path"
        raise UserError(
            f"method.source: no record of {source} {where}{_state(Path(run.paths.runs) / source)}; "
            "finish that run first, or give the path of its record"
        )
    record = records.read(path)
    if record["status"] != "ok":
        raise UserError(f"method.source: run {record['run_id']} is {record['status']}; take one that is not")
    return record


def _state(folder: Path) -> str:
    """``, the run is running`` by its status.json; nothing where there is none."""
    try:
        return f", the run is {json.loads((folder / 'status.json').read_text(encoding='utf-8'))['status']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def check_same_shape(run: RunConfig, record: dict[str, Any]) -> None:
    """Raise UserError unless the source adapts the same matrices of the same weights, with the same r and scale."""
    name, theirs = record["run_id"], record["config"]["method"]
    if not record["ranks"]:
        raise UserError(f"method.source: run {name} is of method={theirs['name']}, which has no ranks")
    backbone = record["config"]["backbone"]["name"]
    if backbone != run.backbone.name:
        _refuse(name, "backbone", backbone, run.backbone.name)
    theirs = theirs | {"r": theirs.get("init_r", theirs.get("r"))}  # AdaLoRA's is an average
    for key in SHAPE:
        if theirs.get(key) != getattr(run.method, key):
            _refuse(name, f"method.{key}", theirs.get(key), getattr(run.method, key))
    weights = backbone_identity(run.backbone)
    if record["config"]["weights"] != weights:
        _refuse(name, "backbone.weights", record["config"]["weights"], weights)


def _refuse(name: str, key: str, theirs: Any, ours: Any) -> None:
    shown, mine = ("null" if value is None else value for value in (theirs, ours))
    raise UserError(f"method.source: run {name} has {key}={shown}, this run {mine}; take another source, or give that")
