"""The stacked layers of LoRA, adapters and BitFit alone: shared inputs, initial values, what cannot be split.

Against PEFT, transformers and torch.func.vmap: tests/oracles, tests/publish/test_export.py, test_pack_equals_solo.py.
"""

import math

import pytest
import torch
from torch import nn

from sora.methods.adapter import BottleneckLinear
from sora.methods.bitfit import StackedBias
from sora.methods.lora import LowRankLinear

IN, OUT, RANK = 12, 20, 4


def layer(replicas=1, *, gated=False, seed=0):
    torch.manual_seed(seed)
    base = nn.Linear(IN, OUT)
    adapted = LowRankLinear(base, replicas=replicas, r=RANK, scaling=1.5, gated=gated)
    adapted.reset([torch.Generator().manual_seed(seed + r) for r in range(replicas)])
    nn.init.normal_(adapted.lora_B)
    return adapted.double()


def closed_form(adapted, x, replica):
    """W0 x + b0 + s B (g * A x) by einsum, for the examples of one replica."""
    a, b = adapted.lora_A[replica], adapted.lora_B[replica]
    inner = torch.einsum("...i,ri->...r", x, a)
    if adapted.gate is not None:
        inner = inner * adapted.gate[replica]
    return x @ adapted.base.weight.T + adapted.base.bias + adapted.scaling * torch.einsum("...r,ro->...o", inner, b)


def test_shared_input_is_seen_by_every_replica():
    adapted = layer(3, gated=True)
    x = torch.randn(1, 7, IN, dtype=torch.float64, requires_grad=True)
    out = adapted(x)
    assert out.shape == (3, 7, OUT)
    torch.testing.assert_close(out, torch.stack([closed_form(adapted, x[0], r) for r in range(3)]))
    out.square().sum().backward()
    repeated = x.detach().expand(3, -1, -1).clone().requires_grad_()
    again = layer(3, gated=True)
    again(repeated).square().sum().backward()
    torch.testing.assert_close(x.grad[0], repeated.grad.sum(0))
    torch.testing.assert_close(adapted.lora_A.grad, again.lora_A.grad)


def test_initial_values_are_the_authors():
    """A as PEFT's kaiming_uniform(a=sqrt 5), B = 0, gates standard normal; a replica draws what it draws alone."""
    base = nn.Linear(400, 8)
    pack = LowRankLinear(base, replicas=2, r=16, scaling=1.0, gated=True)
    pack.reset([torch.Generator().manual_seed(s) for s in (5, 6)])
    solo = LowRankLinear(base, replicas=1, r=16, scaling=1.0, gated=True)
    solo.reset([torch.Generator().manual_seed(6)])
    assert torch.equal(pack.lora_A[1], solo.lora_A[0])
    assert torch.equal(pack.gate[1], solo.gate[0])
    assert not torch.equal(pack.lora_A[0], pack.lora_A[1])
    assert not pack.lora_B.any()
    reference = torch.empty(16, 400)
    nn.init.kaiming_uniform_(reference, a=math.sqrt(5))
    bound = 1 / math.sqrt(400)
    assert pack.lora_A.abs().max() <= bound
    assert reference.abs().max() <= bound
    assert pack.lora_A.std().item() == pytest.approx(reference.std().item(), rel=0.05)
    many = LowRankLinear(base, replicas=1, r=2_000, scaling=1.0, gated=True)
    many.reset([torch.Generator().manual_seed(7)])
    gates = many.gate.detach()
    assert gates.mean().item() == pytest.approx(0.0, abs=0.1)  # 4 standard errors: 0.09 and 0.06
    assert gates.std().item() == pytest.approx(1.0, abs=0.07)


def test_pruned_is_the_same_map_with_fewer_ranks():
    adapted = layer(2, gated=True)
    with torch.no_grad():
        adapted.gate[1, [0, 3]] = 0.0
    x = torch.randn(5, IN, dtype=torch.float64)
    a, b = adapted.pruned(1)
    assert a.shape == (2, IN)
    assert b.shape == (OUT, 2)
    merged = adapted.base.weight + adapted.scaling * b.double() @ a.double()
    torch.testing.assert_close(x @ merged.T + adapted.base.bias, closed_form(adapted, x, 1), rtol=1e-5, atol=1e-5)
    assert adapted.live().sum(1).tolist() == [4, 2]


def test_a_batch_that_does_not_split_is_refused():
    for made in (
        layer(3),
        StackedBias(nn.Linear(IN, OUT), 3),
        BottleneckLinear(nn.Linear(IN, OUT), replicas=3, bottleneck=2),
    ):
        with pytest.raises(ValueError, match="5 rows does not split over 3 replicas"):
            made.double()(torch.randn(5, 2, IN, dtype=torch.float64))


@pytest.mark.parametrize("leading", [6, 1])
def test_dropout_is_of_the_adapters_input_alone(leading):
    """Everything dropped, the frozen layer is left; nothing dropped, the closed form."""
    x = torch.randn(leading, 5, IN, dtype=torch.float64)
    for p in (1.0, 0.0):
        adapted = layer(3, gated=True)
        adapted.dropout = nn.Dropout(p)
        adapted.train()
        out = adapted(x)
        rows = x.expand(3, -1, -1) if leading == 1 else x
        if p == 1.0:
            torch.testing.assert_close(out, adapted.base(rows))
        else:
            each = len(rows) // 3
            parts = [closed_form(adapted, rows[r * each : (r + 1) * each], r) for r in range(3)]
            torch.testing.assert_close(out, torch.cat(parts))


# -- bottlenecks and biases --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bottleneck", "bias", "norm"])
def test_an_input_that_is_shared_comes_out_once_a_replica(kind):
    torch.manual_seed(0)
    if kind == "bottleneck":
        made = BottleneckLinear(nn.Linear(6, 6), replicas=3, bottleneck=2)
        for tensor in made.own().values():
            nn.init.normal_(tensor)
    else:
        made = StackedBias(nn.Linear(6, 6) if kind == "bias" else nn.LayerNorm(6), 3)
        nn.init.normal_(made.bias)
    x = torch.randn(1, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(made.double()(x), made(x.expand(3, 7, 6)))


def test_bottlenecks_start_near_the_identity_and_draw_alike_alone_and_packed():
    base = nn.Linear(400, 300)
    pack = BottleneckLinear(base, replicas=2, bottleneck=16)
    pack.reset([torch.Generator().manual_seed(s) for s in (4, 5)])
    solo = BottleneckLinear(base, replicas=1, bottleneck=16)
    solo.reset([torch.Generator().manual_seed(5)])
    assert torch.equal(pack.down[1], solo.down[0])
    assert torch.equal(pack.up[1], solo.up[0])
    for drawn in (pack.down, pack.up):  # N(0, 0.01) cut off at two deviations, of which 0.88 is left
        assert drawn.abs().max() <= 0.02
        assert drawn.std().item() == pytest.approx(0.0088, rel=0.05)
    x = torch.randn(2, 3, 400)
    assert (pack(x) - base(x)).abs().max() < 0.05


def test_biases_start_as_those_of_the_module():
    base = nn.LayerNorm(6).double()
    nn.init.normal_(base.bias)
    x = torch.randn(4, 2, 6, dtype=torch.float64)
    torch.testing.assert_close(StackedBias(base, 2).double()(x), base(x), rtol=1e-6, atol=1e-6)
