"""Dropout on a GPU as one operation, ``sora::drop``: a Triton kernel, or the passes of dropout.py where it cannot be.

The bits of the kernel are compared with the CPU's once a process (:func:`fault`): integers leave no room for rounding,
so a mask is equal or the kernel is not used. The mask is drawn anew in the backward pass and never kept.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, int, int, bool]  # slots, heads, positions, head-major

_library = torch.library.Library("sora", "DEF")
_library.define(
    "drop(Tensor x, Tensor keys, Tensor? places, int rows, int[] shape, int bound, float scale, ScalarType dtype)"
    " -> Tensor"
)


def _on_device(
    x: Tensor, keys: Tensor, places: Tensor | None, rows: int, shape: Any, bound: int, scale: float, dtype: torch.dtype
) -> Tensor:
    """The operation on tensors of a GPU."""
    if fault(x.device):
        return passes(x, keys, places, rows, shape, bound, scale, dtype)
    from sora.backbones import dropout_kernel

    given = None if places is None else places.contiguous()
    out = x.new_empty((rows, x.shape[-1]), dtype=dtype)
    return dropout_kernel.run(x.contiguous(), keys.contiguous(), given, out, shape, bound, scale)


_library.impl("drop", _on_device, "CUDA")


@torch.library.register_fake("sora::drop", lib=_library)
def _shapes(
    x: Tensor, keys: Any, places: Any, rows: int, shape: Any, bound: int, scale: float, dtype: torch.dtype
) -> Tensor:
    return x.new_empty((rows, x.shape[-1]), dtype=dtype)


def passes(
    x: Tensor, keys: Tensor, places: Tensor | None, rows: int, shape: Any, bound: int, scale: float, dtype: torch.dtype
) -> Tensor:
    """What the kernel computes, in torch's own operations: some twenty launches. Arguments as of ``sora::drop``."""
    from sora.backbones import dropout

    slots, heads, positions, head_major = shape
    offsets = dropout.DropoutContext.offsets(
        dropout.row_places(slots, heads, positions, head_major, x.device) if places is None else places
    )
    state = (keys[:, None] + offsets).view(-1, 1)
    dropout.mix_(state, torch.empty_like(state))
    groups = -(-x.shape[-1] // dropout.LANES)
    hashes = state + dropout.DropoutContext.offsets(torch.arange(groups, device=x.device))
    dropout.mix_(hashes, torch.empty_like(hashes))
    keep = (hashes.view(torch.int16) >= bound)[:, : x.shape[-1]]
    values = x if x.dtype == torch.float64 else x.float()
    repeated = values.expand(rows // values.shape[0], *values.shape).reshape(rows, -1)
    out = repeated * keep
    return (out if scale == 1.0 else out.mul_(scale)).to(dtype)


class _Drop(torch.autograd.Function):
    """x [m, lanes] -> [rows, lanes] of ``dtype``, remembering nothing but the key."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keys: Tensor, places: Tensor | None, dtype: torch.dtype, *how: Any) -> Tensor:
        ctx.save_for_backward(keys, places)
        ctx.how, ctx.x_dtype, ctx.x_rows = how, x.dtype, x.shape[0]
        out: Tensor = torch.ops.sora.drop(x, keys, places, *how, dtype)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        keys, places = ctx.saved_tensors
        out = torch.ops.sora.drop(grad, keys, places, *ctx.how, ctx.x_dtype)
        if ctx.x_rows != out.shape[0]:
            out = out.view(-1, ctx.x_rows, out.shape[-1]).sum(0)
        return (out, *[None] * 7)


def drop(
    x: Tensor,
    keys: Tensor,
    places: Tensor | None,
    shape: Shape,
    bound: int,
    scale: float,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Drop elements of ``x`` [m, lanes] on a GPU -> [R * n, lanes], its rows repeated where m < R * n.

    ``keys`` int64 [R] of the site and step. A replica's n rows are those of ``shape`` = (slots, heads, positions,
    head-major), or lie at the ``places`` int64 [n]. ``bound``: lanes below it, as int16, are dropped. ``dtype`` of the
    result: that of ``x`` unless given.
    """
    slots, heads, positions, _ = shape
    rows = keys.shape[0] * (slots * heads * positions if places is None else places.numel())
    dropped: Tensor = _Drop.apply(x, keys, places, dtype or x.dtype, rows, list(shape), bound, scale)
    return dropped


@functools.cache
def fault(device: torch.device) -> str:
    """Why the kernel is not used on ``device``, as a few words; empty where its bits are the CPU's."""
    try:
        return "" if _agrees(device) else "its masks differ from the CPU's"
    except ImportError:
        return "Triton is not installed"
    except Exception as error:  # of any type: Triton's compiler has many
        return f"it cannot run ({' '.join(f'{type(error).__name__}: {error}'.split())[:200]})"


def missing(device: torch.device) -> str:
    """:func:`fault` of a GPU; empty elsewhere, where no kernel is meant to be used."""
    return fault(device) if device.type == "cuda" else ""


def _agrees(device: torch.device) -> bool:
    """Whether the kernel drops what the passes on the CPU drop, to the bit, over shapes, dtypes and places."""
    from sora.backbones import dropout_kernel

    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(-(2**63), 2**63 - 1, (3,), generator=generator)
    for lanes, dtype, shape, places in (
        (7, torch.float32, (2, 1, 5, False), None),
        (130, torch.bfloat16, (2, 3, 4, True), None),
        (64, torch.float64, (2, 3, 4, False), None),
        (1030, torch.float32, (1, 1, 4, False), torch.tensor([9, 0, 2**21, 9])),
    ):
        rows = 3 * shape[0] * shape[1] * shape[2]
        x = torch.randn((rows, lanes), generator=generator).to(dtype)
        for bound, scale in ((3277 - (1 << 15), 1.0), (6554 - (1 << 15), 65536 / 58982)):
            want = passes(x, keys, places, rows, shape, bound, scale, dtype)
            out = torch.empty_like(x, device=device)
            given = None if places is None else places.to(device)
            got = dropout_kernel.run(x.to(device), keys.to(device), given, out, shape, bound, scale)
            unit = torch.finfo(dtype).eps  # the last digit may round otherwise; a mask may not
            if not torch.equal(got.cpu() == 0, want == 0) or not torch.allclose(got.cpu(), want, rtol=2 * unit, atol=0):
                return False
    return True
