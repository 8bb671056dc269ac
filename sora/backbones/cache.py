"""What is computed once per machine and kept: tokens, converted weights. Torch-free.

By default it lies where users of Hugging Face tools look for such files, in ``<HF_HOME>/assets/sora-bench`` (or in
``HF_ASSETS_CACHE``); ``paths.cache`` names another folder. The name of an entry is a hash of all that decides its
content, so an entry is never out of date, may be deleted at any time, and is no part of any run id.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from sora.errors import UserError
from sora.files import replaced

T = TypeVar("T")
LIBRARY = "sora-bench"
WAY_OUT = "set paths.cache (or the variable HF_ASSETS_CACHE) to a folder that can"


def cache_folder(kind: str, configured: str | None) -> Path:
    """The folder of the entries of ``kind`` (tokens, weights) for ``paths.cache``; it need not exist yet."""
    if configured:
        return Path(configured).expanduser() / kind
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / LIBRARY / kind


def once(path: Path, read: Callable[[Path], T], make: Callable[[], T], write: Callable[[Path, T], None]) -> T:
    """The entry at ``path``: read, or made and written by the first process that asks while the others wait for it.

    Written beside its name and renamed, so that no process ever sees half of it. An entry that ``read`` refuses
    (OSError, ValueError, KeyError) counts as missing: it was damaged after it was written.

    Raises:
        UserError: there is no such entry, and the folder cannot be written.
    """
    with contextlib.suppress(OSError, ValueError, KeyError):
        return read(path)
    with _locked(path):
        with contextlib.suppress(OSError, ValueError, KeyError):
            return read(path)
        made = make()
        with _writing(path), replaced(path) as beside:
            write(beside, made)
        return made


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the entry's lock; the system releases it when the process ends, however it ends."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock").open("w")
    with lock:
        with _writing(path):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path.parent}: the cache cannot be written ({error.strerror or error}); {WAY_OUT}") from error
