"""Dropout as one operation: the Triton kernel and its passes draw the bits of the CPU's masks."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from sora.backbones import dropout_op
from sora.backbones.dropout import STEPS, CounterDropout, DropoutContext, DropoutKey, row_places

CPU = torch.device("cpu")
SHAPES = [  # lanes, (slots, heads, positions, head-major)
    (7, (2, 1, 5, False)),
    (130, (2, 3, 4, True)),
    (64, (3, 2, 4, False)),
]


@pytest.mark.parametrize(("lanes", "shape"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_passes_draw_the_masks_of_the_cpu(lanes, shape, dtype):
    context = DropoutContext()
    drop = CounterDropout(0.25, context, "a")
    context.begin(DropoutKey((5, 11), 4))
    slots, heads, positions, head_major = shape
    rows = slots * heads * positions
    x = torch.randn((2 * rows, lanes), generator=torch.Generator().manual_seed(0)).to(dtype)
    counters = context.counters(slots, heads, positions, CPU, head_major)
    keep = context.keep(drop.site, drop.threshold, counters, lanes)
    keys, bound = context.keys(drop.site, CPU), drop.threshold - STEPS // 2
    assert torch.equal(dropout_op.passes(x, keys, None, 2 * rows, shape, bound, 1.0, dtype), x * keep)
    places = row_places(slots, heads, positions, head_major, CPU)
    again = dropout_op.passes(x[:rows], keys, places, 2 * rows, (1, 1, 1, False), bound, drop.scale, dtype)
    assert torch.equal(again, (x[:rows].repeat(2, 1) * keep).mul_(drop.scale))


def test_the_kernel_draws_the_masks_of_the_cpu_or_is_not_used():
    """Every kind of site, in both directions, on tensors of the CPU, by Triton's interpreter; then one that errs."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed; it has wheels for Linux alone")
    code = """
        import torch
        from sora.backbones import dropout_kernel, dropout_op
        from sora.backbones.dropout import STEPS, CounterDropout, DropoutContext, DropoutKey

        context = DropoutContext()
        drop = CounterDropout(0.1, context, "a")
        context.begin(DropoutKey((7, 8, 9), 3))
        keys, bound = context.keys(drop.site, torch.device("cpu")), drop.threshold - STEPS // 2

        def kernel(x, shape, out, scale, places=None):
            flat, rows = x.reshape(-1, x.shape[-1]), out.reshape(-1, x.shape[-1])
            return dropout_kernel.run(flat, keys, places, rows, shape, bound, scale).view(out.shape)

        hidden = torch.randn(6, 5, 33)
        assert torch.equal(kernel(hidden, (2, 1, 5, False), torch.empty_like(hidden), drop.scale), drop(hidden))
        pooled = torch.randn(6, 16, dtype=torch.float64)
        assert torch.equal(kernel(pooled, (2, 1, 1, False), torch.empty_like(pooled), drop.scale), drop(pooled))
        probs = torch.rand(6 * 4, 9, 9)
        for head_major in (False, True):
            got = kernel(probs, (2, 4, 9, head_major), torch.empty_like(probs), 1.0)
            assert torch.equal(got, drop.probabilities(probs, 4, head_major))
        table, places = torch.randn(11, 24), torch.tensor([3, 3, 0, 7, 2**20, 5, 6, 1, 2, 4, 8])
        got = kernel(table, (1, 1, 1, False), torch.empty(3, 11, 24), drop.scale, places)
        assert torch.equal(got, drop.shared_rows(table, places))

        print(repr(dropout_op.fault(torch.device("cpu"))))
        whole = dropout_kernel.run
        dropout_kernel.run = lambda x, keys, places, out, shape, bound, scale: whole(
            x, keys, places, out, (*shape[:3], not shape[3]), bound, scale
        )
        dropout_op.fault.cache_clear()
        print(dropout_op.fault(torch.device("cpu")))
        """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["''", "its masks differ from the CPU's"]


def test_without_triton_the_reason_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "sora.backbones.dropout_kernel", raising=False)
    dropout_op.fault.cache_clear()
    try:
        assert dropout_op.fault(CPU) == "Triton is not installed"
    finally:
        dropout_op.fault.cache_clear()
