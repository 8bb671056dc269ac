"""Checkpoints that were damaged after they were written, and batches that are."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from sora.training import checkpoint, loop, pack
from tests import tiny
from tests.training.test_resume import same, science


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def other_kind(path):
    path.write_text("[" * 100_000)


def without_tensors(path):
    """The right hash of a file that is none of tensors."""
    weights = path.with_suffix(".safetensors")
    weights.write_bytes(b"\xff" * 64)
    digest = checkpoint.hashlib.sha256(weights.read_bytes()).hexdigest()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": digest}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return science(tiny.train(tiny.runs(), tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of the same run, stopped after its checkpoint at step 15."""
    folder = tmp_path_factory.mktemp("stopped")
    tiny.stop(tiny.runs(), folder, 15)
    return folder


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        (".safetensors", flip_a_bit),
        (".safetensors", truncate),
        (".json", truncate),
        (".json", other_kind),
        (".json", without_tensors),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(suffix, damage, whole, stopped, tmp_path):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "seed-0" / "checkpoint" / f"step-00000015{suffix}")
    again = tiny.train(tiny.runs(), tmp_path)
    assert again.progress[0].resumed_at == [10]
    assert same(whole, science(again))


def test_a_nan_batch_stops_its_run_alone(tmp_path, monkeypatch):
    """The second of two runs meets a NaN at step 7: its weights stay those of step 6, the first does not notice."""
    configs = tiny.runs(seeds=[0, 1])
    undisturbed = tiny.train(configs, tmp_path / "undisturbed")
    losses_of, rows, calls = pack.losses_of, [], []

    def poisoned(*arguments):
        calls.append(1)
        losses = losses_of(*arguments)
        return losses * torch.tensor([1.0, torch.nan]) if len(calls) == 7 else losses

    update = loop.Loop._update

    def kept(self, indices):
        update(self, indices)
        rows.append(self.pack.optimizer.rows.detach().clone())

    monkeypatch.setattr(pack, "losses_of", poisoned)
    monkeypatch.setattr(loop.Loop, "_update", kept)
    disturbed = tiny.train(configs, tmp_path / "disturbed")
    assert [progress.diverged_at for progress in disturbed.progress] == [None, 7]
    assert torch.equal(disturbed.pack.optimizer.rows[0], undisturbed.pack.optimizer.rows[0])
    assert torch.equal(disturbed.pack.optimizer.rows[1], rows[5][1])
    assert torch.isfinite(disturbed.best).all()
