"""What a person reads at the end of a training."""

import dataclasses

import numpy as np
import pytest

from sora.backbones import DropoutKey
from sora.training.evaluation import predict, predicts_one_class
from sora.training.job import differences
from sora.training.logging import summary
from tests import tiny


def test_the_last_line_tells_the_last_evaluation(tmp_path):
    loop = tiny.train(tiny.runs(), tmp_path)
    first, last = (entry["select"]["accuracy"] for entry in loop.progress[0].history)
    assert first != last, "the toy's evaluations do not differ: the line below shows nothing"
    *_, evaluation, end = (tmp_path / "seed-0" / "log.txt").read_text().splitlines()
    assert f"step 20 of 20: {summary({'accuracy': [last]})}; live ranks " in evaluation
    assert summary({"accuracy": [last]}) in end


def test_of_equal_evaluations_the_earliest_is_selected(tmp_path):
    """At a rate that moves nothing all evaluations are equal."""
    (run,) = tiny.runs(method={"name": "lora"}, trainer={"learning_rate": 1e-12, "eval_every": 5})
    (progress,) = tiny.train([run], tmp_path).progress
    scores = [entry["select"]["accuracy"] for entry in progress.history]
    assert len(scores) == 4
    assert len(set(scores)) == 1
    assert progress.best_step == 5


def test_predictions_stand_in_the_order_of_the_split():
    """They are made in order of length, 32 at a time."""
    built = tiny.pack(tiny.runs(seeds=[0, 1]), held=40)
    split = built.splits["select"]
    found = predict(built, split)
    assert found.shape == (2, 40, 2)
    for place in range(0, 40, 3):
        batch, _ = split.batch(np.array([place, place]), built.device)
        alone = built.model(batch).detach().numpy()
        np.testing.assert_allclose(found[:, place], alone, rtol=0, atol=1e-5)


def test_an_evaluation_after_a_training_step_drops_nothing():
    built = tiny.pack(tiny.runs(backbone={"dropout": 0.5}))
    quiet = predict(built, built.splits["select"])
    built.model.backbone.dropout.begin(DropoutKey(built.dropout_seeds, 0))  # as a step leaves it
    batch, _ = built.splits["select"].batch(np.arange(4), built.device)
    assert np.abs(built.model(batch).detach().numpy() - quiet[0, :4]).max() > 1e-3, "nothing was dropped at all"
    np.testing.assert_array_equal(predict(built, built.splits["select"]), quiet)


def test_an_epoch_is_every_example_once(tmp_path):
    """60 examples in batches of 7: eight whole ones and a smaller, nine steps."""
    (run,) = tiny.runs(trainer={"batch_size": 7, "eval_every": 10, "max_steps": 20})
    (progress,) = tiny.train([run], tmp_path).progress
    assert [entry["epoch"] for entry in progress.history] == [round(10 / 9, 4), round(20 / 9, 4)]
    assert progress.examples == 20 * 7 - 2 * 3, "two epochs have their smaller batch"


@pytest.mark.parametrize(
    ("logits", "alike"),
    [([[1.0, 0.0], [2.0, 1.9]], True), ([[1.0, 0.0], [0.0, 1.0]], False), ([[0.0, 0.0], [0.0, 0.0]], True)],
)
def test_one_class_for_every_example_is_noticed(logits, alike):
    (run,) = tiny.runs()
    examples = tiny.data(run.task, held=2).splits["report"]
    assert predicts_one_class(run.task, np.array(logits), examples) is alike


def test_one_value_for_every_example_is_noticed():
    (run,) = tiny.runs(task={"labels": [], "score_range": [0, 5], "metrics": ["pearson"], "select_metric": "pearson"})
    examples = tiny.data(run.task, held=2).splits["report"]
    assert predicts_one_class(run.task, np.array([[1.0], [1.00001]]), examples)
    assert not predicts_one_class(run.task, np.array([[1.0], [1.001]]), examples)


def test_only_what_differs_but_the_seed_is_named() -> None:
    plain = tiny.runs(seeds=[0, 1])
    assert differences(plain) == ["", ""]
    apart = [dataclasses.replace(plain[0], seeds=dataclasses.replace(plain[0].seeds, init=1234567)), plain[0]]
    assert differences(apart) == [" seeds.init 1234567", " seeds.init 0"]
    other = dataclasses.replace(plain[1], method=dataclasses.replace(plain[1].method, threshold=1e-5))
    assert differences([plain[0], other]) == [" threshold 0.001", " threshold 1e-05"]
