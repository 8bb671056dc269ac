"""Stopped at any checkpoint and continued, a run ends in the same bits."""

import contextlib
import json
import math
import os
import re
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sora.cluster.signals import SIGNALS, Preempted, Preemption
from sora.errors import UserError
from sora.training import checkpoint, evaluation
from sora.training.loop import Loop
from sora.training.runner import run_pack
from tests import composing, tiny


def science(loop):
    timeless = [
        {k: v for k, v in vars(p).items() if k not in ("train_s", "eval_s", "resumed_at")} for p in loop.progress
    ]
    return loop.pack.optimizer.rows, loop.best, timeless


def same(one, other):
    """Compare what :func:`science` returned, to the bit; NaN equals NaN."""
    *tensors, text = zip(one, other, strict=True)
    return all(torch.equal(*pair) for pair in tensors) and repr(text[0]) == repr(text[1])


def lines_of(folder, configs):
    return [(folder / f"seed-{run.seed}" / "metrics.jsonl").read_bytes() for run in configs]


def train_with_stops(configs, folder, steps):
    for step in steps:
        tiny.stop(configs, folder, step)
    return tiny.train(configs, folder)


@pytest.mark.parametrize(
    ("family", "method"), [*((family, "sora") for family in tiny.FAMILIES), ("bert", "full"), ("bert", "masked_lora")]
)
def test_bit_exact(family, method, tmp_path):
    """With dropout, a logging window and an evaluation window cut in the middle, twice."""
    seeds = [0, 1] if method == "sora" else 0
    configs = tiny.runs(
        family,
        seeds,
        backbone={"dropout": None},
        method={"name": method},
        trainer={"eval_every": 6, "log_every": 4, "checkpoint_every": 5},
    )
    whole = tiny.train(configs, tmp_path / "whole")
    again = train_with_stops(configs, tmp_path / "parts", [5, 15])
    assert again.progress[0].resumed_at == [5, 15]
    assert same(science(whole), science(again))
    lines = lines_of(tmp_path / "whole", configs)
    assert lines_of(tmp_path / "parts", configs) == lines
    assert {each.count(b"\n") for each in lines} == {5 + 4}  # train lines at 4..20, evaluations at 6, 12, 18, 20


def test_a_checkpoint_that_not_all_have_whole_is_written_anew(tmp_path):
    """Seed 1 lost its file of step 15: the pack goes back to 10, and what it writes at 15 counts again for both."""
    configs = tiny.runs(seeds=[0, 1])
    tiny.stop(configs, tmp_path, 15)
    (tmp_path / "seed-1" / "checkpoint" / "step-00000015.safetensors").write_bytes(b"torn")
    tiny.stop(configs, tmp_path, 15)
    assert [checkpoint.steps(tmp_path / name) for name in ("seed-0", "seed-1")] == [[10, 15], [10, 15]]
    assert [progress.resumed_at for progress in tiny.train(configs, tmp_path).progress] == [[10, 15], [10, 15]]


def test_old_checkpoints_do_not_push_new_ones_out(tmp_path):
    """Seed 0 has reached 15 in another pack, seed 1 nothing: they begin together, and their common steps stay."""
    configs = tiny.runs(seeds=[0, 1])
    tiny.stop(configs[:1], tmp_path, 15)
    tiny.stop(configs, tmp_path, 5)
    assert [progress.resumed_at for progress in tiny.train(configs, tmp_path).progress] == [[5], [5]]


def test_a_due_evaluation_and_one_that_was_made_are_two_points(tmp_path, monkeypatch):
    """Seed 0 was stopped in the evaluation of step 6, seed 1 after it: together they go on from before it."""
    monkeypatch.setattr(evaluation, "BATCH", BATCH)
    both = tiny.runs(seeds=[0, 1], trainer={"eval_every": 6, "checkpoint_every": 3})
    with signals_at(monkeypatch, (tiny.Tokens, "collate"), 6 + 2) as preemption, pytest.raises(Preempted):
        tiny.train(both[:1], tmp_path, check=preemption.check)
    tiny.stop(both[1:], tmp_path, 6)
    assert [checkpoint.reached(tmp_path / name) for name in ("seed-0", "seed-1")] == [(6, True), (6, False)]
    for progress in tiny.train(both, tmp_path).progress:
        assert progress.resumed_at == [3]
        assert [entry["step"] for entry in progress.history] == [6, 12, 18, 20]
        assert all(entry["loss"] > 0 for entry in progress.history)


