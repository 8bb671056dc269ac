"""AdaLoRA's allocator against PEFT's and against a case worked by hand; what PEFT's users stumble over, tested."""

import math

import pytest
import torch
from peft import AdaLoraConfig, get_peft_model
from torch import nn

from sora.errors import UserError
from sora.method_config import AdaloraConfig
from sora.methods.adalora import Adalora, SvdLinear, allocate
from sora.methods.bank import Bank
from sora.optim import PackOptimizer, ParameterGroup
from tests import tiny

METHOD = {"name": "adalora", "r": 2, "init_r": 4, "warmup": 0.2, "final": 0.3, "interval": 1}


def test_allocation_by_hand():
    scores = torch.tensor([[0.1, 0.5, 0.3, 0.2], [4.0, 1.0, 2.0, 3.0]])
    assert allocate(scores, 2).tolist() == [[False, True, True, False], [True, False, False, True]]
    assert allocate(scores, 4).all()
    assert allocate(torch.tensor([[1.0, 1.0, 2.0]]), 2).tolist() == [[False, False, True]]  # a tie at the border


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x):
        return self.two(torch.tanh(self.one(x)))


def peft_pair(rank, target, total, warmup, final):
    """PEFT's AdaLoRA on a small model, and our layers with its weights."""
    config = AdaLoraConfig(
        init_r=rank, target_r=target, tinit=warmup, tfinal=final, deltaT=2, total_step=total, beta1=0.85, beta2=0.9,
        orth_reg_weight=0.1, lora_alpha=rank, lora_dropout=0.0, target_modules=["one", "two"],
    )  # fmt: skip
    peft = get_peft_model(Two(), config)
    theirs = {name: getattr(peft.base_model.model, name) for name in ("one", "two")}
    ours = {}
    for name, layer in theirs.items():
        mine = ours[name] = SvdLinear(nn.Linear(layer.in_features, layer.out_features), replicas=1, r=rank, scaling=1.0)
        with torch.no_grad():
            nn.init.normal_(layer.lora_E["default"], std=0.1)
            mine.lora_A[0].copy_(layer.lora_A["default"])
            mine.lora_B[0].copy_(layer.lora_B["default"].T)
            mine.gate[0].copy_(layer.lora_E["default"].flatten())
    return peft, theirs, ours


def theirs_of(layer):
    return {"lora_A": layer.lora_A["default"], "lora_B": layer.lora_B["default"], "gate": layer.lora_E["default"]}


def in_our_shape(name, tensor):
    return {"lora_A": tensor, "lora_B": tensor.T, "gate": tensor.flatten()}[name].unsqueeze(0)


