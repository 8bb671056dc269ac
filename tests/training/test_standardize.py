"""Regression targets in units of the training split's SD: the same learning whatever the scale, scores on their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from sora.errors import UserError
from sora.training.evaluation import predict
from sora.training.loop import Loop
from sora.training.pack import EncodedSplit, Pack, build_pack, losses_of, notes_of
from tests import tiny
from tests.composing import runs
from tests.publish.test_export import logits_of, plain_model
from tests.typed import SMALL, called

TASK = {
    "name": "toy",
    "benchmark": "synthetic",
    "labels": [],
    "score_range": [-1000, 1000],
    "metrics": ["pearson", "spearman"],
    "select_metric": "pearson",
    "max_length": 32,
}


def pack(
    method: dict[str, Any],
    standardize: bool = True,
    a: float = 1.0,
    b: float = 0.0,
    dtype: torch.dtype = torch.float64,
    **groups: Any,
) -> Pack:
    """The toy regression with the targets y' = a y + b."""
    short = {"max_steps": 10, "eval_every": 5, "checkpoint_every": 100}
    configs = tiny.runs(method=method, task=TASK | {"standardize": standardize}, trainer=short, **groups)
    toy = tiny.data(configs[0].task)
    for name, examples in toy.splits.items():
        toy.splits[name] = replace(examples, labels=(a * examples.labels.astype(np.float64) + b))
    built = build_pack(configs, toy, torch.device("cpu"), dtype=dtype, encode=False)
    for name, examples in toy.splits.items():
        built.splits[name] = EncodedSplit(examples, tiny.Tokens(toy.rows[name], toy.pad))  # type: ignore[attr-defined, arg-type]
    return built


def everything(built: Pack) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of the whole training split."""
    split = built.splits["train"]
    batch, labels = split.batch(np.arange(len(split.examples)), torch.device("cpu"))
    with torch.no_grad():
        return built.model.eval()(batch), labels


def test_without_weights_a_model_says_the_mean_at_a_loss_of_one() -> None:
    """In closed form: the mean squared distance from the mean, in units of the SD, is 1."""
    built = pack({"name": "lora"}, a=3.0, b=7.0)
    with torch.no_grad():
        built.model.head.out.zero_()
    logits, labels = everything(built)
    targets = built.splits["train"].examples.labels
    np.testing.assert_allclose(logits.numpy(), np.full((60, 1), targets.mean()), rtol=1e-12)
    unit = built.model.head.scale[1]
    assert losses_of(logits, labels, 1, unit).item() == pytest.approx(1.0, abs=1e-12)
    assert unit == pytest.approx(np.sqrt(np.mean((targets - targets.mean()) ** 2)), rel=1e-12)


def test_loss_and_gradients_are_those_of_a_plain_model_on_standard_targets() -> None:
    """Against the unscaled model trained on (y - mean) / SD, written out."""
    scaled, plain = pack({"name": "sora"}, a=3.0, b=7.0), pack({"name": "sora"}, standardize=False)
    assert plain.model.head.scale == (0.0, 1.0)
    targets = scaled.splits["train"].examples.labels
    standard = torch.from_numpy((targets - targets.mean()) / targets.std())
    for built in (scaled, plain):
        split = built.splits["train"]
        batch, labels = split.batch(np.arange(60), torch.device("cpu"))
        built.optimizer.zero_grad()
        logits = built.model.eval()(batch)
        if built is scaled:
            losses_of(logits, labels, 1, built.model.head.scale[1]).sum().backward()
        else:
            (logits.squeeze(-1) - standard).square().mean().backward()
    assert plain.optimizer.grads.abs().max() > 1e-3
    torch.testing.assert_close(scaled.optimizer.grads, plain.optimizer.grads, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["sora", "full"])
def test_a_linear_change_of_the_targets_changes_nothing_but_the_scale(method: str, tmp_path: Path) -> None:
    """y' = a y + b, a > 0: the same weights after ten steps, the same scores, and predictions a p + b."""
    a, b = 40.0, -300.0
    loops: list[Loop] = []
    for name, scale in (("one", (1.0, 0.0)), ("other", (a, b))):
        loops.append(tiny.finish(pack({"name": method}, True, *scale), tmp_path / name))
    one, other = loops
    moved = (one.pack.optimizer.rows - pack({"name": method}).optimizer.rows).abs().max()
    assert moved > 1e-3
    torch.testing.assert_close(other.pack.optimizer.rows, one.pack.optimizer.rows, rtol=0, atol=1e-9)
    for mine, theirs in zip(one.progress[0].history, other.progress[0].history, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-9)
        assert mine["select"]["pearson"] == pytest.approx(theirs["select"]["pearson"], abs=1e-9)
    said = [predict(loop.pack, loop.pack.splits["report"]) for loop in loops]
    np.testing.assert_allclose(said[1], a * said[0] + b, rtol=0, atol=1e-6)


def test_what_is_exported_predicts_on_the_original_scale(tmp_path: Path) -> None:
    """In plain peft, whose class knows no scale: it lies in the last layer of the exported head."""
    built = pack({"name": "sora"}, a=20.0, b=300.0, dtype=torch.float32)
    loop = tiny.finish(built, tmp_path / "run")
    expected = predict(built, built.splits["report"])[0]
    built.method.export(0, tmp_path / "adapter", built.model.head)
    model = PeftModel.from_pretrained(plain_model(built.runs[0], classes=1), tmp_path / "adapter").eval()
    got = logits_of(model, built.splits["report"])
    assert 200 < expected.mean() < 400
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)
    assert loop.step == 10


@pytest.mark.parametrize(
    ("scale", "says"),
    [
        ((1.0, 2.0), None),
        ((1.0, 1300.0), "scores have mean 1300 and SD 3.5"),
        ((20.0, 0.0), "and SD 70"),
        ((1e-3, 0.0), "and SD 0.0035"),
    ],
)
def test_a_note_where_scores_are_far_from_what_a_head_says(scale: tuple[float, float], says: str | None) -> None:
    """By the training targets alone: SD 3.5 before they are scaled. Not where nothing is trained by steps."""
    for method, standardize in (("lora", False), ("lora", True), ("probe", False)):
        (run,) = tiny.runs(method={"name": method}, task=TASK | {"standardize": standardize})
        toy = tiny.data(run.task)
        labels = toy.splits["train"].labels
        toy.splits["train"] = replace(toy.splits["train"], labels=labels / labels.std() * 3.5 * scale[0] + scale[1])
        notes = notes_of(run, toy)
        assert len(notes) == (says is not None and method == "lora" and not standardize)
        assert not notes or (says and says in notes[0])


def test_a_dry_run_and_the_log_say_so(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        rows = [f"text {split} {i},{1000.5 + 100 * i}" for i in range(7)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["a,y", *rows]), encoding="utf-8")
    words = [each for each in SMALL if not each.startswith("task")]
    words += ["task=own", "data.files={train: train.csv, validation: dev.csv}", "data.text=a", "data.label=y"]
    says = "note: scores have mean 1300 and SD 200; task.standardize=true trains on (score - mean) / SD"
    assert says in called(tmp_path, *words, "dry_run=true").err
    assert says in called(tmp_path, *words).err
    (log,) = (tmp_path / "runs").glob("*/log.txt")
    assert says in log.read_text(encoding="utf-8")


def test_classes_and_equal_targets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task\.standardize: task=rte has classes.* leave it false"):
        runs(tmp_path, "task=rte", "task.standardize=true")
    with pytest.raises(UserError, match="every training target of task=toy is 2, so they have no SD"):
        pack({"name": "lora"}, a=0.0, b=2.0)
