"""The low-rank layer against autograd through its closed form, and alone. Against PEFT: tests/oracles."""

import copy
import math
import pickle

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from sora.methods.adapter import BottleneckLinear
from sora.methods.bitfit import StackedBias
from sora.methods.lora import LowRankLinear

IN, OUT, RANK = 12, 20, 4


def layer(replicas=1, *, gated=False, dtype=torch.float64, seed=0, bias=True):
    torch.manual_seed(seed)
    base = nn.Linear(IN, OUT, bias=bias)
    adapted = LowRankLinear(base, replicas=replicas, r=RANK, scaling=1.5, gated=gated)
    adapted.reset([torch.Generator().manual_seed(seed + r) for r in range(replicas)])
    nn.init.normal_(adapted.lora_B)
    return adapted.to(dtype)


def closed_form(adapted, x, replica):
    """W0 x + b0 + s B (g * A x) by einsum, for the examples of one replica."""
    a, b = adapted.lora_A[replica], adapted.lora_B[replica]
    inner = torch.einsum("...i,ri->...r", x, a)
    if adapted.gate is not None:
        inner = inner * adapted.gate[replica]
    return x @ adapted.base.weight.T + adapted.base.bias + adapted.scaling * torch.einsum("...r,ro->...o", inner, b)


@pytest.mark.parametrize("gated", [False, True])
def test_forward_and_gradients_equal_the_closed_form(gated):
    adapted = layer(3, gated=gated)
    x = torch.randn(6, 5, IN, dtype=torch.float64, requires_grad=True)  # 3 replicas of 2 examples
    weight = torch.randn(6, 5, OUT, dtype=torch.float64)
    trained = [x, adapted.lora_A, adapted.lora_B] + ([adapted.gate] if gated else [])
    out = adapted(x)
    got = torch.autograd.grad((out * weight).sum(), trained)
    expected_out = torch.cat([closed_form(adapted, x[2 * r : 2 * r + 2], r) for r in range(3)])
    expected = torch.autograd.grad((expected_out * weight).sum(), trained)
    torch.testing.assert_close(out, expected_out)
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e)


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


def test_what_models_read_of_a_layer_is_the_frozen_layers_as_in_peft():
    for bias in (True, False):
        adapted = layer(2, gated=True, dtype=torch.float32, bias=bias)
        theirs = get_peft_model(
            nn.Sequential(copy.deepcopy(adapted.base)), LoraConfig(target_modules=["0"])
        ).base_model.model[0]
        for each in (adapted, copy.deepcopy(adapted), pickle.loads(pickle.dumps(adapted))):
            assert each.weight is each.base.weight
            assert torch.equal(each.weight, theirs.weight)
            assert each.bias is each.base.bias
            assert (each.bias is None) == (theirs.bias is None) == (not bias)
            assert (each.in_features, each.out_features) == (theirs.in_features, theirs.out_features) == (IN, OUT)
            own = ["lora_A", "lora_B", "gate", "base.weight"] + ["base.bias"] * bias
            assert [name for name, _ in each.named_parameters()] == list(each.state_dict()) == own
            assert each.load_state_dict(adapted.state_dict()).missing_keys == []


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
    adapted = layer(2, gated=True, dtype=torch.float64)
    with torch.no_grad():
        adapted.gate[1, [0, 3]] = 0.0
    x = torch.randn(5, IN, dtype=torch.float64)
    a, b = adapted.pruned(1)
    assert a.shape == (2, IN)
    assert b.shape == (OUT, 2)
    merged = adapted.base.weight + adapted.scaling * b.double() @ a.double()
    torch.testing.assert_close(x @ merged.T + adapted.base.bias, closed_form(adapted, x, 1), rtol=1e-5, atol=1e-5)
    assert adapted.live().sum(1).tolist() == [4, 2]


def test_all_ranks_may_die():
    adapted = layer(1, gated=True)
    with torch.no_grad():
        adapted.gate.zero_()
    x = torch.randn(2, 3, IN, dtype=torch.float64)
    torch.testing.assert_close(adapted(x), adapted.base(x))
    a, b = adapted.pruned(0)
    assert a.shape == (0, IN)
    assert b.shape == (OUT, 0)


def test_a_batch_that_does_not_split_is_refused():
    for made in (
        layer(3),
        StackedBias(nn.Linear(IN, OUT), 3),
        BottleneckLinear(nn.Linear(IN, OUT), replicas=3, bottleneck=2),
    ):
        with pytest.raises(ValueError, match="5 rows does not split over 3 replicas"):
            made.double()(torch.randn(5, 2, IN, dtype=torch.float64))


def test_bf16_base_keeps_fp32_adapters():
    adapted = layer(1, dtype=torch.float32)
    adapted.base.to(torch.bfloat16)
    out = adapted(torch.randn(2, 3, IN))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert adapted.lora_A.grad.dtype == torch.float32


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
