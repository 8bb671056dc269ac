"""Stacked biases against the plain module with each replica's bias."""

import pytest
import torch
from torch import nn

from sora.methods.bitfit import StackedBias


def stacked(base, replicas=3):
    layer = StackedBias(base.double(), replicas).double()
    nn.init.normal_(layer.bias)
    return layer


@pytest.mark.parametrize("base", [nn.Linear(6, 4), nn.LayerNorm(6)], ids=["linear", "norm"])
def test_each_replica_is_the_plain_module_with_its_bias(base):
    layer = stacked(base)
    x = torch.randn(6, 5, 6, dtype=torch.float64, requires_grad=True)
    out = layer(x)
    expected = torch.cat([layer.single(r).double()(x[2 * r : 2 * r + 2]) for r in range(3)])
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)  # single() is in fp32
    out.square().sum().backward()
    torch.testing.assert_close(layer.bias.grad, (2 * out.detach()).view(3, 10, -1).sum(1))
    assert layer.base.weight.grad is None


def test_it_starts_as_the_module_it_replaces():
    base = nn.LayerNorm(6).double()
    nn.init.normal_(base.bias)
    x = torch.randn(4, 2, 6, dtype=torch.float64)
    torch.testing.assert_close(StackedBias(base, 2).double()(x), base(x), rtol=1e-6, atol=1e-6)


def test_a_shared_input_comes_out_once_a_replica():
    layer = stacked(nn.Linear(6, 4))
    x = torch.randn(1, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer(x.expand(3, 7, 6)))
