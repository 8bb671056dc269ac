"""What a finished run leaves behind: one JSON file, and beside it one ``.npz`` with its logits (torch-free).

    <paths.results>/records/<backbone>/<task>/<method>-s<seed>-<run id>.json
    <paths.results>/records/<backbone>/<task>/<method>-s<seed>-<run id>.npz

docs/record.md says what each key means and in which unit. Both files are written once, atomically, the JSON
last: where it exists, the run is complete.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import re
import uuid
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sora.config import RunConfig
from sora.errors import UserError
from sora.untrusted import is_name, parse_json

SCHEMA_VERSION = 1
STATUSES = ("ok", "diverged")
NOT_SCIENCE = ("time", "throughput", "memory", "provenance")  # may differ when the same run is repeated
Arrays = dict[str, np.ndarray]
# What numpy, zipfile and zlib raise at a file that is no .npz, or a damaged one.
UNREADABLE = (
    *(OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, SyntaxError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)

# -- the layout ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Null:
    """A value of ``shape``, or null."""

    shape: Any


@dataclass(frozen=True)
class Absent:
    """A key that may be left out; where it is given it holds ``shape``."""

    shape: Any


# A shape is a type, Null, [shape of each item], {str: shape of each value} or {key: shape, ...}. Further keys
# are welcome, so that a later version can say more without a new schema number.
MEASURED = Null(float)  # null = was not finite
SCORES = {str: MEASURED}
EVALUATION = {
    "step": int,
    "select": SCORES,
    "report": SCORES,
    "report_mm": Absent(SCORES),
    "train_subset": Absent(SCORES),
}
LEVEL = EVALUATION | {
    "level": int,
    "threshold": MEASURED,
    "sparsity": Absent(float),
    "live": int,
    "authors_formula": int,
    "ranks": {str: int},
}
LAYOUT: dict[str, Any] = {
    "schema": int,
    "run_id": str,
    "status": str,
    "flags": {
        "one_class": bool,
        "partial": bool,
        "synthetic": bool,
        "random_weights": bool,
        "members_changed": bool,
        "device_changed": Absent(bool),
        "fallbacks": Absent([str]),
        "diverged_at": Null(int),
    },
    "config": {
        "backbone": {"name": str},
        "method": {"name": str},
        "task": {"name": str},
        "protocol": {"name": str},
        "trainer": dict,
        "schedule": dict,
        "seed": int,
        "weights": dict,
    },
    "history": [
        {
            "step": int,
            "epoch": float,
            "lr": MEASURED,
            "threshold": MEASURED,
            "loss": MEASURED,
            "select": SCORES,
            "live_ranks": Null(int),
            "gate_histogram": Absent([int]),
        }
    ],
    "level_results": [LEVEL],
    "pack": {"size": int, "members": [str]},
    "metrics": {"selected": EVALUATION, "last": EVALUATION},
    "params": {"trainable": int, "live": int, "authors_formula": int, "head": int},
    "ranks": {str: int},
    "ranks_last": Absent({str: int}),
    "no_data_ranks": Absent({"selected": {str: int}, "last": Absent({str: int})}),
    "regime": Absent({"rho": float, "shrink": float, "travel": float}),
    "data": {
        "sizes": {str: int},
        "partial": {str: str},
        "truncated": Absent({str: int}),
        "sha256": str,
        "sources": {str: str},
        "arrays_sha256": str,
    },
    "time": {"setup_s": float, "train_s": float, "eval_s": float},
    "throughput": {"examples_per_s": MEASURED, "tokens_per_s": MEASURED, "padding": MEASURED},
    "memory": {"peak_bytes": Null(int)},
    "provenance": {
        "command": str,
        "git": Null(str),
        "versions": {str: str},
        "device": str,
        "threads": int,
        "started": str,
        "finished": str,
        "resumed_at": [int],
        "recipe": Absent({"name": str, "budget": str, "unpublished": [str], "changed": [str], "tuned": Absent(str)}),
    },
}
_NOUNS = {
    int: "an integer",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def validate(record: Any, where: str) -> None:
    """Check a record against the layout of ``SCHEMA_VERSION``.

    ``where``: the file, for messages. Raises UserError that names the file and the key.
    """
    if not isinstance(record, dict):
        raise UserError(
            f"{where}: holds no record but {_show(record)}; restore the file, or move it away and run again"
        )
    schema = record.get("schema")
    if isinstance(schema, int) and schema > SCHEMA_VERSION:
        raise UserError(
            f"{where}: schema is {schema}, but {SCHEMA_VERSION} is the newest known here; update the program"
        )
    check_layout(record, LAYOUT, where)
    if schema != SCHEMA_VERSION:
        _refuse(where, "schema", f"got {schema}, must be {SCHEMA_VERSION}")
    if re.fullmatch("[0-9a-f]{12}", record["run_id"]) is None:
        _refuse(where, "run_id", f"got {_show(record['run_id'])}, must be 12 hexadecimal digits")
    for group in ("backbone", "method", "task", "protocol"):  # they name folders and files
        if not is_name(record["config"][group]["name"]):
            shown = _show(record["config"][group]["name"])
            _refuse(where, f"config.{group}.name", f"got {shown}, must be letters, digits and . _ + -")
    if record["status"] not in STATUSES:
        _refuse(where, "status", f"got {_show(record['status'])}, must be one of {', '.join(STATUSES)}")
    if (record["status"] == "diverged") != (record["flags"]["diverged_at"] is not None):
        diverged_at = _show(record["flags"]["diverged_at"])
        _refuse(where, "flags.diverged_at", f"got {diverged_at}, which contradicts status {record['status']}")
    pack = record["pack"]
    if pack["size"] != len(pack["members"]) or record["run_id"] not in pack["members"]:
        _refuse(where, "pack.members", f"must be {pack['size']} run ids, among them {record['run_id']}")


def check_layout(value: Any, shape: Any, where: str, key: str = "") -> None:
    """Raise UserError, naming the file ``where`` and the key, unless ``value`` has ``shape`` (see LAYOUT)."""
    if isinstance(shape, Null):
        if value is None:
            return
        check_layout(value, shape.shape, where, key)
    elif isinstance(shape, type):
        if not _is(value, shape):
            _refuse(where, key, f"got {_show(value)}, must be {_NOUNS[shape]}")
    elif isinstance(shape, list):
        check_layout(value, list, where, key)
        for index, item in enumerate(value):
            check_layout(item, shape[0], where, f"{key}.{index}")
    else:
        check_layout(value, dict, where, key)
        every = shape.get(str)
        for name, inner in ((each, every) for each in value) if every is not None else shape.items():
            path = f"{key}.{name}" if key else str(name)
            optional = isinstance(inner, Absent)
            if name in value:
                check_layout(value[name], inner.shape if optional else inner, where, path)
            elif not optional:
                _refuse(where, path, "is missing")


def _is(value: Any, kind: type) -> bool:
    if kind is float:  # JSON knows one kind of number
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _refuse(where: str, key: str, what: str) -> None:
    raise UserError(f"{where}: {key} {what}; restore the file, or move it away and run again")


def _show(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# -- where records lie ---------------------------------------------------------------------------------------


def record_path(results: Path, run: RunConfig, run_id: str) -> Path:
    """Where the record of ``run`` belongs."""
    name = f"{run.method.name}-s{run.seed}-{run_id}.json"
    return Path(results) / "records" / run.backbone.name / run.task.name / name


def find(results: Path, run_id: str) -> Path | None:
    """The record of that run id, or None, also where its arrays are gone. Only the id in its name counts."""
    paths = (Path(results) / "records").glob(f"**/*-{run_id}.json")
    return min((path for path in paths if path.with_suffix(".npz").is_file()), default=None)


def finished(results: Path) -> dict[str, Path]:
    """Every record below ``results`` that has its arrays, by run id, from the names alone: one look for many runs."""
    folder = Path(results) / "records"
    arrays = {path.with_suffix("") for path in folder.glob("**/*.npz")}
    paths = sorted((path for path in folder.glob("**/*.json") if path.with_suffix("") in arrays), reverse=True)
    return {path.stem[-12:]: path for path in paths}


# -- writing -------------------------------------------------------------------------------------------------


def write(path: Path, record: Mapping[str, Any], arrays: Arrays) -> None:
    """Write ``path`` and, before it, the arrays beside it; non-finite numbers become null.

    Raises UserError when the record breaks the layout, does not name these arrays, or cannot be written.
    """
    plain = _finite(dict(record))
    validate(plain, str(path))
    if plain["data"]["arrays_sha256"] != arrays_digest(arrays):
        _refuse(str(path), "data.arrays_sha256", "is not the hash of the arrays to be written")
    text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path.with_suffix(".npz"), _npz(arrays))
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Replace the file ``path`` by ``text`` in UTF-8: whole or not at all, also when the machine stops.

    Makes the folders above it. Raises UserError when the disk is full or read-only.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """As :func:`write_text`, for bytes."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # containers have equal process numbers
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)  # the new name itself is data of the folder
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); free some space, or set "
            "paths.results and paths.runs to folders that can be written"
        ) from error


