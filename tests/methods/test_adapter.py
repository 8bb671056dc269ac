"""The bottleneck against its equation, replica by replica."""

import pytest
import torch
from torch import nn

from sora.methods.adapter import BottleneckLinear


def make(replicas=3):
    torch.manual_seed(0)
    layer = BottleneckLinear(nn.Linear(6, 5), replicas=replicas, bottleneck=2)
    for tensor in layer.own().values():
        nn.init.normal_(tensor)
    return layer.double()


def expected(layer, x, r):
    y = layer.base(x)
    inner = torch.nn.functional.gelu(y @ layer.down[r].T + layer.down_bias[r])
    return y + inner @ layer.up[r] + layer.up_bias[r]


def test_forward_and_gradients():
    layer = make()
    x = torch.randn(6, 4, 6, dtype=torch.float64)
    out = layer(x)
    parameters = list(layer.own().values())
    got = torch.autograd.grad(out.square().sum(), parameters)
    reference = torch.cat([expected(layer, x[2 * r : 2 * r + 2], r) for r in range(3)])
    torch.testing.assert_close(out, reference)
    for g, e in zip(got, torch.autograd.grad(reference.square().sum(), parameters), strict=True):
        torch.testing.assert_close(g, e)


def test_a_shared_input_comes_out_once_a_replica():
    layer = make()
    x = torch.randn(1, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), torch.stack([expected(layer, x[0], r) for r in range(3)]))


def test_it_starts_near_the_identity_and_draws_alike_alone_and_packed():
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
