"""The end of a run: what its last and its selected weights score, and that no split is computed twice for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sora.training import evaluation
from sora.training.loop import Loop
from sora.training.session import final_evaluation
from tests import tiny

SHORT = {"max_steps": 20, "eval_every": 5, "learning_rate": 2e-2}


def counted(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> tuple[list[dict[str, Any]], list[str]]:
    """The final evaluation of ``loop``, and the splits that were computed for it, in order."""
    names = {id(split.examples): name for name, split in loop.pack.splits.items()}
    asked: list[str] = []
    plain = evaluation.predict

    def counting(pack: Any, split: Any, check: Any) -> np.ndarray:
        asked.append(names[id(split.examples)])
        return plain(pack, split, check)

    monkeypatch.setattr(evaluation, "predict", counting)
    found = final_evaluation(loop)
    monkeypatch.undo()
    return found, asked


def by_hand(loop: Loop, weights: torch.Tensor) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """A full evaluation of ``weights``, everything computed."""
    loop.pack.optimizer.rows.copy_(weights)
    return evaluation.evaluate(loop.pack)


def equal_to_the_bit(found: list[dict[str, Any]], loop: Loop, last: torch.Tensor) -> None:
    left_out = {"train_subset"} if loop.trainer.train_subset == "never" else set()
    for which, weights in (("last", last), ("selected", loop.best.clone())):
        metrics, logits = by_hand(loop, weights)
        for replica, result in enumerate(found):
            for name in metrics[replica].keys() - left_out:
                assert result[which][name] == metrics[replica][name]
            if which == "selected":
                for name, values in ((name, logits[name]) for name in logits.keys() - left_out):
                    np.testing.assert_array_equal(result["logits"][name], values[replica])


@pytest.mark.parametrize("stopped", [False, True])
def test_select_is_not_computed_again(stopped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two replicas, selected at different steps, with dropout in training; also after an interruption."""
    configs = tiny.runs(seeds=[0, 3], backbone={"dropout": None}, trainer=SHORT)
    if stopped:
        tiny.stop(configs, tmp_path, 15)
    loop = tiny.train(configs, tmp_path)
    last = loop.pack.optimizer.rows.clone()
    assert not torch.equal(last, loop.best)
    found, asked = counted(loop, monkeypatch)
    assert asked == ["report", "train_subset"] * 2
    for result, progress in zip(found, loop.progress, strict=True):
        steps = {entry["step"]: entry["select"] for entry in progress.history}
        assert result["selected"]["select"] == steps[progress.best_step]
        assert result["last"]["select"] == steps[20]
        assert (result["selected"]["step"], result["last"]["step"]) == (progress.best_step, 20)
    equal_to_the_bit(found, loop, last)


def test_what_a_checkpoint_does_not_say_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has ended, taken up again, has what its selected weights said; an older checkpoint has nothing."""
    configs = tiny.runs(trainer=SHORT)
    tiny.train(configs, tmp_path)
    loop = tiny.train(configs, tmp_path)
    found, asked = counted(loop, monkeypatch)
    assert asked.count("select") == 1
    loop.best_select, loop.last_select = [None], None
    again, asked = counted(loop, monkeypatch)  # the weights are the selected ones by now
    assert asked == ["select", "report", "train_subset"]
    assert again[0]["selected"] == found[0]["selected"]


@pytest.mark.parametrize("shared", [False, True])
def test_equal_weights_and_equal_splits_are_evaluated_once(
    shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last weights are the selected ones; ``shared``: select and report are one split, as with protocol=dev."""
    built = tiny.pack(tiny.runs(trainer=SHORT | {"eval_every": 20}))
    if shared:
        built.splits["report"] = built.splits["select"]
    loop = tiny.finish(built, tmp_path)
    found, asked = counted(loop, monkeypatch)
    assert asked == ["train_subset"] if shared else ["report", "train_subset"]
    assert found[0]["selected"] == found[0]["last"]
    assert found[0]["last"]["select"] == loop.progress[0].history[-1]["select"]
    assert (found[0]["last"]["report"] == found[0]["last"]["select"]) is shared


@pytest.mark.parametrize(("option", "last", "selected"), [("selected", False, True), ("never", False, False)])
def test_train_subset(option: str, last: bool, selected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left out of what is computed and of what is reported."""
    loop = tiny.train(tiny.runs(trainer=SHORT | {"train_subset": option}), tmp_path / "option")
    found, asked = counted(loop, monkeypatch)
    assert asked.count("train_subset") == last + selected
    for which, there in (("last", last), ("selected", selected)):
        assert ("train_subset" in found[0][which]) is there
        assert "report" in found[0][which]
    assert ("train_subset" in found[0]["logits"]) is selected


@pytest.mark.parametrize(("kind", "subset"), [("one_shot", "both"), ("sparsify", "both"), ("sparsify", "never")])
def test_levels_have_measured_both_ends(
    kind: str, subset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Levels are measured on the training subset whatever the option says: memorization is made of it."""
    schedule, settings = {"kind": kind, "levels": [0.1, 0.5], "steps": 4}, SHORT | {"train_subset": subset}
    loop = tiny.train(tiny.runs(seeds=[0, 1], trainer=settings, schedule=schedule), tmp_path)
    assert all("train_subset" in entry for progress in loop.progress for entry in progress.levels)
    last = loop.pack.optimizer.rows.clone()
    found, asked = counted(loop, monkeypatch)
    assert asked == []
    equal_to_the_bit(found, loop, last)


def test_a_diverged_run_says_what_its_weights_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops moving in the middle of the training; its neighbour goes on, through the levels of a schedule."""
    schedule = {"kind": "sparsify", "levels": [1e-2, 2e-2], "steps": 4}
    built = tiny.pack(tiny.runs(seeds=[0, 1], trainer=SHORT, schedule=schedule))
    step = built.optimizer.step

    def breaking(losses: torch.Tensor, *rest: Any) -> torch.Tensor:
        if built.optimizer.updates == 12:
            losses = losses * torch.tensor([float("inf"), 1.0])
        return step(losses, *rest)

    monkeypatch.setattr(built.optimizer, "step", breaking)
    loop = tiny.finish(built, tmp_path)
    assert [progress.diverged_at for progress in loop.progress] == [13, None]
    last = loop.pack.optimizer.rows.clone()
    found, _ = counted(loop, monkeypatch)
    equal_to_the_bit(found, loop, last)
    assert [result["last"]["step"] for result in found] == [12, loop.step]


def test_a_run_that_diverged_has_the_steps_of_its_solo_run(tmp_path: Path) -> None:
    """It diverges before the first evaluation; alone its training ends there, and in a pack with the others."""
    settings = {"clip": 0.0, "eval_every": 5}
    entries = [{"seed": 0}, {"seed": 1, "trainer.learning_rate": 1e30}]
    alone = tiny.train(tiny.runs(trainer=settings, pack=entries[1:]), tmp_path / "alone")
    packed = tiny.train(tiny.runs(trainer=settings, pack=entries), tmp_path / "packed")
    assert (alone.step, packed.step) == (5, 20)
    for loop in (alone, packed):
        result = final_evaluation(loop)[-1]
        assert (result["selected"]["step"], result["last"]["step"]) == (5, 5)
