"""LoRA of given ranks: the three patterns by hand, which sources are taken and refused. Against PEFT: tests/oracles."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from sora.config import RunConfig
from sora.errors import UserError
from sora.method_config import MaskedLoraConfig
from sora.methods.masked_lora import permuted, uniform
from sora.runs import records
from sora.runs.run_id import run_id
from sora.training.sizes import parameter_counts
from tests import tiny
from tests.composing import arrays, record

STEPS = 12
SQUARE, LONG = 2 * tiny.HIDDEN, tiny.HIDDEN + 48  # weights of one rank


def masked(family="bert", seeds=0, trainer=None, **method):
    trainer = {"max_steps": STEPS, "eval_every": STEPS} | (trainer or {})
    return tiny.runs(family, seeds, method={"name": "masked_lora", "alpha": 6.0} | method, trainer=trainer)


# -- what is trained ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "values"),
    [("method.pattern", ["own", "uniform"]), ("method.permutation", [0, 3])],
)
def test_masks_of_a_pack_may_differ(key, values, tmp_path):
    base = {"name": "masked_lora", "pattern": "permuted"}
    name = key.partition(".")[2]
    entries = [{"seed": seed, key: value} for seed, value in enumerate(values)]
    together = tiny.train(tiny.runs(method=base, pack=entries), tmp_path / "pack", torch.float64)
    found = [together.pack.method.summary(replica) for replica in (0, 1)]
    assert found[0].ranks != found[1].ranks
    for seed, value in enumerate(values):
        alone = tiny.train(tiny.runs(seeds=seed, method=base | {name: value}), tmp_path / f"solo-{seed}", torch.float64)
        rows = together.pack.optimizer.rows[seed], alone.pack.optimizer.rows[0]
        torch.testing.assert_close(*(each.detach() for each in rows), rtol=0, atol=1e-9)
        assert found[seed] == alone.pack.method.summary(0)


def test_all_ranks_are_plain_lora(tmp_path):
    """The kept ranks begin as LoRA's of the same seed do, so that with all of them nothing is left to differ."""
    full = dict.fromkeys(tiny.ranks(), 4)
    ours = tiny.train(masked(ranks=full), tmp_path / "masked")
    lora = tiny.runs(method={"name": "lora", "alpha": 6.0}, trainer={"max_steps": STEPS, "eval_every": STEPS})
    assert torch.equal(ours.pack.optimizer.rows, tiny.train(lora, tmp_path / "lora").pack.optimizer.rows)


def test_sizes():
    pack = tiny.pack(masked())
    ranks = tiny.ranks()
    summary = pack.method.summary(0)
    assert summary.ranks == ranks
    long = ("intermediate.dense", "output.dense")
    cost = {n: LONG if n.endswith(long) and "attention" not in n else SQUARE for n in ranks}
    live = sum(ranks[name] * cost[name] for name in ranks)
    counts = parameter_counts(pack, 0)
    assert (counts["live"], counts["trainable"]) == (live, live + counts["head"])


# -- patterns ----------------------------------------------------------------------------------

COSTS = {f"{kind}{i}": cost for i in range(6) for kind, cost in (("q", 64), ("v", 64), ("up", 80), ("down", 80))}
RANKS = {name: (7 * place + 3) % 9 for place, name in enumerate(COSTS)}


def size(ranks):
    return sum(ranks[name] * COSTS[name] for name in ranks)


def test_a_permutation_keeps_the_number_of_weights():
    drawn = [permuted(RANKS, COSTS, 8, seed) for seed in range(200)]
    for ranks in drawn:
        assert size(ranks) == size(RANKS)
        assert list(ranks) == list(RANKS)
        for cost in (64, 80):
            assert sum(r for n, r in ranks.items() if COSTS[n] == cost) == sum(
                r for n, r in RANKS.items() if COSTS[n] == cost
            )
        assert max(ranks.values()) <= 8
    assert permuted(RANKS, COSTS, 8, 5) == drawn[5] != drawn[6]
    for name in RANKS:  # every place is as likely: the mean rank of a matrix is that of its cost, whatever it had
        alike = [n for n in RANKS if COSTS[n] == COSTS[name]]
        expected = sum(RANKS[n] for n in alike) / len(alike)
        assert sum(ranks[name] for ranks in drawn) / len(drawn) == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize("kept", range(0, 9))
def test_a_uniform_rank_has_as_many_weights(kept):
    for shift in range(5):
        ranks = {name: min(8, max(0, kept + (place + shift) % 3 - 1)) for place, name in enumerate(COSTS)}
        even = uniform(ranks, COSTS)
        assert abs(size(even) - size(ranks)) <= 40
        assert max(even.values()) - min(even.values()) <= 1
        assert max(even.values()) <= 8


def test_a_uniform_rank_by_hand():
    assert uniform({"a": 8, "b": 0}, {"a": 10, "b": 10}) == {"a": 4, "b": 4}
    assert uniform({"a": 3, "b": 0}, {"a": 10, "b": 10}) == {"a": 2, "b": 1}
    assert uniform({"a": 0, "b": 0}, {"a": 10, "b": 30}) == {"a": 0, "b": 0}
    assert uniform({"a": 0, "b": 1}, {"a": 10, "b": 30}) == {"a": 1, "b": 1}  # 40 weights for 30: 10 would be further
    names = [f"{layer}.{kind}" for layer in range(6) for kind in range(6)]
    third = uniform({name: 5 if name[0] in "01" else 4 for name in names}, dict.fromkeys(names, 10))
    extra = [name for name in names if third[name] == 5]
    assert len(extra) == 12
    assert {name[0] for name in extra} == set("012345")  # spread over layers
    assert {name[2] for name in extra} == set("012345")  # and kinds


