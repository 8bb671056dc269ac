"""Folders that scripts/prepare_data.py filled, and the hashes by which their files are known (torch-free).

``prepared.json`` lists every file with its size and sha256. It is written before the files are, so that what a run
reads from a folder that was not filled to the end is refused like any other that differs from the list.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sora.errors import UserError
from sora.files import as_user_error, parse_json

MANIFEST = "prepared.json"
AGAIN = "run scripts/prepare_data.py again, or delete prepared.json first if that does not help"


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


def listed(root: Path) -> dict[Path, dict[str, Any]]:
    """The files that the manifest of ``root`` lists, with their entries; {} where it has none."""
    path = root / MANIFEST
    if not path.is_file():
        return {}
    with as_user_error(path, "damaged", AGAIN, (OSError, ValueError, TypeError, LookupError, AttributeError)):
        files = parse_json(path.read_text(encoding="utf-8"))["files"].items()
    return {root / name: found for name, found in files}


def check(root: Path, files: Iterable[Path]) -> None:
    """Compare ``files`` with the manifest of ``root``, where it has one.

    Raises:
        UserError: a file is missing, changed or unknown to the manifest.
    """
    known = listed(root)
    for path in files if known else ():
        if not path.is_file() or entry(path) != known.get(path):
            raise UserError(f"{path}: missing, changed or added since {root / MANIFEST} was written; {AGAIN}")


def check_all(root: Path) -> int:
    """Compare every listed file; returns how many there are. Raises UserError as ``check``, or without a manifest."""
    files = listed(root)
    if not files:
        raise UserError(f"{root}: no {MANIFEST} there; fill the folder with scripts/prepare_data.py")
    check(root, files)
    return len(files)
