"""Stopped at any checkpoint and continued, a run ends in the same bits."""

import json

import pytest
import torch

from sora.errors import UserError
from sora.tracking import Tracker
from sora.training import checkpoint
from sora.training.loop import Loop
from tests import tiny


class Stopped(Exception):
    pass


def stop_at(step):
    def stop(now):
        if now == step:
            raise Stopped

    return stop


def science(loop):
    timeless = [
        {k: v for k, v in vars(p).items() if k not in ("train_s", "eval_s", "resumed_at")} for p in loop.progress
    ]
    return loop.pack.optimizer.rows, loop.best, timeless


def train_with_stops(configs, folder, steps):
    for step in steps:
        with pytest.raises(Stopped):
            tiny.train(configs, folder, after_checkpoint=stop_at(step))
    return tiny.train(configs, folder)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("method", [{"name": "sora"}, {"name": "full"}], ids=["sora-pack", "full"])
def test_bit_exact(family, method, tmp_path):
    """With dropout, a logging window and an evaluation window cut in the middle, twice."""
    seeds = [0, 1] if method["name"] == "sora" else 0
    configs = tiny.runs(
        family,
        seeds,
        backbone={"dropout": None},
        method=method,
        trainer={"eval_every": 6, "log_every": 4, "checkpoint_every": 5},
    )
    whole = tiny.train(configs, tmp_path / "whole")
    again = train_with_stops(configs, tmp_path / "parts", [5, 15])
    assert again.progress[0].resumed_at == [5, 15]
    for a, b in zip(science(whole), science(again), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    names = [f"seed-{run.seed}" for run in configs]
    for name in names:
        lines = (tmp_path / "whole" / name / "metrics.jsonl").read_text()
        assert (tmp_path / "parts" / name / "metrics.jsonl").read_text() == lines
        assert len(lines.splitlines()) == 5 + 4  # train lines at 4..20, evaluations at 6, 12, 18, 20


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    configs = tiny.runs()
    with pytest.raises(Stopped):
        tiny.train(configs, tmp_path, after_checkpoint=stop_at(15))
    newest = tmp_path / "seed-0" / "checkpoint" / "step-00000015.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    assert tiny.train(configs, tmp_path).progress[0].resumed_at == [10]


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    configs = tiny.runs()
    with pytest.raises(Stopped):
        tiny.train(configs, tmp_path, after_checkpoint=stop_at(10))
    head = tmp_path / "seed-0" / "checkpoint" / "step-00000010.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"run_id": "abc"}))
    with pytest.raises(UserError, match=r"step-00000010.json: a checkpoint of run abc, not of seed-0; .*resume=never"):
        tiny.train(configs, tmp_path)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    with pytest.raises(Stopped):
        tiny.train(tiny.runs(), tmp_path, after_checkpoint=stop_at(10))
    with pytest.raises(UserError, match="does not fit this model"):
        tiny.train(tiny.runs(method={"r": 3}), tmp_path)


def test_only_the_newest_two_are_kept_and_other_company_is_noted(tmp_path):
    both = tiny.runs(seeds=[0, 1])
    with pytest.raises(Stopped):
        tiny.train(both, tmp_path, after_checkpoint=stop_at(15))
    assert checkpoint.steps(tmp_path / "seed-0") == [10, 15]
    alone = tiny.train(both[1:], tmp_path)
    assert alone.progress[0].members_changed
    assert not tiny.train(both[:1], tmp_path / "other").progress[0].members_changed


def test_thread_count_is_restored(tmp_path):
    configs = tiny.runs()
    before = torch.get_num_threads()
    with pytest.raises(Stopped):
        tiny.train(configs, tmp_path, after_checkpoint=stop_at(10))
    head = tmp_path / "seed-0" / "checkpoint" / "step-00000010.json"
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

    with pytest.raises(Stopped):
        tiny.train(configs, tmp_path, after_checkpoint=stop_at(5))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(UserError, match=r"step-00000010.*No space left.*make room"):
            tiny.train(configs, tmp_path)
    assert not list((tmp_path / "seed-0" / "checkpoint").glob("*.tmp"))
    assert tiny.train(configs, tmp_path).progress[0].resumed_at == [5]


def test_after_the_last_step_nothing_trains_again(tmp_path):
    configs = tiny.runs()
    first = tiny.train(configs, tmp_path)
    built = tiny.pack(configs)
    folder = tmp_path / "seed-0"
    with Tracker([folder], ["seed 0"], built.total_steps, interactive=False) as tracker:
        loop = Loop(built, tracker, ["seed-0"], [folder])
        assert loop.resume() == 20
        loop.run()
    assert torch.equal(loop.best, first.best)
    assert loop.progress[0].history == first.progress[0].history
