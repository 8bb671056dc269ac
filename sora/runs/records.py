"""What a finished run leaves behind: one JSON file, and one ``.npz`` with its logits (torch-free).

    <paths.results>/records/<backbone>/<task>/<method>-s<seed>-<run id>.json
    <paths.results>/records/<backbone>/<task>/<method>-s<seed>-<run id>.npz

sora/runs/schema.py defines each key and its unit. Both files are written once, atomically, the JSON
last: where it exists, the run is complete.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from sora.config import RunConfig
from sora.errors import UserError
from sora.files import as_user_error, read_json, write_bytes, write_text, zipped
from sora.runs.schema import SCHEMA_VERSION, Record, check, differing

NOT_SCIENCE = ("time", "throughput", "memory", "provenance")  # may differ when the same run is repeated
Arrays = dict[str, np.ndarray]
# What numpy, zipfile and zlib raise at a file that is no .npz, or a damaged one.
UNREADABLE = (
    *(OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, SyntaxError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)

WAY_OUT = "restore the file, or move it away and run again"


def validate(record: Any, where: str) -> None:
    """Check a record against the schema of ``SCHEMA_VERSION`` (sora/runs/schema.py).

    ``where``: the file, for messages. Raises UserError that names the file and the key.
    """
    check(Record, record, SCHEMA_VERSION, where, WAY_OUT)
    pack = record["pack"]
    if pack["size"] != len(pack["members"]) or record["run_id"] not in pack["members"]:
        what = f"must be {pack['size']} run ids, among them {record['run_id']}"
        raise UserError(f"{where}: pack.members {what}; {WAY_OUT}")


# -- where records lie ---------------------------------------------------------------------------------------


def record_path(results: Path, run: RunConfig, run_id: str) -> Path:
    """Return where the record of ``run`` belongs."""
    name = f"{run.method.name}-s{run.seed}-{run_id}.json"
    return Path(results) / "records" / run.backbone.name / run.task.name / name


def find(results: Path, run_id: str) -> Path | None:
    """Return the record of that run id, or None, also where its arrays are gone. Only the id in its name counts."""
    return finished(results).get(run_id)


def finished(results: Path) -> dict[str, Path]:
    """Find every record below ``results`` that has its arrays, by run id, from the names alone, in one pass."""
    folder = Path(results) / "records"
    arrays = {path.with_suffix("") for path in files(folder, ".npz")}
    paths = [path for path in reversed(files(folder, ".json")) if path.with_suffix("") in arrays]
    return {path.stem[-12:]: path for path in paths}


def files(folder: Path, suffix: str) -> list[Path]:
    """List the files of that suffix below ``folder``, also behind links: a part may lie on another disk."""
    return sorted(Path(folder) / name for name in glob(f"**/*{suffix}", root_dir=folder, recursive=True))


# -- writing -------------------------------------------------------------------------------------------------


def write(path: Path, record: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    """Write ``path`` and, before it, the ``.npz`` of its arrays; return the record as the file has it.

    Non-finite numbers become null.

    Raises UserError when the record breaks the layout, contradicts itself or its arrays, or cannot be written.
    """
    plain = _finite(dict(record))
    validate(plain, str(path))
    if (plain["status"] == "diverged") != (plain["flags"]["diverged_at"] is not None):
        raise UserError(f"{path}: flags.diverged_at contradicts status {plain['status']}")
    if plain["data"]["arrays_sha256"] != arrays_digest(arrays):
        raise UserError(f"{path}: data.arrays_sha256 is not the hash of the arrays to be written")
    text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path.with_suffix(".npz"), _npz(arrays))
    write_text(path, text)
    written: dict[str, Any] = json.loads(text)
    return written


def _finite(value: Any) -> Any:
    """Return ``value`` with every non-finite number replaced by None: JSON has neither NaN nor infinity."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _npz(arrays: Arrays) -> bytes:
    """Return the bytes of an .npz that depend on nothing but the arrays."""
    files = {}
    for name, array in arrays.items():
        np.lib.format.write_array(content := io.BytesIO(), np.ascontiguousarray(array), allow_pickle=False)
        files[f"{name}.npy"] = content.getvalue()
    return zipped(files)


def arrays_digest(arrays: Arrays) -> str:
    """Return sha256 of names, types, shapes and values; the same for the same arrays whatever compressed them."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


# -- reading -------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """Return the record in the file ``path``, checked. Raises UserError that names the file and the key."""
    record: dict[str, Any] = read_json(path, WAY_OUT)
    validate(record, str(path))
    return record


def read_many(folder: Path) -> list[dict[str, Any]]:
    """Return every record below ``folder``, by path. Raises UserError when one cannot be read."""
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder of records; train a run first, or check paths.results")
    return [read(path) for path in files(folder, ".json")]


def read_arrays(path: Path, record: Mapping[str, Any] | None = None) -> Arrays:
    """Read the arrays of the record ``path``: ``{select,report[,report_mm]}_{ids,logits,labels}``.

    ``record``: what ``path`` holds, where that has been read already.

    ids int64 [N] (0-based rows of the official file), logits float16 or float32 [N, C], labels int64 [N] or
    float32 [N]; all from the selected weights. MultiRC and ReCoRD add groups int64 [N] (question), ReCoRD credit
    float64 [N, 2]. A sparsity schedule adds ``level<k>_<split>_logits`` of its levels, and what else there is of
    train_subset. SoRA adds ``gates`` float32 [M, r], before pruning, a row for each key of ``ranks``, in their order.
    Raises UserError when the file is damaged or not the record's.
    """
    record, file = record or read(path), Path(path).with_suffix(".npz")
    with as_user_error(file, "cannot be read", WAY_OUT, UNREADABLE), np.load(file, allow_pickle=False) as archive:
        arrays = dict(archive)
    if arrays_digest(arrays) != record["data"]["arrays_sha256"]:
        raise UserError(f"{file}: is not the file {path} was written with; {WAY_OUT}")
    return arrays


def science(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be equal when the run is repeated: all but time, throughput, memory and provenance."""
    return {key: value for key, value in record.items() if key not in NOT_SCIENCE}


def unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """List the keys of :func:`science` in which two records of one run contradict each other."""
    return differing(Record, science(one), science(other))
