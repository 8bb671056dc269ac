"""Sparsity schedules: what moves at each level, what is measured; stopping, packing, diverging change nothing."""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from sora.cluster.signals import Preempted
from sora.runs import estimate, records
from sora.training import checkpoint
from sora.training.evaluation import evaluate
from sora.training.levels import Levels, prune_smallest
from sora.training.runner import run_pack
from tests import tiny
from tests.composing import runs
from tests.oracles.authors_rule import authors_shrink
from tests.training.test_resume import lines_of, same, science, signals_at, train_with_stops
from tests.typed import SMALL

LEVELS = [2e-3, 1e-2, 4e-2]
SPARSIFY = {"kind": "sparsify", "levels": LEVELS, "steps": 6}
ONE_SHOT = {"kind": "one_shot", "levels": [0.25, 0.6, 1.0]}
KINDS = {
    "none": {"kind": "none"},
    "rewarm": SPARSIFY,
    "constant": SPARSIFY | {"lr": "constant"},
    "authors_zero": SPARSIFY | {"lr": "authors_zero"},
    "one_shot": ONE_SHOT,
}


def gate_columns(loop):
    (group,) = (group for group in loop.pack.optimizer.groups if group.name == "gate")
    return group.columns


def gates(loop, rows=None):
    """[R, G], of the weights the loop has now or of ``rows``."""
    return (loop.pack.optimizer.rows if rows is None else rows)[:, gate_columns(loop)].clone()


def levels(loop, replica=0):
    return loop.progress[replica].levels


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """By the name of a schedule, the pack of two seeds that was trained with it, in float64, and its folder."""
    return functools.cache(
        lambda kind: tiny.train(
            tiny.runs(seeds=[0, 1], schedule=KINDS[kind]), tmp_path_factory.mktemp(kind), torch.float64
        )
    )


# -- what a level is -------------------------------------------------------------------------------------------


def test_pruning_takes_the_smallest_of_each_row_the_dead_first():
    rows = torch.tensor([[0.5, -0.1, 0.0, 0.3, -0.9], [2.0, 2.0, -2.0, 1.0, 3.0]])
    pruned, cut = prune_smallest(rows, 0.6)
    assert pruned.tolist() == [[0.5, 0.0, 0.0, 0.0, pytest.approx(-0.9)], [0.0, 0.0, -2.0, 0.0, 3.0]]
    assert cut.tolist() == [pytest.approx(0.3), 2.0]
    same, none = prune_smallest(rows, 0.0)
    assert torch.equal(same, rows)
    assert none.tolist() == [0.0, 0.0]
    assert not prune_smallest(rows, 1.0)[0].any()
    for share, gone in ((0.29, 1), (0.31, 2), (0.69, 3), (0.71, 4)):  # of five, the nearest number
        assert int((prune_smallest(rows.abs() + 1, share)[0][1] == 0).sum()) == gone


def test_the_levels_start_from_the_selected_weights_of_those_that_live():
    built = tiny.pack(tiny.runs(seeds=[0, 1], schedule=SPARSIFY))
    best, before = built.optimizer.rows + 0.01, built.optimizer.rows.clone()
    built.optimizer.alive[1] = False
    (entries,) = Levels(built).after_stage(0, best)
    assert [entry["level"] for entry in entries] == [0, 0]
    assert torch.equal(built.optimizer.rows[0], best[0])
    assert torch.equal(built.optimizer.rows[1], before[1])


@pytest.mark.parametrize("kind", ["rewarm", "one_shot"])
def test_a_schedule_leaves_the_ordinary_run_as_it_was(kind, trained):
    """The selected weights are those of the same run without a schedule; level 0 is measured with them."""
    plain, loop = trained("none"), trained(kind)
    assert torch.equal(loop.best, plain.best)
    by_hand = tiny.pack(plain.pack.runs, torch.float64)
    by_hand.optimizer.rows.copy_(plain.best)
    metrics, logits = evaluate(by_hand)
    for replica in (0, 1):
        mine, ordinary = loop.progress[replica], plain.progress[replica]
        assert mine.history[: len(ordinary.history)] == ordinary.history
        assert mine.best_step == ordinary.best_step
        steps = [20, 20, 20, 20] if kind == "one_shot" else [20, 26, 32, 38]
        assert [(entry["level"], entry["step"]) for entry in mine.levels] == list(enumerate(steps))
        assert {name: mine.levels[0][name] for name in metrics[replica]} == metrics[replica]
        assert set(metrics[replica]) == {"select", "report", "train_subset"}
        assert mine.levels[0]["ranks"] == by_hand.method.summary(replica).ranks
    for name, values in logits.items():
        np.testing.assert_array_equal(loop.levels.logits[0][name], values)


