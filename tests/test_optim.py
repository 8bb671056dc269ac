"""The pack optimiser against torch's own clip + AdamW, and against a plain transcription of the authors' rule."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sora.methods.proximal import GateStep, authors_threshold, soft_threshold
from sora.optim import PackOptimizer, ParameterGroup
from tests import tiny
from tests.oracles.authors_rule import ScalarAdam, authors_shrink, clip, paper_shrink

floats = st.floats(-3, 3, allow_nan=False, width=64)


@given(floats, st.floats(0, 1, width=64))
def test_soft_threshold_is_the_proximal_operator(x, xi):
    ours = soft_threshold(torch.tensor(x, dtype=torch.float64), xi).item()
    best = paper_shrink(x, xi)
    objective = [0.5 * (u - x) ** 2 + xi * abs(u) for u in (ours, best)]
    assert objective[0] == pytest.approx(objective[1], abs=1e-12)
    assert abs(ours - best) < 1e-6 or abs(abs(x) - xi) < 1e-6


@given(floats, st.floats(1e-6, 1, width=64))
def test_authors_threshold_is_their_sequence(x, xi):
    assert authors_threshold(torch.tensor(x, dtype=torch.float64), xi).item() == authors_shrink(x, xi)


def test_the_two_thresholds_differ_between_xi_and_two_xi():
    x = torch.tensor([0.5, 1.0, 1.5, 1.9, 2.0, 3.0])
    assert soft_threshold(x, 1.0).tolist() == pytest.approx([0, 0, 0.5, 0.9, 1.0, 2.0])
    assert authors_threshold(x, 1.0).tolist() == pytest.approx([0, 1.0, 0, 0, 1.0, 2.0])


def objective(a: torch.Tensor, b: torch.Tensor, gate: torch.Tensor, step: int) -> torch.Tensor:
    """A loss whose minimum moves with the step; a [.., 3], b [.., 4], gate [.., 5] of one replica or of all."""
    target = math.sin(0.1 * step)
    return (
        ((a - target) ** 2).sum(-1)
        + (a.mean(-1) * b.sum(-1) - 0.3) ** 2
        + (gate * (0.05 + 0.1 * target)).sum(-1) * b.mean(-1)
    )


def start(replicas: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(replicas, n, generator=generator, dtype=torch.float64) for n in (3, 4, 5)]


@pytest.mark.parametrize("clip_norm", [0.1, 3.0, 100.0])  # below, among and above the norms
def test_equals_torch_clip_and_adamw_of_solo_runs(clip_norm):
    lr, decay = [1e-2, 3e-2, 2e-3], 0.1
    packed = [nn.Parameter(x.clone()) for x in start(3)]
    optimizer = PackOptimizer(
        [
            ParameterGroup("decayed", {"a": packed[0], "b": packed[1]}, lr=lr, weight_decay=decay),
            ParameterGroup("plain", {"g": packed[2]}, lr=lr, eps=1e-6),
        ],
        replicas=3,
        clip=clip_norm,
    )
    solo = [[nn.Parameter(x[r].clone()) for x in start(3)] for r in range(3)]
    solvers = [
        torch.optim.AdamW(
            [{"params": s[:2], "weight_decay": decay}, {"params": s[2:], "weight_decay": 0.0, "eps": 1e-6}], lr=rate
        )
        for s, rate in zip(solo, lr, strict=True)
    ]
    for step in range(40):
        optimizer.zero_grad()
        losses = objective(*packed, step)
        losses.sum().backward()
        optimizer.step(losses, 0.5, [[], []])
        for parameters, solver, rate in zip(solo, solvers, lr, strict=True):
            solver.zero_grad()
            objective(*parameters, step).backward()
            nn.utils.clip_grad_norm_(parameters, clip_norm)
            for spec in solver.param_groups:
                spec["lr"] = 0.5 * rate
            solver.step()
    for r in range(3):
        for ours, theirs in zip(packed, solo[r], strict=True):
            torch.testing.assert_close(ours[r], theirs, rtol=0, atol=1e-12)


def test_a_group_of_its_own_is_clipped_apart():
    """By hand: torch's clip once over the gates, once over all else; the gates lie between the others, as in a pack."""
    lr, limit = [1e-2, 3e-2], 0.02
    packed = [nn.Parameter(x.clone()) for x in start(2)]
    groups = [
        ParameterGroup("adapter", {"a": packed[0]}, lr=lr, weight_decay=0.1),
        ParameterGroup("gate", {"g": packed[2]}, lr=lr, clip="own"),
        ParameterGroup("head", {"b": packed[1]}, lr=lr, weight_decay=0.1),
    ]
    optimizer = PackOptimizer(groups, replicas=2, clip=limit)
    solo = [[nn.Parameter(x[r].clone()) for x in start(2)] for r in range(2)]
    solvers = [
        torch.optim.AdamW([{"params": s[:2], "weight_decay": 0.1}, {"params": s[2:], "weight_decay": 0.0}], lr=rate)
        for s, rate in zip(solo, lr, strict=True)
    ]
    clipped = set()
    for step in range(40):
        optimizer.zero_grad()
        losses = objective(*packed, step)
        losses.sum().backward()
        norms = optimizer.step(losses, 1.0, [[], [], []])
        for r, (parameters, solver) in enumerate(zip(solo, solvers, strict=True)):
            solver.zero_grad()
            objective(*parameters, step).backward()
            rest = nn.utils.clip_grad_norm_(parameters[:2], limit)
            gates = nn.utils.clip_grad_norm_(parameters[2:], limit)
            assert norms[r].item() == pytest.approx(math.hypot(rest, gates), abs=1e-12)  # what is logged is the whole
            clipped |= {(name, bool(norm > limit)) for name, norm in (("rest", rest), ("gates", gates))}
            solver.step()
    for r in range(2):
        for ours, theirs in zip(packed, solo[r], strict=True):
            torch.testing.assert_close(ours[r], theirs, rtol=0, atol=1e-12)
    assert {("rest", True), ("gates", True), ("gates", False)} <= clipped