def test_scores_and_masks_are_those_of_peft():
    """The same weights and gradients, step after step: equal running scores, equal survivors, equal weights."""
    total, warmup, final, rank, target = 20, 4, 6, 6, 2
    peft, theirs, ours = peft_pair(rank, target, total, warmup, final)
    method = Adalora(AdaloraConfig("adalora", r=target, init_r=rank, interval=2, beta2=0.9))
    method.layers, method.warmup, method.last, method.start, method.end = ours, warmup, total - final, 12, 4
    matrices = {f"{name}.{key}": getattr(ours[name], key) for key in ("lora_A", "lora_B") for name in ours}
    gates = {f"{name}.gate": layer.gate for name, layer in ours.items()}
    groups = [ParameterGroup(name, tensors, lr=[0.0]) for name, tensors in (("adapter", matrices), ("gate", gates))]
    PackOptimizer(groups, replicas=1, clip=0.0)
    method.bank = Bank(list(ours.values()), *groups)
    generator = torch.Generator().manual_seed(1)
    kept = []
    for step in range(total):
        for name, layer in theirs.items():
            for key, tensor in theirs_of(layer).items():
                grad = torch.randn(tensor.shape, generator=generator)
                mine = getattr(ours[name], key)
                tensor.grad = grad
                mine.grad.copy_(in_our_shape(key, grad))
                with torch.no_grad():  # a step of plain descent, so that dead triplets come back to be judged
                    tensor -= 0.05 * grad
                    mine -= 0.05 * mine.grad
        allocator = peft.base_model.rankallocator
        before = {name: dict(getattr(allocator, name)) for name in ("exp_avg_ipt", "exp_avg_unc")}
        peft.base_model.update_and_allocate(step)
        method.after_step(step, torch.tensor([True]))
        scores = before if step == total - final else vars(allocator)  # PEFT forgets its scores at the last allocation
        for name, layer in theirs.items():
            for key, tensor in theirs_of(layer).items():
                torch.testing.assert_close(getattr(ours[name], key).detach(), in_our_shape(key, tensor.detach()))
                their_key = f"{name}.{'lora_E' if key == 'gate' else key}.default"
                if step <= total - final:
                    for kind, field in (("sensitivity", "exp_avg_ipt"), ("uncertainty", "exp_avg_unc")):
                        (score,) = (v for k, v in scores[field].items() if k.endswith(their_key))
                        torch.testing.assert_close(getattr(ours[name], f"{kind}_{key}"), in_our_shape(key, score))
        kept.append(sum(int((layer.gate != 0).sum()) for layer in ours.values()))
    assert kept[:6] == [12] * 6  # warm-up, and a step that is no multiple of the interval
    assert kept[7] == 12, "a dropped triplet did not come back between two allocations, so nothing was revived"
    assert kept[6] < 12
    assert kept[14:] == [4] * 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The pack of two runs, trained to its end in one go."""
    return tiny.train(tiny.runs(seeds=[0, 1], method=METHOD), tmp_path_factory.mktemp("whole")).pack


def test_ranks_move_by_themselves_and_end_at_the_target(whole):
    """Nobody calls the allocator (PEFT's first pitfall), and replicas spend their budgets apart."""
    ranks = [whole.method.summary(replica).ranks for replica in (0, 1)]
    assert [sum(each.values()) for each in ranks] == [12 * 2, 12 * 2]
    assert ranks[0] != ranks[1]
    assert min(ranks[0].values()) < 2, "no matrix fell below the average, so nothing was allocated"


@pytest.mark.parametrize("step", [5, 15])
def test_resuming_keeps_scores_and_budget(step, whole, tmp_path):
    """PEFT's running scores are in no state_dict: a resumed run ends with half the ranks. Not here, to the bit."""

    configs = tiny.runs(seeds=[0, 1], method=METHOD)
    tiny.stop(configs, tmp_path / "parts", step)
    again = tiny.train(configs, tmp_path / "parts")
    assert again.progress[0].resumed_at == [step]
    assert torch.equal(whole.optimizer.rows, again.pack.optimizer.rows)
    state = whole.adaptive_state()
    assert len(state) == 12 * 7  # two averages of three tensors and the choice, for each matrix
    for name, value in again.pack.adaptive_state().items():
        assert torch.equal(state[name], value), name
    assert whole.method.summary(0) == again.pack.method.summary(0)


@pytest.mark.parametrize(("healthy", "large"), [(2, 1e30), (8, 1e30), (8, math.inf)])
def test_a_replica_that_diverged_stays_as_it_was(healthy, large, whole, tmp_path):
    """Also with finite gradients of an infinite norm its scores could move: in the warm-up, between two allocations."""
    pack = tiny.pack(tiny.runs(seeds=[0, 1], method=METHOD, trainer={"checkpoint_every": 1}))
    factor, before = torch.ones(2, 1, 1), {}

    def state(pack, replica):
        tensors = {"row": pack.optimizer.rows} | pack.adaptive_state()
        return {name: tensor[replica].detach().clone() for name, tensor in tensors.items()}

    def poison(step):
        if step == healthy:
            factor[0] = large
            before.update(state(pack, 0))
        elif step == healthy + 1:
            assert bool(torch.isfinite(pack.optimizer.grads).all()) is math.isfinite(large)

    first = next(iter(pack.method.layers.values()))
    for parameter in (pack.model.head.out, first.lora_A):
        parameter.register_hook(lambda grad: grad * factor)
    loop = tiny.finish(pack, tmp_path / "poisoned", after_checkpoint=poison)
    assert [progress.diverged_at for progress in loop.progress] == [healthy + 1, None]
    for name, value in state(pack, 0).items():
        assert torch.equal(value, before[name]), name
    for name, value in state(whole, 1).items():
        assert torch.equal(value, state(pack, 1)[name]), name


def test_orthogonality_by_its_definition():
    """Eq. 4."""
    built = tiny.pack(tiny.runs(seeds=[0, 1], method=METHOD | {"orthogonality": 0.3}))
    layers = built.method.layers.values()
    for replica in (0, 1):
        norms = [
            torch.linalg.norm(x @ x.T - torch.eye(4))
            for layer in layers
            for x in (layer.lora_A.detach()[replica], layer.lora_B.detach()[replica])
        ]
        torch.testing.assert_close(built.method.penalty()[replica].detach(), 0.3 * torch.stack(norms).mean())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"warmup": 15, "final": 5}, r"method.warmup=15 and method.final=5 leave none of 20 steps"),
        ({"r": 5}, r"method.r.*method.init_r"),
        ({"warmup": 1.5}, r"method\.warmup: got 1\.5, must be whole steps, or below 1 a fraction"),
        ({"final": 6.25}, r"method\.final: got 6\.25, must be whole steps, or below 1 a fraction"),
        ({"init_r": 33}, r"method\.init_r: got 33, must be at most 32"),
    ],
)
def test_what_cannot_be_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        tiny.pack(tiny.runs(method=METHOD | changes))


