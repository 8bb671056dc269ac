"""The regime of a run, and the ranks it would have had without data."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sora.methods.regime import HOPELESS, regime
from sora.schedules import Timeline, linear_decay
from sora.training.diagnostics import gate_array, gate_histogram, rank_diagnostics, regime_lines
from sora.training.seeds import derive
from tests import tiny
from tests.oracles.authors_rule import authors_shrink


def run(steps: int = 1000, lr: float = 1e-3, warmup: float = 0.06, clip: float = 0.1, **method: Any) -> Any:
    trainer = {"max_steps": steps, "learning_rate": lr, "warmup_ratio": warmup, "clip": clip}
    return tiny.runs(method=method, trainer=trainer)[0]


def of(each: Any) -> Any:
    return regime(each, Timeline(each.trainer.max_steps, each.trainer.warmup_ratio))


# -- before a run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "warmup"), [(1000, 0.06), (1928, 0.06), (7, 0.5), (100, 0.0)])
def test_the_formulas_with_adam(steps: int, warmup: float) -> None:
    found = of(run(steps, 2e-3, warmup, threshold=3e-4))
    assert found.rho == 0.15
    assert found.shrink == pytest.approx(3e-4 * steps, rel=1e-5)
    half = steps / 2 if warmup else (steps + 1) / 2
    assert found.travel == pytest.approx(2e-3 * half, rel=1e-5)


def test_the_threshold_that_follows_the_rate_shrinks_half_as_much() -> None:
    constant, scaled = (of(run(threshold=1e-4, threshold_rule=rule)) for rule in ("constant", "lr_scaled"))
    assert (scaled.rho, scaled.travel) == (constant.rho, constant.travel)
    assert scaled.shrink == pytest.approx(constant.shrink / 2, rel=1e-5)


def test_a_gradient_step_reaches_no_further_than_the_clip() -> None:
    adam, gradient = (of(run(threshold=1e-4, gate_update=rule)) for rule in ("adam", "gradient"))
    assert (gradient.rho, gradient.travel) == (pytest.approx(10 * adam.rho), pytest.approx(adam.travel / 10))
    assert of(run(threshold=1e-4, gate_update="gradient", clip=0.0)).rho == adam.rho


def test_a_schedule_is_judged_by_its_stage_0() -> None:
    each = run(threshold=1e-4)
    plain, levelled = (regime(each, line) for line in (Timeline(1000, 0.06), Timeline(1000, 0.06, 500, (1e-3, 2e-3))))
    assert plain == levelled


def test_only_gates_with_a_threshold_have_a_regime() -> None:
    assert of(run(threshold=0.0)) is None
    assert regime(tiny.runs(method={"name": "lora"})[0], Timeline(10, 0.0)) is None
    assert regime(tiny.runs(method={"name": "adalora"})[0], Timeline(10, 0.0)) is None


@pytest.mark.parametrize(
    ("steps", "lr", "threshold"), [(640, 8e-4, 1e-3), (640, 8e-4, 1e-4), (9000, 8e-4, 1e-3), (100, 1e-4, 1e-5)]
)
@pytest.mark.parametrize("gate_update", ["adam", "gradient"])
@pytest.mark.parametrize("warmup", [0.0, 0.06])
def test_the_values_of_the_warning_would_do(
    steps: int, lr: float, threshold: float, gate_update: str, warmup: float
) -> None:
    def warning(steps: int, threshold: float) -> str:
        return of(run(steps, lr, warmup, threshold=threshold, gate_update=gate_update)).warning()

    text = warning(steps, threshold)
    assert text.startswith(HOPELESS)
    named = re.search(r"(?:threshold of at most ([\d.e-]+))?(?: with )?(?:at least ([\d,]+) steps)? would", text)
    assert named, text
    xi, enough = float(named[1] or threshold), int((named[2] or str(steps)).replace(",", ""))
    assert (xi, enough) != (threshold, steps)
    assert not warning(enough, xi), text
    if named[1]:  # and no far weaker ones
        assert warning(enough, xi * 1.02)
    if named[2]:
        assert warning(math.floor(enough * 0.98), xi)


def test_the_lines_of_a_pack() -> None:
    grid = tiny.runs(seeds=[0, 1], method={"threshold": 1e-4}, trainer={"max_steps": 2000})
    assert regime_lines(tiny.pack(grid), ["seed 0", "seed 1"]) == ["regime: rho 0.02, shrink 0.2, travel 5"]
    mixed = [*grid[:1], *tiny.runs(seeds=[1], method={"threshold": 4e-3}, trainer={"max_steps": 2000})]
    lines = regime_lines(tiny.pack(mixed), ["seed 0", "seed 1"])
    assert [line.partition(":")[0] for line in lines] == ["regime", "regime", "warning"]
    assert lines[0].endswith("(seed 0)")
    assert lines[2].endswith("would do (seed 1)")
    assert regime_lines(tiny.pack(tiny.runs(method={"name": "lora"})), ["seed 0"]) == []


# -- ranks without data ----------------------------------------------------------------------------------------------


def drawn(seed: int, pack: Any) -> dict[str, torch.Tensor]:
    """The initial gates by hand: A's uniform numbers come first, matrix by matrix."""
    generator = torch.Generator().manual_seed(derive(seed, "adapter"))
    gates = {}
    for name, layer in pack.method.layers.items():
        torch.empty(layer.r, layer.in_features).uniform_(generator=generator)
        gates[name] = torch.randn(layer.r, generator=generator)
    return gates