@pytest.mark.parametrize("prox", ["authors", "soft"])
@pytest.mark.parametrize("update", ["adam", "gradient"])
def test_gates_follow_the_plain_transcription(prox, update):
    """120 steps, a decaying rate, constant threshold; every gate of every replica, in float64."""
    lr, xi, total = 2e-2, 1e-3, 120
    packed = [nn.Parameter(x.clone()) for x in start(2)]
    optimizer = PackOptimizer(
        [
            ParameterGroup("adapter", {"a": packed[0], "b": packed[1]}, lr=[lr, lr], weight_decay=0.1),
            ParameterGroup(
                "gate", {"g": packed[2]}, lr=[lr, lr], eps=1e-6, variant="adamw_hf",
                after_adam=GateStep([xi, xi], prox=prox, update=update),
            ),
        ],
        replicas=2,
        clip=0.1,
    )  # fmt: skip
    shrink = authors_shrink if prox == "authors" else paper_shrink
    values = [torch.cat([x[r] for x in start(2)]).tolist() for r in range(2)]
    scalars = [
        [ScalarAdam(1e-8, decay=0.1) if i < 7 else ScalarAdam(1e-6, eps_before_correction=True) for i in range(12)]
        for _ in range(2)
    ]
    zeros = set()
    for step in range(total):
        rate = 1 - step / total
        optimizer.zero_grad()
        losses = objective(*packed, step)
        losses.sum().backward()
        optimizer.step(losses, rate, [[], [xi, xi]])
        for r in range(2):
            leaf = torch.tensor(values[r], dtype=torch.float64, requires_grad=True)
            objective(leaf[:3], leaf[3:7], leaf[7:], step).backward()
            gradients = clip(leaf.grad.tolist(), 0.1)
            for i in range(12):
                if i < 7 or update == "adam":
                    values[r][i] = scalars[r][i].step(values[r][i], gradients[i], lr * rate)
                else:
                    values[r][i] -= lr * rate * gradients[i]
                if i >= 7:
                    values[r][i] = shrink(values[r][i], xi)
            ours = torch.cat([p.detach()[r] for p in packed]).tolist()
            assert ours == pytest.approx(values[r], abs=1e-10), f"step {step}"
            zeros |= {(r, i) for i in range(7, 12) if ours[i] == 0.0}
    assert zeros, "no gate ever died, so the thresholds were not put to the test"


def test_a_diverged_replica_keeps_its_last_finite_weights_and_the_others_go_on():
    def train(poison: bool) -> tuple[PackOptimizer, list[torch.Tensor]]:
        packed = [nn.Parameter(x.clone()) for x in start(3)]
        groups = [
            ParameterGroup("a", {"a": packed[0], "b": packed[1]}, lr=[1e-2] * 3),
            ParameterGroup("g", {"g": packed[2]}, lr=[1e-2] * 3, after_adam=GateStep([1e-3] * 3)),
        ]
        optimizer = PackOptimizer(groups, replicas=3, clip=1.0)
        rows = []
        for step in range(8):
            optimizer.zero_grad()
            losses = objective(*packed, step)
            if poison and step == 4:
                losses = losses * torch.tensor([1.0, float("nan"), 1.0])
            losses.sum().backward()
            optimizer.step(losses, 1.0, [[], [1e-3] * 3])
            rows.append(optimizer.rows.clone())
        return optimizer, rows

    (clean, expected), (poisoned, rows) = train(False), train(True)
    assert clean.alive.tolist() == [True] * 3
    assert poisoned.alive.tolist() == [True, False, True]
    assert torch.equal(rows[-1][1], rows[3][1])
    assert torch.isfinite(rows[-1]).all()
    assert torch.equal(rows[-1][[0, 2]], expected[-1][[0, 2]])


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_gradient_that_is_not_finite_ends_a_replica_whose_loss_still_is(clip_norm):
    packed = [nn.Parameter(x.clone()) for x in start(3)]
    groups = [ParameterGroup("a", {"a": packed[0], "b": packed[1], "g": packed[2]}, lr=[1e-2] * 3)]
    optimizer = PackOptimizer(groups, replicas=3, clip=clip_norm)
    before = optimizer.rows.clone()
    losses = objective(*packed, 0)
    losses.sum().backward()
    packed[1].grad[2, 1] = math.inf
    norms = optimizer.step(losses, 1.0, [[]])
    assert torch.isfinite(norms).tolist() == [True, True, False]
    assert optimizer.alive.tolist() == [True, True, False]
    assert torch.equal(optimizer.rows[2], before[2])
    assert (optimizer.rows[:2] != before[:2]).all()


