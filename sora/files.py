"""Find, write and check files: the project's own folders, the one atomic write, JSON and names of others.

What is no Python module of this project lies next to this package in a checkout, and inside it in an installation.
Nothing is unpickled: records are JSON, arrays are read with ``allow_pickle=False``, weights are safetensors or read
with ``weights_only=True``.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from sora.errors import UserError

BUNDLE = Path(__file__).resolve().parent / "_bundle"  # made by setup.py, for a wheel only
ROOT = BUNDLE if BUNDLE.is_dir() else Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"


def expanded(key: str, text: str) -> str:
    """``text`` with a ``~`` in front expanded. Raises UserError, naming ``key``, where no home folder is known."""
    if not text.startswith("~"):
        return text
    whole = os.path.expanduser(text)
    if not whole.startswith("~"):
        return whole
    who = text.partition("/")[0]
    why = "HOME is not set, and this user has no home folder" if who == "~" else f"there is no user {who[1:]}"
    raise UserError(f"{key}: got {text!r}, but {why}; write the whole path, or ./{text} for a folder of that name")


@contextlib.contextmanager
def as_user_error(
    place: Path | str, what: str, advice: str, errors: tuple[type[Exception], ...] = (OSError,)
) -> Iterator[None]:
    """Turn an error of the file system into one sentence: ``<place>: <what> (<why>); <advice>``."""
    try:
        yield
    except errors as error:
        why = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UserError(f"{place}: {what} ({why}); {advice}") from error


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a new name next to ``path`` to write to; what stands there at the end takes the place of ``path``.

    Makes the folders above. After an error, or a kill, the old file stays. Survives a loss of power: file and folder
    are synchronised. Raises OSError where the disk is full or read-only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # containers have equal process numbers
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
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
    advice = "free some space, or set paths.results and paths.runs to folders that can be written"
    with as_user_error(path, "cannot be written", advice), replaced(Path(path)) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """As :func:`write_bytes`, of a text in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Make a zip whose bytes depend on the files alone: sorted names, one fixed date."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, files[name], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: not JSON, a number that is not finite, nested too deeply, half a character (``\\ud83d``) in a text,
            which no file or terminal takes, a key twice in one object.
    """
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; the standard reader would keep the last of two keys and drop the other."""
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return values


def read_json(path: Path, way_out: str) -> Any:
    """Return what a JSON file of this project holds. Raises UserError that names it and, where damaged, the way out."""
    with as_user_error(path, "cannot be read", "check paths.results"):
        content = Path(path).read_bytes()
    with as_user_error(path, "damaged JSON", way_out, (ValueError,)):  # or no UTF-8
        return parse_json(content.decode())


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}"  # can be a part of a path, and of nothing but the folder it stands in


def is_name(text: str) -> bool:
    """Tell whether a text is a NAME."""
    return re.fullmatch(NAME, text) is not None


def is_inside(text: str) -> bool:
    """Tell whether a relative path stays below the folder it starts from."""
    path = PurePosixPath(text)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in text and "\\" not in text