@pytest.mark.parametrize("rule", ["constant", "lr_scaled"])
def test_the_soft_threshold_leaves_what_is_larger_than_the_shrink(rule: str) -> None:
    grid = tiny.runs(
        seeds=[3, 4],
        method={"threshold": 0.031, "prox": "soft", "threshold_rule": rule},
        trainer={"max_steps": 40, "warmup_ratio": 0.1},
    )
    pack = tiny.pack(grid)
    for replica, seed in enumerate((3, 4)):
        for step in (0, 1, 17, 40):
            rates = [linear_decay(t, 40, 4) if rule == "lr_scaled" else 1.0 for t in range(step)]
            shrink = 0.031 * math.fsum(rates)
            expected = {name: int((g.abs() > shrink).sum()) for name, g in drawn(seed, pack).items()}
            assert pack.method.no_data_ranks(replica, step) == expected
    assert len(set(map(str, (pack.method.no_data_ranks(r, 40) for r in (0, 1))))) == 2


def test_the_authors_threshold_stepped_by_hand() -> None:
    pack = tiny.pack(tiny.runs(seeds=[5], method={"threshold": 0.02, "prox": "authors"}, trainer={"max_steps": 30}))
    found = pack.method.no_data_ranks(0, 30)
    soft = 0
    for name, gates in drawn(5, pack).items():
        values = gates.tolist()
        for _ in range(30):
            values = [authors_shrink(value, 0.02) for value in values]
        assert found[name] == sum(value != 0 for value in values)
        soft += sum(abs(value) > 0.6 for value in gates.tolist())
    assert 0 < sum(found.values()) <= soft


def test_as_many_ranks_as_a_run_has_are_the_largest_of_the_draw() -> None:
    pack = tiny.pack(tiny.runs(seeds=[3, 4], method={"threshold": 0.02, "prox": "soft"}, trainer={"max_steps": 40}))
    for replica, seed in enumerate((3, 4)):
        gates = drawn(seed, pack)
        order = sorted((-abs(g), name) for name, each in gates.items() for g in each.tolist())
        for total in (0, 1, 17, len(order)):
            expected = {name: sum(own == name for _, own in order[:total]) for name in gates}
            assert pack.method.no_data_ranks(replica, 40, total) == expected
        shrunk = pack.method.no_data_ranks(replica, 25)
        assert pack.method.no_data_ranks(replica, 0, sum(shrunk.values())) == shrunk, "a threshold takes the smallest"


RESULTS = Path(__file__).parents[2] / "results" / "records"
WIDTHS = {"intermediate.dense": (384, 1536), "output.dense": (1536, 384)}  # of MiniLM-L6, the attention's are square


