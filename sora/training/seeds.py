"""Random streams of a run. Each purpose has its own, derived from the run's seed by name.

A stream therefore does not move when another one is used more or less: changing the method leaves the head's
initial weights and the order of the data as they were.
"""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, purpose: str) -> int:
    """Return a 63-bit seed for ``purpose``, from sha256 of both."""
    digest = hashlib.sha256(f"{purpose}:{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, purpose: str) -> torch.Generator:
    """Return a CPU generator for ``purpose``: initial values are drawn on the CPU, so that no device changes them."""
    return torch.Generator().manual_seed(derive(seed, purpose))
