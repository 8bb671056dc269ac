"""Counter-based dropout: a pure function of seed, site, step and place, with the right rate, scale and gradient."""

import numpy as np
import pytest
import torch
from torch import nn

from sora.backbones.attention import weigh
from sora.backbones.dropout import (
    CounterDropout,
    DropoutContext,
    DropoutKey,
    new_site,
    replace_dropouts,
    splitmix64,
)


def site(p=0.1, name="a", context=None):
    context = context or DropoutContext()
    return CounterDropout(p, context, name), context


def test_splitmix64_against_its_published_sequence():
    """The first outputs of the generator seeded with 1234567, as its reference implementation prints them."""
    golden = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + (i + 1) * golden) % 2**64 for i in range(3)], dtype=np.uint64)
    assert splitmix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_an_element_is_dropped_when_its_lane_is_below_the_threshold():
    """Of four million lanes in 0 .. 65535 some are the smallest and some the largest."""
    drop, context = site(0.5)
    context.begin(DropoutKey((7,), 3))
    rows = context.counters(4096, 1, 1, torch.device("cpu"))
    share = [context.keep(drop.site, threshold, rows, 1024).double().mean().item() for threshold in (0, 1, 65535)]
    assert share[0] == 1.0
    assert share[1] == pytest.approx(1 - 2**-16, abs=1e-5)  # 5 standard deviations
    assert share[2] == pytest.approx(2**-16, abs=1e-5)


def test_rate_scale_and_expectation():
    drop, context = site(0.1)
    context.begin(DropoutKey((7,), 3))
    out = drop(torch.ones(64, 50, 96))
    share = (out == 0).float().mean().item()
    assert share == pytest.approx(0.1, abs=0.002)  # 4 standard deviations of 307,200 draws
    kept = out[out != 0]
    assert kept.unique().numel() == 1
    exact = round(0.1 * 65536) / 65536
    assert kept[0].item() == pytest.approx(1 / (1 - exact))
    rows = (out == 0).float().mean(-1)  # no row, column or neighbour is favoured
    assert rows.std().item() == pytest.approx((0.1 * 0.9 / 96) ** 0.5, rel=0.1)
    zeros = (out == 0).float() - share
    for shift in (1, 2, 4, 50):
        neighbours = (zeros[..., :-shift] * zeros[..., shift:]).mean() / zeros.var()
        assert abs(neighbours) < 0.01


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_attention_drops_its_probabilities(dtype):
    """Against the definition: probabilities times mask times scale, then the values; gradients included."""
    drop, context = site(0.25)
    context.begin(DropoutKey((3, 4), 0))
    generator = torch.Generator().manual_seed(0)
    scores, value = (torch.randn(4 * 3, 6, n, generator=generator, dtype=torch.float64) for n in (6, 5))
    scores, value = scores.to(dtype).requires_grad_(), value.to(dtype).requires_grad_()
    ours = weigh(scores, value, drop, heads=3)
    mask = context.keep(drop.site, drop.threshold, context.counters(2, 3, 6, scores.device), 6).view(12, 6, 6)
    assert 0.6 < mask.double().mean() < 0.9
    exact = [x.detach().double().requires_grad_() for x in (scores, value)]
    expected = (torch.softmax(exact[0], -1) * mask / 0.75) @ exact[1]
    tolerance = 1e-12 if dtype == torch.float64 else 0.03
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=tolerance)
    grads = torch.autograd.grad(ours.square().sum(), (scores, value))
    for got, wanted in zip(grads, torch.autograd.grad(expected.square().sum(), exact), strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=0, atol=10 * tolerance)


def test_a_replica_draws_its_solo_masks():
    drop, context = site()
    x = torch.randn(6, 5, 8)
    context.begin(DropoutKey((3, 4, 5), 9))
    packed = drop(x)
    for replica, seed in enumerate((3, 4, 5)):
        context.begin(DropoutKey((seed,), 9))
        part = slice(2 * replica, 2 * replica + 2)
        assert torch.equal(drop(x[part]), packed[part])


def test_masks_do_not_feel_padding():
    drop, context = site()
    context.begin(DropoutKey((3,), 0))
    x = torch.randn(4, 20, 8)
    assert torch.equal(drop(x[:, :11].contiguous()), drop(x)[:, :11])
    probs = torch.rand(4 * 2, 20, 20)
    assert torch.equal(
        drop.probabilities(probs[:, :11, :11].contiguous(), 2), drop.probabilities(probs, 2)[:, :11, :11]
    )