def test_state_of_a_replica_resumes_to_the_bit():
    def build() -> tuple[list[nn.Parameter], PackOptimizer]:
        packed = [nn.Parameter(x.float()) for x in start(2)]
        groups = [
            ParameterGroup("a", {"a": packed[0], "b": packed[1]}, lr=[1e-2] * 2, weight_decay=0.1),
            ParameterGroup("g", {"g": packed[2]}, lr=[1e-2] * 2, after_adam=GateStep([1e-3] * 2, prox="authors"),
                           eps=1e-6, variant="adamw_hf"),
        ]  # fmt: skip
        return packed, PackOptimizer(groups, replicas=2, clip=0.1)

    def advance(packed: list[nn.Parameter], optimizer: PackOptimizer, steps: range) -> None:
        for step in steps:
            optimizer.zero_grad()
            losses = objective(*packed, step)
            losses.sum().backward()
            optimizer.step(losses, 0.7, [[], [1e-3] * 2])

    whole, reference = build()
    advance(whole, reference, range(20))
    half, first = build()
    advance(half, first, range(11))
    saved = [first.state(r) for r in range(2)]
    rest, second = build()
    for r in range(2):
        second.load_state(r, saved[r])
    advance(rest, second, range(11, 20))
    assert torch.equal(second.rows, reference.rows)
    assert not torch.equal(first.rows, reference.rows)


DECAYED = {
    "sora": {"adapter": 0.3, "gate": 0.0},
    "lora": {"adapter": 0.3},
    "adalora": {"adapter": 0.3, "gate": 0.3},
    "adapter": {"adapter": 0.3, "adapter.bias": 0.0},
    "bitfit": {"adapter": 0.0},
    "full": {"matrices": 0.3, "vectors": 0.0},
    "peft": {"adapter": 0.3, "adapter.vectors": 0.0},
}


@pytest.mark.parametrize("name", DECAYED)
def test_matrices_decay_and_biases_and_gates_do_not(name):
    """AdaLoRA's singular values do, as in its code; DoRA has magnitudes, which are vectors."""
    method = {"name": name} | ({"peft_type": "DORA", "options": {"r": 2}} if name == "peft" else {})
    groups = tiny.pack(tiny.runs(method=method, trainer={"weight_decay": 0.3})).optimizer.groups
    assert {group.name: group.weight_decay for group in groups} == DECAYED[name] | {"head": 0.3, "head.bias": 0.0}
    assert all(group.columns.stop > group.columns.start for group in groups), "a group is empty"


@pytest.mark.parametrize("variant", ["adamw", "adamw_hf"])
def test_adam_on_the_rows_is_torchs_fused_adamw(variant):
    """What a GPU does in one pass, against torch's kernel a replica, with rates, decay and a replica that diverges."""
    from sora.optim import RowsAdam

    ends = []
    for flat in (False, True):
        generator = torch.Generator().manual_seed(0)
        groups = [
            ParameterGroup(
                name,
                {name: nn.Parameter(torch.randn(3, 4, 5, generator=generator, dtype=torch.float64))},
                lr=[1e-2, 3e-3, 1e-1],
                weight_decay=decay,
                eps=eps,
                variant=variant,
            )
            for name, decay, eps in (("a", 0.1, 1e-8), ("b", 0.0, 1e-3))
        ]
        optimizer = PackOptimizer(groups, replicas=3, clip=0.5)
        if flat:
            optimizer._adam = RowsAdam(optimizer)
        for step in range(12):
            optimizer.grads.copy_(torch.randn(optimizer.grads.shape, generator=generator, dtype=torch.float64))
            losses = torch.zeros(3, dtype=torch.float64)
            if step == 7:
                optimizer.grads[1, 3] = float("nan")
            optimizer.step(losses, 1.0 - step / 20, [[], []])
        assert optimizer.alive.tolist() == [True, False, True]
        states = [optimizer.state(replica) for replica in (0, 1, 2)]
        ends.append((optimizer.rows.clone(), states))
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=0, atol=1e-13)
    for mine, theirs in zip(ends[1][1], ends[0][1], strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine:
            if not key.endswith(".step"):  # of a replica that diverged torch counts the steps it made
                torch.testing.assert_close(mine[key], theirs[key], rtol=0, atol=1e-13)
