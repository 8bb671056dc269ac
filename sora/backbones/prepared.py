"""Folders that scripts/prepare_data.py filled, and the hashes by which their files are known (torch-free).

``prepared.json`` lists every file with its size and sha256 and is written last; until then ``.unfinished`` lies there.
What a run reads from such a folder is compared with the list.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sora.errors import UserError

MANIFEST = "prepared.json"
UNFINISHED = ".unfinished"
AGAIN = "run scripts/prepare_data.py again"


@functools.lru_cache
def _hash(path: Path, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hash(path: Path) -> str:
    """sha256 (hex) of a file, computed once in a process as long as the file is not modified."""
    return _hash(path, path.stat().st_mtime_ns)


def entry(path: Path) -> dict[str, Any]:
    """What the manifest says about a file."""
    return {"bytes": path.stat().st_size, "sha256": file_hash(path)}


def read_manifest(root: Path) -> dict[str, Any] | None:
    """The manifest of ``root``; None where there is none. Raises UserError for a folder that was not finished."""
    if (root / UNFINISHED).exists():
        raise UserError(f"{root}: was not filled to the end; {AGAIN}")
    path = root / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest["files"], dict):
            raise TypeError
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not what scripts/prepare_data.py writes; {AGAIN}") from error
    return manifest


def check(root: Path, files: Iterable[Path]) -> None:
    """Compare ``files`` with the manifest of ``root``, where it has one.

    Raises:
        UserError: the folder was not finished, or a file is missing, changed or unknown to the manifest.
    """
    manifest = read_manifest(root)
    if manifest is None:
        return
    for path in files:
        found = entry(path) if path.is_file() else None
        if found is None or found != manifest["files"].get(path.relative_to(root).as_posix()):
            raise UserError(f"{path}: missing, changed or added since {root / MANIFEST} was written; {AGAIN}")


def check_all(root: Path) -> int:
    """Compare every listed file; returns how many there are. Raises UserError as ``check``, or without a manifest."""
    manifest = read_manifest(root)
    if manifest is None:
        raise UserError(f"{root}: no {MANIFEST} there; fill the folder with scripts/prepare_data.py")
    check(root, (root / name for name in manifest["files"]))
    return len(manifest["files"])