def _finite(value: Any) -> Any:
    """``value`` with every non-finite number replaced by None: JSON has neither NaN nor infinity."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _npz(arrays: Arrays) -> bytes:
    """The bytes of an .npz that depend on nothing but the arrays: sorted names, one fixed date."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(arrays[name]), allow_pickle=False)
    return buffer.getvalue()


def arrays_digest(arrays: Arrays) -> str:
    """sha256 of names, types, shapes and values; the same for the same arrays whatever compressed them."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


# -- reading -------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """The record in the file ``path``, checked. Raises UserError that names the file and the key."""
    try:
        record = parse_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check paths.results") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: damaged JSON ({error.msg}); restore it, or move it away and run again"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text ({error.reason}); restore it, or move it away and run again"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: damaged JSON ({error}); restore it, or move it away and run again") from error
    validate(record, str(path))
    return record


def read_many(folder: Path) -> list[dict[str, Any]]:
    """Every record below ``folder``, by path. Raises UserError when one cannot be read."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder of records; train a run first, or check paths.results")
    return [read(path) for path in sorted(Path(folder).rglob("*.json"))]


def read_arrays(path: Path, record: Mapping[str, Any] | None = None) -> Arrays:
    """The arrays beside the record ``path``: ``{select,report[,report_mm]}_{ids,logits,labels}``.

    ``record``: what ``path`` holds, where that has been read already.

    ids int64 [N] (0-based rows of the official file), logits float16 or float32 [N, C], labels int64 [N] or
    float32 [N]; all from the selected weights. MultiRC and ReCoRD add groups int64 [N] (question), ReCoRD credit
    float64 [N, 2]. A sparsity schedule adds ``level<k>_<split>_logits`` of its levels, and what else there is of
    train_subset. SoRA adds ``gates`` float32 [M, r], before pruning, a row for each key of ``ranks``, in their order.
    Raises UserError when the file is damaged or not the record's.
    """
    record, file = record or read(path), Path(path).with_suffix(".npz")
    try:
        with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as archive:
            arrays = {entry.filename.removesuffix(".npy"): _member(archive, entry) for entry in archive.infolist()}
    except UNREADABLE as error:
        raise UserError(f"{file}: cannot be read ({error}); restore the file, or move it away and run again") from error
    if arrays_digest(arrays) != record["data"]["arrays_sha256"]:
        raise UserError(
            f"{file}: is not the file {path} was written with; restore both, or move them away and run again"
        )
    return arrays


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """One array of an .npz; objects are refused, and no more is inflated than the header says.

    As numpy reads it, but for the header: numpy compiles it as Python, which thousands of records would pay for.
    """
    with archive.open(entry) as file:
        start = file.read(10)
        if start[:8] != b"\x93NUMPY\x01\x00":
            raise ValueError(f"{entry.filename}: no array of numpy's format 1.0")
        shape, fortran, dtype = _header(start[8:] + file.read(int.from_bytes(start[8:], "little")))
        size = math.prod(shape) * dtype.itemsize
        content = file.read(size)
    if len(content) != size:
        raise ValueError(f"{entry.filename}: {len(content)} bytes of {size}")
    return np.ndarray(shape, dtype, bytearray(content), order="F" if fortran else "C")


@functools.lru_cache(maxsize=256)
def _header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(header))
    if dtype.hasobject:
        raise ValueError("an array of objects, which only pickle could read")
    if min(shape, default=0) < 0:
        raise ValueError(f"shape is {shape}")
    return shape, fortran, dtype


def science(record: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal when the run is repeated: all but time, throughput, memory and provenance."""
    return {key: value for key, value in record.items() if key not in NOT_SCIENCE}
