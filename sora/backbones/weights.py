"""Reads a file of weights; a pickled one once, and from then on the safetensors file that was made of it."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sora.backbones.cache import once
from sora.errors import UserError

PICKLE = ".bin"
KEY = "sha256 of the tensors"  # in the metadata of a converted file


def read_state(files: Sequence[Path], sha256: str, cache: Path | None) -> dict[str, Tensor]:
    """The tensors of ``files``, the shards of one model, in the dtype of the files.

    A .bin is unpickled with weights_only and converted into ``cache`` under its ``sha256``; None converts nothing.
    Raises UserError for a file that cannot be read, or a cache that cannot be written.
    """
    if files[0].suffix != PICKLE or cache is None:
        return _read_all(files)
    return once(cache / f"{sha256}.safetensors", _read_converted, lambda: _unshared(_read_all(files)), _write_converted)


def _read_all(files: Sequence[Path]) -> dict[str, Tensor]:
    return {name: tensor for path in files for name, tensor in _read(path).items()}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == PICKLE:
            # a file of before torch 1.6 is no archive, and cannot be mapped
            mapped = zipfile.is_zipfile(path)
            state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            return state
        return load_file(path)
    except Exception as error:  # each reader has its own errors for a damaged file
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: cannot be read as weights ({reason}); fetch the file again") from error


def _unshared(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With memory of its own for each tensor: safetensors keeps no ties."""
    return {name: tensor.contiguous().clone() for name, tensor in state.items()}


def _digest(state: dict[str, Tensor]) -> str:
    hasher = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        hasher.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        hasher.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def _write_converted(path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, path, metadata={"format": "pt", KEY: _digest(state)})


def _read_converted(path: Path) -> dict[str, Tensor]:
    """Raises OSError or ValueError where there is no whole file: safetensors itself has no checksum."""
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with safe_open(path, framework="pt") as file:
            expected = (file.metadata() or {}).get(KEY)
        state = load_file(path)
    except Exception as error:  # SafetensorError is no ValueError
        raise ValueError(str(error)) from error
    if _digest(state) != expected:
        raise ValueError("other tensors than were written")
    return state