def test_a_run_that_diverged_does_not_send_its_pack_back(tmp_path):
    configs = tiny.runs(
        trainer={"clip": 0.0, "eval_every": 5},
        pack=[{"seed": 0}, {"seed": 1, "trainer.learning_rate": 1e30}],
    )
    whole = tiny.train(configs, tmp_path / "whole")
    assert [progress.diverged_at is not None for progress in whole.progress] == [False, True]
    assert math.isnan(whole.progress[1].history[0]["loss"]), "which JSON does not know"
    shown = [
        line for line in (tmp_path / "whole" / "seed-1" / "log.txt").read_text().splitlines() if " of 20: " in line
    ]
    assert [len(re.findall(" nan", line)) for line in shown] == [1, 3, 3, 3], "what was not measured has no number"
    again = train_with_stops(configs, tmp_path / "parts", [10])
    assert [progress.resumed_at for progress in again.progress] == [[10], [10]]
    assert same(science(whole), science(again))
    assert lines_of(tmp_path / "whole", configs) == lines_of(tmp_path / "parts", configs)


def test_a_checkpoint_of_another_run_or_shape_is_refused(tmp_path):
    tiny.stop(tiny.runs(), tmp_path, 10)
    with pytest.raises(UserError, match="does not fit this model"):
        tiny.train(tiny.runs(method={"r": 3}), tmp_path)
    head = tmp_path / "seed-0" / "checkpoint" / "step-00000010.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"run_id": "abc"}))
    with pytest.raises(UserError, match=r"a checkpoint of run abc in .*, not of seed-0 .*resume=never"):
        tiny.train(tiny.runs(), tmp_path)


def test_only_the_newest_two_are_kept(tmp_path):
    tiny.stop(tiny.runs(), tmp_path, 15)
    assert checkpoint.steps(tmp_path / "seed-0") == [10, 15]
    folder = tmp_path / "seed-0" / "checkpoint"
    (folder / "step-00000020.tmp").write_bytes(b"half")  # of a killed writer
    checkpoint.discard(tmp_path / "seed-0")
    assert list(folder.iterdir()) == []


def test_thread_count_is_restored(tmp_path):
    configs = tiny.runs(trainer={"max_steps": 4, "checkpoint_every": 2})  # two threads may be slow
    before = torch.get_num_threads()
    tiny.stop(configs, tmp_path, 2)
    head = tmp_path / "seed-0" / "checkpoint" / "step-00000002.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"threads": before + 1}))
    try:
        tiny.train(configs, tmp_path)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_a_full_disk_is_one_sentence_and_spoils_nothing(tmp_path, monkeypatch):
    configs = tiny.runs()

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    tiny.stop(configs, tmp_path, 5)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(UserError, match=r"step-00000010.*No space left.*make room"):
            tiny.train(configs, tmp_path)
    assert not list((tmp_path / "seed-0" / "checkpoint").glob("*.tmp"))
    assert tiny.train(configs, tmp_path).progress[0].resumed_at == [5]


def test_a_closed_terminal_stops_a_run_and_nohup_keeps_it():
    with Preemption() as preemption:
        signal.raise_signal(signal.SIGHUP)
    with pytest.raises(Preempted, match="SIGHUP"):
        preemption.check()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Preemption() as preemption:
            signal.raise_signal(signal.SIGHUP)
        preemption.check()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_after_the_last_step_nothing_trains_again(tmp_path):
    configs = tiny.runs()
    first = tiny.train(configs, tmp_path)
    again = tiny.train(configs, tmp_path)
    assert again.progress[0].resumed_at == [again.step] == [20]
    assert torch.equal(again.best, first.best)
    assert again.progress[0].history == first.progress[0].history


@contextlib.contextmanager
def signals_at(monkeypatch, where, number):
    """The process gets USR1 during the ``number``-th call of ``where`` (a function of the loop or an evaluation)."""
    module, name = where
    whole, calls = getattr(module, name), []

    def noticed(*arguments, **keywords):
        calls.append(1)
        if len(calls) == number:
            signal.raise_signal(signal.SIGUSR1)
        return whole(*arguments, **keywords)

    with monkeypatch.context() as patch, Preemption() as preemption:
        patch.setattr(module, name, noticed)
        yield preemption


INTERRUPTED = {
    "seeds": [0, 1],
    "backbone": {"dropout": None},
    "trainer": {"eval_every": 6, "log_every": 3, "checkpoint_every": 5},
}
BATCH = 8  # four batches an evaluation


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "BATCH", BATCH)
        return folder, science(tiny.train(tiny.runs(**INTERRUPTED), folder))