def test_the_authors_levels_move_nothing_but_the_gates(trained):
    """At a learning rate of 0 a gate's course is arithmetic: the authors' shrink, once a step, whatever the data."""
    loop = trained("authors_zero")
    columns, rows = gate_columns(loop), loop.pack.optimizer.rows
    others = [index for index in range(rows.shape[1]) if not columns.start <= index < columns.stop]
    assert torch.equal(rows[0, others], loop.best[0, others])
    values, shares = gates(loop, loop.best)[0].tolist(), []
    for xi in LEVELS:
        for _ in range(6):
            values = [authors_shrink(value, xi) for value in values]
        shares.append(sum(value != 0 for value in values))
    np.testing.assert_allclose(gates(loop)[0], values, rtol=0, atol=1e-12)
    assert [sum(entry["ranks"].values()) for entry in levels(loop)[1:]] == shares
    assert shares[0] > shares[1] > shares[2] > 0


@pytest.mark.parametrize("reading", ["rewarm", "constant"])
def test_the_other_readings_train_on(reading, trained):
    loop = trained(reading)
    moved = (loop.pack.optimizer.rows - loop.best).abs()
    assert (moved > 0).float().mean() > 0.95
    live = [entry["live"] for entry in levels(loop)]
    assert live[0] > live[2] > live[3]
    log = (loop.run_dirs[0] / "log.txt").read_text()
    assert "level 0 of 3: " in log
    assert "level 3 of 3: " in log
    thresholds = [entry["threshold"] for entry in levels(loop)]
    assert thresholds == [1e-3, *LEVELS]
    by_step = {entry["step"]: entry for entry in loop.progress[0].history}
    assert sorted(by_step) == [10, 20, 26, 30, 32, 38]  # every 10th step, and the end of every stage
    assert [by_step[step]["threshold"] for step in (20, 26, 30, 38)] == [1e-3, 2e-3, 1e-2, 4e-2]
    assert by_step[26]["lr"] == (5e-3 if reading == "constant" else pytest.approx(5e-3 / 5))  # one of 5 steps left
    for step in (26, 32, 38):
        (entry,) = (each for each in levels(loop) if each["step"] == step)
        assert by_step[step]["select"] == entry["select"]


def test_one_shot_levels_are_quantiles_of_the_dense_gates(trained):
    """Against numpy's sort of the dense gates; what is measured is the model with those gates, pruned by hand."""
    loop = trained("one_shot")
    dense = gates(loop, loop.best).numpy()
    total = dense.shape[1]
    by_hand = tiny.pack(tiny.runs(seeds=[0, 1]), torch.float64)
    for index, share in enumerate(ONE_SHOT["levels"], start=1):
        by_hand.optimizer.rows.copy_(loop.best)
        for replica in (0, 1):
            smallest = np.sort(np.abs(dense[replica]))[: round(share * total)]
            entry = levels(loop, replica)[index]
            assert entry["sparsity"] == share
            assert entry["threshold"] == smallest[-1]
            assert sum(entry["ranks"].values()) == min(np.count_nonzero(dense[replica]), total - len(smallest))
            row = by_hand.optimizer.rows[replica, gate_columns(loop)]
            row[row.abs() <= smallest[-1]] = 0.0
        metrics, logits = evaluate(by_hand)
        for replica in (0, 1):
            assert levels(loop, replica)[index]["report"] == metrics[replica]["report"]
        np.testing.assert_allclose(loop.levels.logits[index]["report"], logits["report"], atol=1e-6)
    assert levels(loop)[-1]["live"] == 0


# -- stopped, packed, diverged ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rewarm", "one_shot"])
def test_stopped_inside_a_level_and_continued_bit_exact(kind, tmp_path):
    """Twice inside levels, once where stage 0 ends (20), with dropout; logits of the levels come back too."""
    schedule = KINDS[kind]
    configs = tiny.runs(
        seeds=[0, 1], backbone={"dropout": None}, schedule=schedule, trainer={"eval_every": 7, "checkpoint_every": 5}
    )
    whole = tiny.train(configs, tmp_path / "whole")
    stops = [15] if schedule is ONE_SHOT else [20, 25, 35]
    again = train_with_stops(configs, tmp_path / "parts", stops)
    assert again.progress[0].resumed_at == stops
    assert same(science(whole), science(again))
    assert len(whole.levels.logits) == len(again.levels.logits) == 4
    for mine, theirs in zip(whole.levels.logits, again.levels.logits, strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name])
    assert lines_of(tmp_path / "whole", configs) == lines_of(tmp_path / "parts", configs)


@pytest.mark.parametrize(("kind", "number"), [("rewarm", 24), ("one_shot", 24), ("one_shot", 27)])
def test_a_signal_while_levels_are_measured_does_not_wait_for_the_last(kind, number, tmp_path, monkeypatch):
    """In a batch of level 0 or 1, after 20 steps and two evaluations, and again at once; the end is the same."""
    configs = tiny.runs(seeds=[0, 1], backbone={"dropout": None}, schedule=KINDS[kind])
    whole = tiny.train(configs, tmp_path / "whole")
    folder = tmp_path / "parts"
    for place in (number, 1):
        with signals_at(monkeypatch, (tiny.Tokens, "collate"), place) as preemption, pytest.raises(Preempted):
            tiny.train(configs, folder, check=preemption.check)
        assert [checkpoint.reached(folder / name) for name in ("seed-0", "seed-1")] == [(20, True)] * 2
    again = tiny.train(configs, folder)
    assert same(science(whole), science(again))
    for mine, theirs in zip(whole.levels.logits, again.levels.logits, strict=True):
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name])
    assert lines_of(tmp_path / "whole", configs) == lines_of(folder, configs)