@pytest.mark.parametrize(("warmup", "final"), [(0.2, 0.3), (4, 6)])
def test_phases_are_steps_or_fractions(warmup, final):
    method = tiny.pack(tiny.runs(method=METHOD | {"warmup": warmup, "final": final})).method
    assert (method.warmup, method.last) == (4, 14)
    assert set(method.summary(0).ranks.values()) == {4}, "every lambda is 0, and no triplet is dead before training"


@pytest.mark.parametrize("final", [0, 1])
def test_without_a_final_phase_the_budget_is_still_met(final, tmp_path):
    loop = tiny.train(tiny.runs(method=METHOD | {"final": final, "interval": 7}), tmp_path)
    assert sum(loop.pack.method.summary(0).ranks.values()) == 12 * 2


def test_equal_ranks_allocate_nothing_and_do_not_fail(tmp_path):
    """init_r = target_r makes PEFT fail in kthvalue."""
    loop = tiny.train(tiny.runs(method=METHOD | {"r": 4}), tmp_path)
    assert set(loop.pack.method.summary(0).ranks.values()) == {4}


def test_triplets_start_as_the_authors_do():
    """P and Q from N(0, 0.02), every lambda 0; a replica draws what it draws alone."""
    made = SvdLinear(nn.Linear(300, 200), replicas=2, r=20, scaling=1.0)
    made.reset([torch.Generator().manual_seed(seed) for seed in (5, 6)])
    alone = SvdLinear(nn.Linear(300, 200), replicas=1, r=20, scaling=1.0)
    alone.reset([torch.Generator().manual_seed(6)])
    for name in ("lora_A", "lora_B"):
        drawn = getattr(made, name).detach()
        assert drawn.std().item() == pytest.approx(0.02, rel=0.05)
        assert drawn.mean().item() == pytest.approx(0.0, abs=1e-3)
        assert torch.equal(drawn[1], getattr(alone, name)[0])
        assert not torch.equal(drawn[0], drawn[1])
    assert not made.gate.any()
