"""Where the paper and the authors' code differ: the switches, and what each reading computes."""

import pytest
import torch

from sora.method_config import SoraConfig
from sora.optim import ParameterGroup
from tests import tiny

FLIPS = {
    "gate_update": "gradient",
    "threshold_rule": "lr_scaled",
    "prox": "soft",
    "penalty_rule": "off",
}


def gates(configs, folder):
    loop = tiny.train(configs, folder, torch.float64)
    layers = loop.pack.method.layers.values()
    return torch.cat([layer.gate.detach()[0] for layer in layers])


def test_fidelity_is_a_name_for_four_switches():
    (authors,), (paper,) = tiny.runs(), tiny.runs(method={"fidelity": "paper"})
    assert {k: getattr(authors.method, k) for k in FLIPS} == SoraConfig.SWITCHES["authors"]
    assert {k: getattr(paper.method, k) for k in FLIPS} == SoraConfig.SWITCHES["paper"]
    assert SoraConfig.SWITCHES["paper"] == FLIPS
    (mixed,) = tiny.runs(method={"fidelity": "paper", "prox": "authors"})
    assert mixed.method.prox == "authors"  # what is given wins
    assert mixed.method.threshold_rule == "lr_scaled"
    (head,) = tiny.runs(method={"fidelity": "paper"})
    assert (head.head, head.protocol.name) == (authors.head, authors.protocol.name)


def test_each_switch_changes_the_gates(tmp_path):
    base = {"threshold": 5e-2, "penalty": 1.0}
    default = gates(tiny.runs(method=base), tmp_path / "default")
    for switch, other in FLIPS.items():
        flipped = gates(tiny.runs(method=base | {switch: other}), tmp_path / switch)
        assert (default - flipped).abs().max() > 1e-4, switch


def test_l1_term_is_lambda_times_mean_or_sum():
    for rule, factor in (("mean", 1 / (12 * 4)), ("sum", 1.0)):
        built = tiny.pack(tiny.runs(seeds=[0, 1], method={"penalty": 0.7, "penalty_rule": rule}))
        for replica in (0, 1):
            sizes = [layer.gate.detach()[replica].abs() for layer in built.method.layers.values()]
            assert torch.cat(sizes).numel() == 12 * 4
            expected = 0.7 * factor * torch.cat(sizes).sum()
            torch.testing.assert_close(built.method.penalty()[replica], expected)
    assert tiny.pack(tiny.runs(method={"penalty_rule": "off"})).method.penalty() is None


@pytest.mark.parametrize(("name", "weight"), [("sora", "penalty"), ("adalora", "orthogonality")])
def test_the_penalty_is_no_part_of_the_logged_loss(name, weight, tmp_path):
    """The history's loss is the task's alone: it must not grow with lambda before training has begun to differ."""
    losses = []
    for value in (0.0, 1e4):
        method = {"name": name, weight: value} | ({"warmup": 0.2, "init_r": 4, "r": 2} if name == "adalora" else {})
        configs = tiny.runs(method=method, trainer={"max_steps": 10, "eval_every": 1})
        losses.append(tiny.train(configs, tmp_path / str(value)).progress[0].history[0]["loss"])
    assert losses[0] == losses[1]


def test_gates_train_as_the_authors_optimiser_is_set(tmp_path):
    built = tiny.pack(tiny.runs(method={"threshold": 0.25}))
    (gate,) = [group for group in built.optimizer.groups if group.after_adam is not None]
    assert isinstance(gate, ParameterGroup)
    assert (gate.weight_decay, gate.eps, gate.variant) == (0.0, 1e-6, "adamw_hf")
    assert gate.columns.stop - gate.columns.start == 12 * 4
    half = 11  # of 20 steps, 2 of them warm-up: (20 - 11) / 18 of the peak rate
    assert built.thresholds(half)[built.optimizer.groups.index(gate)] == [0.25]
    scaled = tiny.pack(tiny.runs(method={"threshold": 0.25, "threshold_rule": "lr_scaled"}))
    assert [0.125] in scaled.thresholds(half)


def test_gates_are_clipped_with_the_rest_or_apart(tmp_path):
    """A head that holds the joint norm leaves the gates next to nothing; apart they move by the full rate."""
    groups = {
        rule: {group.name: group.clip for group in tiny.pack(tiny.runs(method={"clip": rule})).optimizer.groups}
        for rule in ("joint", "own")
    }
    assert set(groups["joint"].values()) == {"joint"}
    assert groups["own"] == groups["joint"] | {"gate": "own"}
    base = {"threshold": 0.0, "penalty": 1.0, "gate_update": "gradient"}
    before = torch.cat([layer.gate.detach()[0] for layer in tiny.pack(tiny.runs(method=base)).method.layers.values()])
    short = {"max_steps": 1, "eval_every": 1, "clip": 1e-2, "warmup_ratio": 0.0, "learning_rate": 1.0}
    moved = {}
    for rule in ("joint", "own"):
        after = gates(tiny.runs(method=base | {"clip": rule}, trainer=short), tmp_path / rule)
        moved[rule] = float((after - before).norm())
    assert moved["own"] == pytest.approx(1e-2, rel=1e-3)  # the whole clip, a plain gradient step at rate 1
    assert moved["joint"] < 0.9 * moved["own"]


def test_live_counts_by_hand(tmp_path):
    built = tiny.pack(tiny.runs())
    layers = built.method.layers
    query = next(name for name in layers if name.endswith("query"))
    wide = next(name for name in layers if name.endswith("intermediate.dense"))
    with torch.no_grad():
        layers[query].gate[0, 0] = 0.0
        layers[wide].gate[0, :2] = 0.0
    summary = built.method.summary(0)
    h, f = tiny.HIDDEN, 48
    full = tiny.LAYERS * 4 * (4 * (h + h) + 2 * (h + f))
    assert summary.live == full - (h + h) - 2 * (h + f)
    assert summary.authors_formula == full - 3 * 2 * h
    assert summary.ranks[query] == 3
    assert summary.ranks[wide] == 2