@pytest.mark.parametrize("place", sorted(RESULTS.glob("minilm-l6/*/sora-*.json")), ids=lambda path: path.stem)
def test_the_committed_records_have_the_ranks_of_their_draw(place: Path) -> None:
    """Drawn again with torch alone, from the seed and the widths of the encoder."""
    record = json.loads(place.read_text(encoding="utf-8"))
    ranks, generator = record["ranks"], torch.Generator().manual_seed(derive(record["config"]["seed"], "adapter"))
    gates = {}
    for name in ranks:
        width = WIDTHS.get(name.split(".", 3)[3], (384, 384))[0]
        torch.empty(8, width).uniform_(generator=generator)
        gates[name] = torch.randn(8, generator=generator).abs()
    everything = torch.cat(list(gates.values())).sort(descending=True).values
    found = record["no_data_ranks"]
    for key, total in (("selected", sum(found["selected"].values())), ("same_total", sum(ranks.values()))):
        least = everything[total - 1]
        assert found[key] == {name: int((g >= least).sum()) for name, g in gates.items()}, key


def test_the_seed_of_the_initial_weights_decides() -> None:
    def ranks(each: Any) -> dict[str, int]:
        return tiny.pack([each]).method.no_data_ranks(0, 20)

    one, other = (tiny.runs(seeds=seed, method={"threshold": 0.02})[0] for seed in (1, 2))
    assert ranks(one) != ranks(other)
    assert ranks(replace(other, seeds=replace(other.seeds, init=1))) == ranks(one)
    assert ranks(replace(one, seeds=replace(one.seeds, data=2))) == ranks(one)


@pytest.mark.parametrize("prox", ["soft", "authors"])
@pytest.mark.parametrize("rule", ["constant", "lr_scaled"])
def test_a_training_that_cannot_move_has_exactly_these_ranks(prox: str, rule: str, tmp_path: Path) -> None:
    """A learning rate that rounds away and no penalty: packed and solo, at every evaluation and at the end."""
    given = {"prox": prox, "threshold_rule": rule, "penalty_rule": "off"}
    still = {"learning_rate": 1e-30, "eval_every": 4}
    grid = [
        tiny.runs(seeds=seed, method=given | {"threshold": threshold}, trainer=still)[0]
        for seed, threshold in ((0, 0.02), (1, 0.02), (1, 0.05))
    ]
    packed = tiny.finish(tiny.pack(grid), tmp_path / "pack", ["a", "b", "c"])
    alone = tiny.finish(tiny.pack(grid[2:]), tmp_path / "solo", ["c"])
    for loop, replica in (*((packed, replica) for replica in range(3)), (alone, 0)):
        method, history = loop.pack.method, loop.progress[replica].history
        ranks = method.summary(replica).ranks
        assert ranks == method.no_data_ranks(replica, 20)
        assert 0 < sum(ranks.values()) < 4 * len(ranks)
        assert [entry["live_ranks"] for entry in history] == [
            sum(method.no_data_ranks(replica, entry["step"]).values()) for entry in history
        ]
        assert len({entry["live_ranks"] for entry in history}) > 2


def test_a_training_that_moves_has_others(tmp_path: Path) -> None:
    configs = tiny.runs(method={"threshold": 0.02, "penalty_rule": "off"}, trainer={"learning_rate": 0.1, "clip": 1.0})
    method = tiny.train(configs, tmp_path).pack.method
    assert method.summary(0).ranks != method.no_data_ranks(0, 20)


def test_a_run_that_diverged_stopped_shrinking(tmp_path: Path) -> None:
    configs = tiny.runs(
        seeds=[0, 1],
        method={"threshold": 0.03, "penalty_rule": "off"},
        trainer={"learning_rate": 1e-30, "checkpoint_every": 1},
    )
    pack = tiny.pack(configs)

    def poison(step: int) -> None:
        if step == 6:
            pack.model.head.out.data[1] = torch.inf

    loop = tiny.finish(pack, tmp_path, after_checkpoint=poison)
    assert loop.progress[1].diverged_at == 7
    assert pack.method.summary(1).ranks == pack.method.no_data_ranks(1, 6) != pack.method.no_data_ranks(1, 20)
    assert pack.method.summary(0).ranks == pack.method.no_data_ranks(0, 20)