# -- sources -----------------------------------------------------------------------------------

SOURCE = "0123456789ab"


def finished(folder: Path, **changes) -> Path:
    """The record of a finished SoRA run on the tiny backbone; ``changes``: ``config__method__r=3``."""
    made = record(SOURCE)
    made["ranks"] = tiny.ranks()
    made["config"]["method"] = {"name": "sora", "r": 4, "alpha": 6.0, "rslora": False, "targets": None}
    made["config"]["weights"] = {"random": 0}
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        node = made
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    path = folder / "records" / "tiny" / "rte" / f"sora-s0-{SOURCE}.json"
    records.write(path, made, arrays())
    return path


def control(folder: Path, seeds=0, **method) -> RunConfig:
    given = {"name": "masked_lora", "r": 4, "alpha": 6.0, "ranks": None, "source": SOURCE} | method
    (run,) = tiny.runs(seeds=seeds, method=given, paths={"results": str(folder)})
    return run


def method_of(run: RunConfig) -> MaskedLoraConfig:
    assert isinstance(run.method, MaskedLoraConfig)
    return run.method


def named(run: RunConfig) -> str:
    return run_id(run, "0" * 64, {"random": 0})


def test_the_ranks_name_the_run_not_where_they_were_taken_from(tmp_path):
    path = finished(tmp_path)
    by_id = control(tmp_path)
    assert method_of(by_id).ranks == tiny.ranks()
    by_path = control(tmp_path / "elsewhere", source=str(path))
    typed = control(tmp_path / "elsewhere", source="", ranks=tiny.ranks())
    assert method_of(by_path).source == method_of(by_id).source == SOURCE
    assert named(by_id) == named(by_path) == named(typed)
    other = tiny.ranks() | {next(iter(tiny.ranks())): 3}
    permutations = [control(tmp_path, pattern="permuted", permutation=seed) for seed in (0, 1)]
    kinds = [by_id, control(tmp_path, source="", ranks=other), control(tmp_path, pattern="uniform"), *permutations]
    assert len({named(run) for run in kinds}) == len(kinds)
    assert named(control(tmp_path, permutation=7)) == named(by_id)  # without effect


def test_each_run_of_a_pack_may_have_its_own_source(tmp_path):
    made = finished(tmp_path)
    second = json.loads(made.read_text()) | {"run_id": "ab0123456789", "ranks": dict.fromkeys(tiny.ranks(), 2)}
    second["pack"] = {"size": 1, "members": ["ab0123456789"]}
    records.write(made.with_name("sora-s1-ab0123456789.json"), second, arrays())
    entries = [{"seed": 1, "method.source": SOURCE}, {"seed": 2, "method.source": "ab0123456789"}]
    method = {"name": "masked_lora", "r": 4, "alpha": 6.0, "ranks": None}
    pack = tiny.pack(tiny.runs(method=method, pack=entries, paths={"results": str(tmp_path)}))
    assert [pack.method.summary(replica).ranks for replica in (0, 1)] == [tiny.ranks(), second["ranks"]]


def test_a_permutation_follows_the_seed(tmp_path):
    finished(tmp_path)
    assert method_of(control(tmp_path, seeds=11, pattern="permuted")).permutation == 11
    assert method_of(control(tmp_path, seeds=11, pattern="permuted", permutation=2)).permutation == 2
    again = dataclasses.asdict(control(tmp_path, seeds=11, pattern="permuted"))
    written = tiny.build_runs(copy.deepcopy(again))  # config.yaml of a run folder, read where no record is
    assert dataclasses.asdict(written[0]) == again


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"config__backbone__name": "other"}, "run 0123456789ab has backbone=other, this run tiny"),
        ({"config__weights": {"random": 1}}, "run 0123456789ab has backbone.weights={'random': 1}"),
        ({"config__method__r": 8}, "run 0123456789ab has method.r=8, this run 4"),
        ({"config__method__targets": ["query"]}, "has method.targets=['query'], this run null"),
        ({"ranks": {}, "config__method__name": "full"}, "is of method=full, which has no ranks"),
        ({"status": "diverged", "flags__diverged_at": 3}, "run 0123456789ab is diverged"),
    ],
)
def test_a_foreign_source_is_refused(tmp_path, changes, said):
    finished(tmp_path, **changes)
    with pytest.raises(UserError) as refused:
        control(tmp_path)
    assert said in str(refused.value)


def test_an_unfinished_source_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no record of 0123456789ab in .*/records; finish that run first"):
        control(tmp_path)
    with pytest.raises(UserError, match="at that path"):
        control(tmp_path, source=str(tmp_path / "nothing.json"))


def test_other_mistakes(tmp_path):
    finished(tmp_path)
    with pytest.raises(UserError, match=r"whose ranks differ; leave one out"):
        control(tmp_path, ranks=dict.fromkeys(tiny.ranks(), 1))
    with pytest.raises(UserError, match=r"method.ranks.a: got 5, must be from 0 to method.r=4"):
        masked(ranks={"a": 5})
    with pytest.raises(UserError, match=r"method.source: missing"):
        tiny.pack(masked(ranks=None))
    with pytest.raises(UserError, match=r"method.ranks: a is not adapted here"):
        tiny.pack(masked(ranks=tiny.ranks() | {"a": 1}))
    short = dict(list(tiny.ranks().items())[1:])
    with pytest.raises(UserError, match=r"query has no rank; give one rank for each matrix"):
        tiny.pack(masked(ranks=short))
