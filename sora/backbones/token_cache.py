"""The tokens of a split, made once per machine and kept under a name made from everything that decides them.

By default they lie where users of Hugging Face tools look for such files, in ``<HF_HOME>/assets/sora-bench`` (or in
``HF_ASSETS_CACHE``); ``paths.cache`` names another folder. An entry is never out of date, may be deleted at any time,
and is no part of any run id.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock

from sora.backbones.prepared import file_hash
from sora.backbones.source import tokenizer_files
from sora.backbones.tokenizer import Encoding
from sora.config import BackboneConfig
from sora.files import as_user_error, replaced

FORMAT = 1  # raised whenever the same key would stand for other tokens
LIBRARIES = ("transformers", "tokenizers")  # they turn the files into a tokenizer, not always in the same way
WAY_OUT = "set paths.cache (or the variable HF_ASSETS_CACHE) to a folder that can"
DAMAGED = (OSError, ValueError, KeyError, zipfile.BadZipFile)  # of an entry that is not there, or not whole


def token_key(
    config: BackboneConfig,
    folder: Path,
    texts: tuple[list[str], ...],
    max_length: int,
    segments: bool,
    *,
    choices: int = 1,
    truncate: str = "",
    spans: np.ndarray | None = None,
    where: object = None,
) -> str:
    """sha256 (hex) of what decides the tokens: the tokenizer's files and reading, the libraries, what is encoded how.

    The arguments from ``texts`` on are those of ``tokenizer.encode``; ``where`` only words its messages.
    """
    decisive = {
        "format": FORMAT,
        "files": {path.name: file_hash(path) for path in tokenizer_files(folder)},
        "family": config.family,
        "tokenizer": config.tokenizer,
        "fit": [config.arch.get(key) for key in ("vocab_size", "pad_token_id")],  # token_check.check_fit looks at them
        "max_length": max_length,
        "segments": segments,
        "choices": choices,
        "truncate": truncate,
        "texts": _digest(texts),
        "spans": None if spans is None else [spans.shape, spans.astype("<i8").tobytes().hex()],
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def cache_folder(configured: str | None) -> Path:
    """The folder of the tokens for ``paths.cache``; it need not exist yet."""
    if configured:
        return Path(configured).expanduser() / "tokens"
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "sora-bench" / "tokens"


def cached(folder: Path, key: str, tokenise: Callable[[], Encoding]) -> Encoding:
    """The tokens named ``key`` in ``folder``: read, or made by the first process that asks while the others wait.

    No process ever sees half of an entry; one that was damaged later is made again. Raises UserError where there is no
    such entry and the folder cannot be written.
    """
    path = folder / f"{key}.npz"
    with contextlib.suppress(*DAMAGED):
        return _read(path)
    with as_user_error(folder, "the cache cannot be written", WAY_OUT):
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / f".{path.name}.lock").acquire()
    with held:
        with contextlib.suppress(*DAMAGED):
            return _read(path)
        made = tokenise()
        with as_user_error(folder, "the cache cannot be written", WAY_OUT), replaced(path) as partial:
            _write(partial, made)
        return made


def _digest(texts: tuple[list[str], ...]) -> str:
    """sha256 over each column's lengths and bytes, so that no text can run into the next."""
    hasher = hashlib.sha256(str(len(texts)).encode())
    for column in texts:
        encoded = [text.encode("utf-8", "surrogatepass") for text in column]
        hasher.update(np.array([len(encoded), *map(len, encoded)], dtype="<i8").tobytes())
        hasher.update(b"".join(encoded))
    return hasher.hexdigest()


def _read(path: Path) -> Encoding:
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}  # the archive's checksums are compared here
    pad, choices, truncated = found["numbers"].tolist()
    return Encoding(found["ids"], found.get("types"), found["starts"], pad, choices, found.get("spans"), truncated)


def _write(path: Path, tokens: Encoding) -> None:
    numbers = np.array([tokens.pad, tokens.choices, tokens.truncated])
    arrays = {"ids": tokens.ids, "starts": tokens.starts, "numbers": numbers}
    arrays |= {name: array for name, array in (("types", tokens.types), ("spans", tokens.spans)) if array is not None}
    with path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