@pytest.mark.parametrize("schedule", [KINDS["rewarm"], ONE_SHOT], ids=["rewarm", "one_shot"])
def test_a_replica_is_its_solo_run_level_by_level(schedule, tmp_path):
    """Two seeds with two thresholds of stage 0, in float64 to 1e-9."""
    short = {"max_steps": 10, "eval_every": 5, "checkpoint_every": 100}
    first, second = tiny.runs(seeds=[0, 1], schedule=schedule, trainer=short)
    second = dataclasses.replace(second, method=dataclasses.replace(second.method, threshold=2e-3))
    together = tiny.train([first, second], tmp_path / "pack", torch.float64)
    for replica, run in enumerate((first, second)):
        alone = tiny.train([run], tmp_path / f"solo-{replica}", torch.float64)
        torch.testing.assert_close(
            together.pack.optimizer.rows[replica], alone.pack.optimizer.rows[0], rtol=0, atol=1e-9
        )
        for mine, theirs in zip(levels(together, replica), levels(alone), strict=True):
            assert mine.pop("threshold") == pytest.approx(theirs.pop("threshold"), abs=1e-9)
            assert mine == theirs
    assert levels(together, 0)[1]["ranks"] != levels(together, 1)[1]["ranks"]


@pytest.mark.parametrize("schedule", [SPARSIFY, ONE_SHOT], ids=["rewarm", "one_shot"])
def test_a_diverged_run_has_no_levels_and_its_neighbour_all(schedule, tmp_path):
    configs = tiny.runs(seeds=[0, 1], schedule=schedule, trainer={"max_steps": 10, "eval_every": 5})
    built = tiny.pack(configs, torch.float64)
    with torch.no_grad():
        next(iter(built.method.layers.values())).lora_B[0, 0, 0] = float("inf")
    before = built.optimizer.rows[0].clone()
    loop = tiny.finish(built, tmp_path / "pack")
    assert torch.equal(built.optimizer.rows[0], before)
    assert levels(loop, 0) == []
    alone = tiny.train(configs[1:], tmp_path / "solo", torch.float64)
    torch.testing.assert_close(built.optimizer.rows[1], alone.pack.optimizer.rows[0], rtol=0, atol=1e-9)
    assert [entry["live"] for entry in levels(loop, 1)] == [entry["live"] for entry in levels(alone)]


def test_a_record_holds_every_level(tmp_path):
    """The arrays of every level give its metrics; its first are the selected weights, its last the last ones."""
    overrides = (
        *(*SMALL, "trainer.eval_every=6", "trainer.max_length=24"),
        *("schedule=sparsify_constant", "schedule.levels=[2e-3,1e-1]", "schedule.steps=6"),
        *(f"paths.results={tmp_path}/results", f"paths.runs={tmp_path}/runs"),
    )
    (one,) = run_pack(runs(tmp_path / "conf", *overrides, backbone="minilm-l6"), "python run.py")
    assert [(entry["level"], entry["step"]) for entry in one["level_results"]] == [(0, 6), (1, 12), (2, 18)]
    dense, last = one["level_results"][0], one["level_results"][-1]
    assert dense["ranks"] == one["ranks"]
    assert last["live"] < dense["live"] == one["params"]["live"]
    assert (one["metrics"]["selected"]["step"], one["metrics"]["last"]["step"]) == (6, 18)
    arrays = records.read_arrays(records.find(tmp_path / "results", one["run_id"]))
    for split in ("select", "report", "train_subset"):
        assert dense[split] == one["metrics"]["selected"][split]
        assert last[split] == one["metrics"]["last"][split]
        assert len(arrays[f"{split}_ids"]) == one["data"]["sizes"][split]
        for entry in one["level_results"]:
            predicted = arrays[f"level{entry['level']}_{split}_logits"].astype(np.float64).argmax(1)
            assert float(np.mean(predicted == arrays[f"{split}_labels"])) == entry[split]["accuracy"]


def test_an_estimate_counts_the_levels():
    facts = estimate.DataFacts("0" * 64, {"train": 60, "select": 30, "report": 30, "train_subset": 20}, 40.0, 60)
    (plain,), (trained,), (pruned,) = (tiny.runs(schedule=each) for each in ({"kind": "none"}, SPARSIFY, ONE_SHOT))
    assert [estimate.steps(run, facts) for run in (plain, trained, pruned)] == [20, 20 + 3 * 6, 20]
    cost = [estimate.operations([run], facts) for run in (plain, trained, pruned)]
    assert cost[0] < cost[2] < cost[1]
