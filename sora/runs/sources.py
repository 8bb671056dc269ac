"""Controls made from a finished run: its record is found, checked against the control, and read (torch-free)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sora.backbones.source import backbone_identity
from sora.config import RunConfig
from sora.errors import UserError
from sora.method_config import MaskedLoraConfig, SvdCutConfig
from sora.runs import records
from sora.runs.run_id import recorded_config

RUN_ID = 12  # digits
SHAPE = ("r", "alpha", "rslora", "targets")  # of method: which matrices, how many ranks, and their scale


def filled(run: RunConfig) -> RunConfig:
    """Return the run with what its control takes from ``method.source``, and the run id in place of a path.

    Raises:
        UserError: there is no such finished run, or it is of another backbone or another shape.
    """
    method = run.method
    if isinstance(method, SvdCutConfig):
        return replace(run, method=_cut(run, method))
    if not isinstance(method, MaskedLoraConfig):
        return run
    if method.source:
        record = finished(run)
        check_same_shape(run, record)
        if method.ranks not in (None, record["ranks"]):
            raise UserError(
                f"method.ranks: given with method.source={record['run_id']}, whose ranks differ; leave one out"
            )
        method = replace(method, source=record["run_id"], ranks=record["ranks"])
    if method.pattern == "permuted" and method.permutation is None:
        method = replace(method, permutation=run.seed)
    return replace(run, method=method)


def _cut(run: RunConfig, method: SvdCutConfig) -> SvdCutConfig:
    if not method.source or not (method.size or method.live is not None):
        return method
    record = finished(run)
    check_same_model(run, record)
    live = method.live
    if live is None and method.size.isdecimal() and len(method.size) < RUN_ID:
        live = int(method.size)
    elif live is None:
        live = int(finished(run, "size")["params"]["live"])
    return replace(method, source=record["run_id"], live=live)


def finished(run: RunConfig, key: str = "source") -> dict[str, Any]:
    """Return the record that ``method.<key>`` means: a file, or a run id below ``paths.results``."""
    source = str(getattr(run.method, key))
    path = Path(source) if source.endswith(".json") else records.find(Path(run.paths.results), source)
    if path is None or not path.is_file():
        where = f"in {run.paths.results}/records" if path is None else "at that path"
        raise UserError(
            f"method.{key}: no record of {source} {where}; finish that run first, or give the path of its record"
        )
    record = records.read(path)
    if record["status"] != "ok":
        raise UserError(f"method.{key}: run {record['run_id']} is {record['status']}; take one that is not")
    return record


def check_same_shape(run: RunConfig, record: dict[str, Any]) -> None:
    """Raise UserError unless the source adapts the same matrices of the same weights, with the same r and scale."""
    theirs, method = record["config"], record["config"]["method"]
    if not record["ranks"]:
        raise UserError(f"method.source: run {record['run_id']} is of method={method['name']}, which has no ranks")
    method = method | {"r": method.get("init_r", method.get("r"))}  # AdaLoRA's is an average
    compared: dict[str, tuple[Any, Any]] = {"backbone": (theirs["backbone"]["name"], run.backbone.name)}
    compared |= {f"method.{key}": (method.get(key), getattr(run.method, key)) for key in SHAPE}
    compared["backbone.weights"] = theirs["weights"], backbone_identity(run.backbone)
    _check_equal(record["run_id"], compared)


def check_same_model(run: RunConfig, record: dict[str, Any]) -> None:
    """Raise UserError unless the source is a LoRA run of which all but its adapter's size can be this run's."""
    name, theirs = record["run_id"], record["config"]
    if theirs["method"]["name"] != "lora":
        raise UserError(f"method.source: run {name} is of method={theirs['method']['name']}; take one of method=lora")
    ours = recorded_config(run, backbone_identity(run.backbone))
    compared = {
        f"{group}.{key}": (theirs[group][key], ours[group][key])
        for group in ("backbone", "task", "protocol")
        for key in theirs[group].keys() & ours[group].keys()
    }
    compared |= {key: (theirs[key], ours[key]) for key in ("weights", "precision", "head") if key in theirs}
    compared["trainer.max_length"] = theirs["trainer"].get("max_length"), run.trainer.max_length
    _check_equal(name, compared)


def _check_equal(name: str, compared: dict[str, tuple[Any, Any]]) -> None:
    """``compared``: key -> the source's value, and this run's."""
    for key, (theirs, ours) in compared.items():
        if theirs != ours:
            shown, mine = ("null" if value is None else value for value in (theirs, ours))
            raise UserError(
                f"method.source: run {name} has {key}={shown}, this run {mine}; take another source, or give that"
            )