def test_what_a_record_says(tmp_path: Path) -> None:
    """Selected and last weights each beside the ranks for their own step."""
    still = {"learning_rate": 1e-30, "eval_every": 5}
    loop = tiny.train(tiny.runs(method={"threshold": 0.03, "penalty_rule": "off"}, trainer=still), tmp_path)
    pack, last = loop.pack, loop.pack.method.summary(0).ranks
    pack.optimizer.rows.copy_(loop.best)  # the first evaluation wins: every other one is as good
    found = rank_diagnostics(pack, 0, last, selected=5, updates=20)
    assert loop.progress[0].best_step == 5
    selected = pack.method.summary(0).ranks
    assert found["no_data_ranks"] == {"selected": selected, "same_total": selected, "last": found["ranks_last"]}
    assert found["ranks_last"] == last != found["no_data_ranks"]["selected"]
    assert found["regime"]["shrink"] == 0.6
    assert rank_diagnostics(pack, 0, None, 5, 20).keys() == {"regime", "no_data_ranks"}
    lora = tiny.pack(tiny.runs(method={"name": "lora"}))
    assert rank_diagnostics(lora, 0, {}, 5, 20) == {}
    assert gate_array(lora, 0) == {}


def test_the_gates_are_told_whole(tmp_path: Path) -> None:
    loop = tiny.train(tiny.runs(seeds=[0, 1], method={"threshold": 0.03}), tmp_path)
    pack = loop.pack
    for replica in (0, 1):
        gates, ranks = gate_array(pack, replica)["gates"], pack.method.summary(replica).ranks
        assert gates.dtype == np.float32
        assert gates.shape == (len(ranks), 4)
        assert (gates != 0).sum(axis=1).tolist() == list(ranks.values())
        for row, (name, layer) in zip(gates, pack.method.layers.items(), strict=True):  # type: ignore[attr-defined]
            assert row.tolist() == layer.gate[replica].tolist(), name
        for entry in loop.progress[replica].history:
            assert sum(entry["gate_histogram"]) == gates.size
            assert sum(entry["gate_histogram"][1:]) == entry["live_ranks"]


def test_the_bins_of_the_histogram() -> None:
    edge = 2.0**-8
    first = [0.0, -0.0, edge / 2, -edge / 2, edge, -1.0, 1.99, 2.0, -3.99, 4.0, -50.0]
    counts = gate_histogram(torch.tensor([first, [0.0] * 11]))
    assert counts == [[2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2], [11] + [0] * 12]
    magnitudes = torch.rand(1, 1000, generator=torch.Generator().manual_seed(0)) * 5
    edges = [0.0, *(2.0**k for k in range(-8, 3)), 100.0]
    assert gate_histogram(magnitudes)[0][1:] == np.histogram(magnitudes.numpy(), edges)[0].tolist()


# -- AdaLoRA's null --------------------------------------------------------------------------------------------------

ADALORA = {"name": "adalora", "r": 2, "init_r": 4, "warmup": 4, "final": 6, "interval": 3}


def test_adalora_without_data_keeps_the_largest_initial_triplets() -> None:
    """Compared with its own allocator, fed the same gradient for every weight."""
    pack = tiny.pack(tiny.runs(seeds=[0, 1], method=ADALORA))
    method: Any = pack.method
    layers, everyone = method.layers, torch.tensor([True, True])
    assert method.no_data_ranks(0, 20).keys() == method.summary(0).ranks.keys()
    for step in range(20):
        pack.optimizer.grads.fill_(0.3)
        method.after_step(step, everyone)
        for replica in (0, 1):
            kept = {name: int(layer.kept[replica].sum()) for name, layer in layers.items()}
            assert method.no_data_ranks(replica, step + 1) == kept
    assert sum(kept.values()) == 2 * len(layers)
    assert len(set(kept.values())) > 1
    assert method.no_data_ranks(0, 20) != method.no_data_ranks(1, 20)