@pytest.mark.parametrize(
    ("where", "number", "step"),
    [
        ((Loop, "_update"), 7, 7),  # between checkpoints
        ((Loop, "_update"), 10, 10),  # where there is a checkpoint anyway
        ((tiny.Tokens, "collate"), 6 + 2, 6),  # the second batch of the evaluation after 6 steps
        ((tiny.Tokens, "collate"), 20 + 3 * 4 + 2, 20),  # the last evaluation
    ],
    ids=["training", "checkpoint", "evaluation", "last-evaluation"],
)
def test_a_signal_leaves_a_checkpoint_of_the_very_step(where, number, step, uninterrupted, tmp_path, monkeypatch):
    """Twice, the second time in what follows at once, and the end is that of the uninterrupted run."""
    monkeypatch.setattr(evaluation, "BATCH", BATCH)
    configs = tiny.runs(**INTERRUPTED)
    with signals_at(monkeypatch, where, number) as preemption, pytest.raises(Preempted) as stop:
        tiny.train(configs, tmp_path, check=preemption.check)
    assert (stop.value.code, stop.value.signal) == (75, signal.SIGUSR1)
    assert checkpoint.steps(tmp_path / "seed-1")[-1] == step
    with signals_at(monkeypatch, (tiny.Tokens, "collate"), 1) as preemption, pytest.raises(Preempted):
        tiny.train(configs, tmp_path, check=preemption.check)
    again = tiny.train(configs, tmp_path)
    folder, whole = uninterrupted
    assert same(whole, science(again))
    assert lines_of(tmp_path, configs) == lines_of(folder, configs)


def test_what_a_continued_run_falls_back_from_stands_in_its_record(tmp_path, monkeypatch):
    """CUDA graphs are asked for only after the interruption, on a machine that has none."""
    monkeypatch.chdir(tmp_path)
    words = (
        *("method=lora", "task=synthetic_pair", "recipe=none", "budget=none", "device=cpu"),
        *("task.sizes={train: 16, validation: 8}", "trainer.max_steps=6", "trainer.batch_size=4"),
    )
    small = ("backbone.weights=random", "backbone.arch.num_hidden_layers=1", "backbone.arch.hidden_size=24")
    runs = composing.runs(tmp_path, *words, *small, backbone="minilm-l6")
    with signals_at(monkeypatch, (Loop, "_update"), 3), pytest.raises(Preempted):
        run_pack(runs, "python run.py")
    again = [replace(run, trainer=replace(run.trainer, cuda_graphs=True)) for run in runs]
    (record,) = run_pack(again, "python run.py")
    assert record["provenance"]["resumed_at"] == [3]
    (told,) = record["flags"]["fallbacks"]
    assert told.startswith("cuda graphs: ")


def test_a_signal_loses_no_time(tmp_path, monkeypatch):
    """By a clock on which a step takes a second, a batch of an evaluation a hundredth, and nothing else any time."""
    monkeypatch.setattr(evaluation, "BATCH", BATCH)
    now = [0.0]
    monkeypatch.setattr("sora.training.loop.time", SimpleNamespace(perf_counter=lambda: now[0]))
    update, collate = Loop._update, tiny.Tokens.collate

    def step(loop, indices):
        now[0] += 1
        update(loop, indices)
        now[0] -= 0.01  # the batch of the step

    def batch(tokens, indices):
        now[0] += 0.01
        return collate(tokens, indices)

    monkeypatch.setattr(Loop, "_update", step)
    monkeypatch.setattr(tiny.Tokens, "collate", batch)
    configs = tiny.runs(**INTERRUPTED)
    for where, number in (((tiny.Tokens, "collate"), 6 + 2), ((Loop, "_update"), 4)):
        with signals_at(monkeypatch, where, number) as preemption, pytest.raises(Preempted):
            tiny.train(configs, tmp_path, check=preemption.check)
    for progress in tiny.train(configs, tmp_path).progress:
        assert progress.train_s == pytest.approx(20)
        assert progress.eval_s == pytest.approx(4 * 4 * 0.01 + 0.02)  # two batches were broken off


def test_killed_after_a_postponed_evaluation_it_is_logged_once(tmp_path, monkeypatch):
    configs = tiny.runs(trainer={"eval_every": 6, "checkpoint_every": 50})
    monkeypatch.setattr(evaluation, "BATCH", BATCH)
    with signals_at(monkeypatch, (tiny.Tokens, "collate"), 6 + 2) as preemption, pytest.raises(Preempted):
        tiny.train(configs, tmp_path, check=preemption.check)

    def killed(loop, again=False):
        raise tiny.Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "save", killed)
        with pytest.raises(tiny.Stopped):
            tiny.train(configs, tmp_path)
    tiny.train(configs, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "seed-0" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [6, 12, 18, 20]


def test_a_pack_that_had_all_diverged_does_not_go_on_after_its_last_checkpoint(tmp_path, monkeypatch):
    configs = tiny.runs(trainer={"eval_every": 5, "checkpoint_every": 5, "learning_rate": 1e30, "clip": 0.0})
    whole = tiny.train(configs, tmp_path / "whole")
    assert whole.step < 20, "the run was to diverge"
    tiny.stop(configs, tmp_path / "parts", whole.step)
    assert tiny.train(configs, tmp_path / "parts").step == whole.step


def test_the_signals_do_afterwards_what_they_did_before():
    before = {each: signal.getsignal(each) for each in SIGNALS}
    with Preemption() as preemption:
        preemption.check()
        for each in SIGNALS:
            os.kill(os.getpid(), each)
            assert preemption.signal is each
    assert {each: signal.getsignal(each) for each in SIGNALS} == before
