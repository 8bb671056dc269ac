"""The Triton kernel of a dropout site on a GPU. Imports Triton: :mod:`sora.backbones.dropout_op` decides whether to.

One program draws the bits of some rows, four lanes a hash, and multiplies what it reads with them.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # elements a program handles


@triton.jit
def _mix(z):  # type: ignore[no-untyped-def]
    """SplitMix64's finaliser on int64, as ``dropout.mix_`` has it: shifts are arithmetic, so sign bits are cleared."""
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


@triton.jit
def _drop(  # type: ignore[no-untyped-def]
    x,
    out,
    keys,
    places,
    rows,
    x_rows,
    lanes,
    per_replica,
    positions,
    seconds,
    BOUND: tl.constexpr,
    SCALE: tl.constexpr,
    HEAD_MAJOR: tl.constexpr,
    GIVEN: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """``out`` [rows, lanes] = ``x`` [x_rows, lanes], repeated, where the hash of the place keeps it, else 0."""
    golden = -7046029254386353131
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    within = row % per_replica
    if GIVEN:
        place = tl.load(places + within, mask=inside, other=0)
    else:
        position = within % positions
        rest = within // positions  # (slot, head), or (head, slot) when head-major; ``seconds`` counts the second
        first = rest // seconds
        second = rest % seconds
        if HEAD_MAJOR:
            place = (second << 32) + (first << 20) + position
        else:
            place = (first << 32) + (second << 20) + position
    key = tl.load(keys + row // per_replica, mask=inside, other=0)
    state = _mix(key + (place + 1) * golden)
    group = tl.program_id(1).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    hashes = _mix(state[:, None] + (group[None, :] + 1) * golden)
    lane = tl.arange(0, 4).to(tl.int64)
    drawn = (hashes[:, :, None] >> (lane * 16)[None, None, :]).to(tl.int16)
    column = group[None, :, None] * 4 + lane[None, None, :]
    valid = inside[:, None, None] & (column < lanes)
    values = tl.load(x + ((row % x_rows) * lanes)[:, None, None] + column, mask=valid, other=0.0)
    if WIDE:
        values = values.to(tl.float64) * (drawn >= BOUND).to(tl.float64)
    else:
        values = values.to(tl.float32) * (drawn >= BOUND).to(tl.float32)
    if SCALE != 1.0:
        values = values * SCALE
    tl.store(out + (row * lanes)[:, None, None] + column, values.to(out.dtype.element_ty), mask=valid)


def run(
    x: Tensor,
    keys: Tensor,
    places: Tensor | None,
    out: Tensor,
    shape: tuple[int, int, int, bool],
    bound: int,
    scale: float,
) -> Tensor:
    """Fill ``out`` [R * n, lanes] from ``x`` [m, lanes], whose rows repeat, and return it.

    ``keys`` int64 [R]; ``places`` int64 [n], or None for the rows of ``shape`` = (slots, heads, positions, head-major).
    All contiguous.
    """
    slots, heads, positions, head_major = shape
    lanes = out.shape[-1]
    rows = out.numel() // lanes
    groups = min(triton.next_power_of_2(-(-lanes // 4)), BLOCK // 4)
    height = BLOCK // (groups * 4)
    kernel: Any = _drop
    kernel[(-(-rows // height), -(-lanes // (groups * 4)))](
        x,
        out,
        keys,
        keys if places is None else places,
        rows,
        x.numel() // lanes,
        lanes,
        rows // keys.shape[0],
        positions,
        slots if head_major else heads,
        BOUND=bound,
        SCALE=scale,
        HEAD_MAJOR=bool(head_major),
        GIVEN=places is not None,
        WIDE=x.dtype == torch.float64,
        ROWS=height,
        GROUPS=groups,
    )
    return out