def test_head_major_is_another_order_of_the_same_masks():
    drop, context = site()
    context.begin(DropoutKey((3, 8), 0))
    probs = torch.rand(2, 3, 4, 6, 6)  # R, b, H, t, t
    plain = drop.probabilities(probs.reshape(-1, 6, 6), 4).view(2, 3, 4, 6, 6)
    swapped = probs.transpose(1, 2).reshape(-1, 6, 6)
    assert torch.equal(drop.probabilities(swapped, 4, True).view(2, 4, 3, 6, 6).transpose(1, 2), plain)


@pytest.mark.parametrize("other", [{"seed": 4}, {"step": 1}, {"name": "b"}], ids=str)
def test_seed_step_and_site_each_change_the_mask(other):
    x = torch.ones(4, 10, 16)
    values = {"seed": 3, "step": 0, "name": "a"}
    masks = []
    for chosen in (values, values | other):
        drop, context = site(0.5, chosen["name"])
        context.begin(DropoutKey((chosen["seed"],), chosen["step"]))
        masks.append(drop(x) == 0)
    agree = (masks[0] == masks[1]).float().mean().item()
    assert agree == pytest.approx(0.5, abs=0.1)


def test_the_gradient_is_the_mask():
    drop, context = site(0.5)
    context.begin(DropoutKey((3,), 0))
    x = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(drop, (x,))


def test_off_outside_a_step_and_at_zero():
    drop, context = site(0.5)
    x = torch.randn(2, 3, 4)
    assert drop(x) is x
    context.begin(DropoutKey((0,), 0))
    assert not torch.equal(drop(x), x)
    context.end()
    assert drop(x) is x
    never, context = site(0.0)
    context.begin(DropoutKey((0,), 0))
    assert never(x) is x


def test_every_dropout_is_replaced_and_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.3)))
    context = DropoutContext()
    replace_dropouts(model, context)
    assert not any(isinstance(module, nn.Dropout) for module in model.modules())
    assert [m.p for m in model.modules() if isinstance(m, CounterDropout)] == [0.2, 0.3]
    with pytest.raises(ValueError, match="exists already"):
        CounterDropout(0.1, context, "1")


def test_refusals():
    with pytest.raises(ValueError, match="outside"):
        site(1.0)
    drop, context = site()
    context.begin(DropoutKey((0, 1), 0))
    with pytest.raises(ValueError, match="5 examples cannot hold 2 replicas"):
        drop(torch.ones(5, 2, 2))


def test_rows_that_all_examples_share_are_dropped_for_each_replica():
    """Kept ones scaled; equal places alike; replicas apart."""
    drop, context = site(0.25)
    context.begin(DropoutKey((3, 4), 0))
    x = torch.rand(40, 96) + 0.5
    out = drop.shared_rows(x, torch.arange(20).repeat(2))
    assert out.shape == (2, 40, 96)
    kept = out != 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    torch.testing.assert_close(out, torch.where(kept, x / 0.75, torch.zeros(())).view_as(out))
    assert torch.equal(kept[:, :20], kept[:, 20:])
    assert not torch.equal(kept[0], kept[1])


def test_each_use_of_a_shared_site_has_masks_of_its_own() -> None:
    """The first use draws as a plain site does; a pass begins anew, packed or alone."""
    context = DropoutContext()
    site = new_site(0.5, context, "shared", uses=3)
    x = torch.ones(4, 5, 64)
    context.begin(DropoutKey((1, 2), 7))
    first = [site(x) for _ in range(3)]
    assert not any(torch.equal(first[i], first[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    context.begin(DropoutKey((1, 2), 7))
    assert all(torch.equal(site(x), each) for each in first)
    context.begin(DropoutKey((2,), 7))
    assert all(torch.equal(site(x[:2]), each[2:]) for each in first)
    plain, alone = DropoutContext(), torch.ones(2, 5, 64)
    expected = new_site(0.5, plain, "shared")
    plain.begin(DropoutKey((2,), 7))
    assert torch.equal(expected(alone), first[0][2:])


def test_probabilities_of_an_attention_that_is_not_ours() -> None:
    """[B, H, t, t] through forward: the masks of ``probabilities``, with the scale, and the same under padding."""
    context = DropoutContext()
    site = new_site(0.25, context, "probabilities")
    probs = torch.rand(2, 3, 4, 4)
    context.begin(DropoutKey((5,), 0))
    dropped = site(probs)
    torch.testing.assert_close(dropped.flatten(0, 1), site.probabilities(probs.flatten(0, 1), 3) * site.scale)
    wider = torch.nn.functional.pad(probs, (0, 3, 0, 3))
    assert torch.equal(site(wider)[..., :4, :4], dropped)
