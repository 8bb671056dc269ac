"""Write files whole or not at all: the one atomic write of the program (torch-free)."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from sora.errors import UserError


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a new name beside ``path`` to write to; what stands there at the end takes the place of ``path``.

    Makes the folders above. After an error, or a kill, the old file stays. Survives a loss of power: file and folder
    are synchronised. Raises OSError where the disk is full or read-only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # containers have equal process numbers
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)  # the new name itself is data of the folder
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file ``path`` by ``content``; see :func:`replaced`.

    Raises UserError where the disk is full or read-only.
    """
    try:
        with replaced(Path(path)) as beside:
            beside.write_bytes(content)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); free some space, or set "
            "paths.results and paths.runs to folders that can be written"
        ) from error


def write_text(path: Path, text: str) -> None:
    """As :func:`write_bytes`, of a text in UTF-8."""
    write_bytes(path, text.encode("utf-8"))
