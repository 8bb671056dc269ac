"""A replica of a pack is its solo run: the proof for every architecture and method, in float64 to 1e-9."""

import numpy as np
import pytest
import torch

from sora.errors import UserError
from sora.method_config import METHODS
from sora.training.evaluation import predict
from tests import tiny


def rows_of(loop):
    return loop.pack.optimizer.rows.detach().clone()


def test_every_packable_method_is_put_to_the_proof():
    packable = {name for name, cls in METHODS.items() if "seed" in cls.PACKABLE}
    assert packable == {case["name"] for case in tiny.METHODS.values()}
    assert set(METHODS) - packable == {"full", "peft", "probe", "zero_shot", "svd_cut"}


SHORT = {"max_steps": 8, "eval_every": 4, "checkpoint_every": 100}


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("method", tiny.METHODS.values(), ids=tiny.METHODS)
def test_float64_to_1e9(family, method, tmp_path, **backbone):
    """The middle one of three, with neighbours on both sides."""
    configs = tiny.runs(family, [0, 1, 2], method=method, trainer=SHORT, backbone=backbone)
    together = tiny.train(configs, tmp_path / "pack", torch.float64)
    packed = rows_of(together)
    logits = predict(together.pack, together.pack.splits["report"])
    assert len({tuple(row.tolist()[:50]) for row in packed}) == 3, "the replicas did not differ at all"
    alone = tiny.train(configs[1:2], tmp_path / "solo", torch.float64)
    assert alone.step == together.step == 8
    torch.testing.assert_close(packed[1], rows_of(alone)[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(logits[1], predict(alone.pack, alone.pack.splits["report"])[0], atol=1e-9)
    assert together.progress[1].best_step == alone.progress[0].best_step
    assert together.progress[1].history[-1]["select"] == alone.progress[0].history[-1]["select"]
    assert together.pack.method.summary(1) == alone.pack.method.summary(0)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_fp32_to_1e5(family, tmp_path):
    configs = tiny.runs(family, [0, 1], trainer=SHORT | {"learning_rate": 1e-3})
    packed = rows_of(tiny.train(configs, tmp_path / "pack"))
    alone = rows_of(tiny.train(configs[1:], tmp_path / "solo"))
    torch.testing.assert_close(packed[1], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", tiny.EVERY)
def test_with_dropout_too(family, tmp_path):
    """Masks are drawn by seed, place and step, so that even with dropout a replica does not feel its neighbours.

    The families that are not in the test above are read from their own config.json; the adapters of all methods are the
    same modules on other matrices.
    """
    test_float64_to_1e9(family, {"name": "sora", "dropout": 0.1}, tmp_path, dropout=None)


@pytest.mark.parametrize("family", tiny.EVERY[len(tiny.FAMILIES) :])
def test_biases_of_other_families(family, tmp_path):
    if family == "modernbert":
        with pytest.raises(UserError, match=r"method=bitfit: modernbert has no bias"):
            tiny.pack(tiny.runs(family, [0], method={"name": "bitfit"}))
        return
    test_float64_to_1e9(family, {"name": "bitfit"}, tmp_path)


def test_dropout_is_on(tmp_path):
    """So that the test above can fail: without it the run is another."""
    rows = [
        rows_of(tiny.train(tiny.runs(method={"dropout": p}, trainer=SHORT), tmp_path / str(p), torch.float64))
        for p in (0.1, 0.0)
    ]
    assert not torch.allclose(*rows, atol=1e-6)


SEEDS = {"seed", "seeds.init", "seeds.data"}  # test_float64_to_1e9, and test_seeds.py for the two set apart
MASKS = {("masked_lora", f"method.{key}") for key in ("source", "pattern", "permutation")}  # test_masked_lora.py
SCALARS = [  # every other key that a method declares packable, with values that matter
    ("sora", "method.threshold", [1e-3, 2e-2]),
    ("sora", "method.rho", [0.0, 5.0]),
    ("sora", "method.penalty", [0.0, 5.0]),
    ("sora", "trainer.learning_rate", [1e-3, 5e-3]),
    ("lora", "trainer.learning_rate", [1e-3, 5e-3]),
    ("masked_lora", "trainer.learning_rate", [1e-3, 5e-3]),
    ("adalora", "trainer.learning_rate", [1e-3, 5e-3]),
    ("bitfit", "trainer.learning_rate", [1e-3, 5e-3]),
    ("adapter", "trainer.learning_rate", [1e-3, 5e-3]),
]


def test_every_packable_scalar_has_a_proof():
    declared = {(name, key) for name, cls in METHODS.items() for key in cls.PACKABLE if key not in SEEDS}
    assert declared == {(name, key) for name, key, _ in SCALARS} | MASKS


@pytest.mark.parametrize(("method", "key", "values"), SCALARS, ids=[f"{m}-{k}" for m, k, _ in SCALARS])
def test_packed_scalars_are_their_solo_runs(method, key, values, tmp_path):
    given = {"method": {"name": method}, "trainer": SHORT}
    entries = [{"seed": seed, key: value} for seed, value in enumerate(values)]
    together = tiny.train(tiny.runs(pack=entries, **given), tmp_path / "pack", torch.float64)
    group, _, name = key.partition(".")
    for value, same in ((values[1], True), (values[0], False)):  # its own, and its neighbour's
        groups = given | {group: given[group] | {name: value}}
        alone = rows_of(tiny.train(tiny.runs(seeds=1, **groups), tmp_path / f"{value}", torch.float64))[0]
        assert torch.allclose(rows_of(together)[1], alone, rtol=0, atol=1e-9) is same, f"{key}={value}"


def test_full_fine_tuning_equals_a_plain_loop(tmp_path):
    """No pack, no rows: the same model, torch's AdamW and the same batches, written out."""
    from transformers import get_linear_schedule_with_warmup

    from sora.training.batching import batches
    from sora.training.pack import losses_of

    configs = tiny.runs(method={"name": "full"}, trainer={"learning_rate": 1e-3})
    loop = tiny.train(configs, tmp_path, torch.float64)
    plain = tiny.pack(configs, torch.float64)
    trained = {n: p.detach().clone().requires_grad_() for n, p in plain.model.named_parameters() if p.requires_grad}
    fixed = {n: p for n, p in plain.model.named_parameters() if not p.requires_grad}
    trainer = configs[0].trainer

    def decays(name, tensor):
        return tensor.ndim >= (3 if name.startswith("head.") else 2)  # the head is stacked

    groups = [
        {"params": [p for n, p in trained.items() if decays(n, p)], "weight_decay": trainer.weight_decay},
        {"params": [p for n, p in trained.items() if not decays(n, p)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    schedule = get_linear_schedule_with_warmup(optimizer, 2, 20)  # warm-up: 0.06 of 20 steps, rounded up
    split = plain.splits["train"]
    for indices in batches(split.tokens.lengths, 4, [0], first_step=0, last_step=20, bucketing=True):
        batch, labels = split.batch(indices.reshape(-1), torch.device("cpu"))
        logits = torch.func.functional_call(plain.model, trained | fixed, (batch,))
        losses_of(logits, labels, 1).sum().backward()
        torch.nn.utils.clip_grad_norm_(list(trained.values()), trainer.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    for name, tensor in loop.pack.model.named_parameters():
        if name in trained:
            torch.testing.assert_close(tensor.detach(), trained[name].detach(), rtol=0, atol=1e-10)


def test_vmap_over_the_adapters_is_the_oracle():
    """torch.func.vmap over one replica's low-rank layer gives the stacked layer, gradients included."""
    from sora.methods.lora import LowRankLinear

    torch.manual_seed(0)
    base = torch.nn.Linear(8, 6).double()
    stacked = LowRankLinear(base, replicas=3, r=2, scaling=0.5, gated=True).double()
    stacked.reset([torch.Generator().manual_seed(s) for s in range(3)])
    torch.nn.init.normal_(stacked.lora_B)
    x = torch.randn(3, 4, 5, 8, dtype=torch.float64)

    def one(a, b, g, x):
        return base(x) + 0.5 * ((x @ a.T) * g) @ b

    def loss(a, b, g):
        return torch.func.vmap(one)(a, b, g, x).square().sum()

    parameters = (stacked.lora_A, stacked.lora_B, stacked.gate)
    expected = torch.func.grad(loss, argnums=(0, 1, 2))(*parameters)
    got = torch.autograd.grad(stacked(x.reshape(12, 5, 8)).square().sum(), parameters)
    for e, g in zip(expected, got, strict=True):
        torch.testing.assert_close(e, g)
