"""Metrics by hand, by other formulas, and where they are not defined."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.metrics import confusion_matrix

from sora.config import TaskConfig
from sora.errors import UserError
from sora.tasks.metrics import check_metrics, compute_metrics, predict, score
from sora.tasks.spec import CONF, load_task

BINARY = TaskConfig("toy", labels=["0", "1"], metrics=["accuracy", "f1", "matthews"], select_metric="f1_macro")
REAL = TaskConfig("toy", labels=[], metrics=["pearson", "spearman"], select_metric="pearson")
bits = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)
OFFICIAL = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "own")  # own: found in its files


def test_by_hand() -> None:
    # true positives 2, false positives 1, false negatives 1, true negatives 1
    found = score(BINARY, [1, 1, 1, 0, 0], [1, 1, 0, 1, 0])
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["f1"] == pytest.approx(4 / 6)
    assert found["matthews"] == pytest.approx((2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5)
    assert found["f1_macro"] == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert list(found) == ["accuracy", "f1", "matthews", "f1_macro"]


def test_correlations_by_hand() -> None:
    found = score(REAL, [1.0, 2.0, 4.0], [1.0, 3.0, 2.0])
    # deviations (-4/3, -1/3, 5/3) and (-1, 1, 0): covariance 1, variances 42/9 and 2
    assert found["pearson"] == pytest.approx(1 / (42 / 9 * 2) ** 0.5)
    assert found["spearman"] == pytest.approx(0.5)  # 1 - 6 (0 + 1 + 1) / (3 (9 - 1))


@settings(max_examples=20)
@given(bits)
def test_classes_against_the_confusion_matrix(pairs: list[tuple[int, int]]) -> None:
    predicted, gold = np.array(pairs).T
    (tn, fp), (fn, tp) = confusion_matrix(gold, predicted, labels=[0, 1]).astype(float)
    found = score(BINARY, predicted, gold)
    assert found["accuracy"] == pytest.approx((tp + tn) / len(gold))
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp else 0.0)
    square = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    assert found["matthews"] == pytest.approx((tp * tn - fp * fn) / square**0.5 if square else 0.0, abs=1e-12)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=40))
def test_correlations_against_the_moments(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, dtype=float).T

    def moments(a: np.ndarray, b: np.ndarray) -> float:
        a, b = a - a.mean(), b - b.mean()
        norm = np.sqrt((a @ a) * (b @ b))
        return float(a @ b / norm) if norm else 0.0

    found = score(REAL, x, y)
    if np.ptp(x) and np.ptp(y):
        assert found["pearson"] == pytest.approx(moments(x, y), abs=1e-9)
        assert found["spearman"] == pytest.approx(moments(rankdata(x), rankdata(y)), abs=1e-9)
    else:
        assert found == {"pearson": 0.0, "spearman": 0.0}


@pytest.mark.parametrize(
    ("predicted", "gold", "expected"),
    [
        ([0, 0], [0, 1], {"accuracy": 0.5, "f1": 0.0, "matthews": 0.0}),  # one class predicted
        ([0, 1], [1, 1], {"accuracy": 0.5, "f1": 2 / 3, "matthews": 0.0}),  # one class present
        ([0, 0], [0, 0], {"accuracy": 1.0, "f1": 0.0, "matthews": 0.0}),  # nothing positive at all
        ([1], [1], {"accuracy": 1.0, "f1": 1.0, "matthews": 0.0}),
        ([1, 0], [0, 1], {"accuracy": 0.0, "f1": 0.0, "matthews": -1.0}),
    ],
)
def test_degenerate_classes(predicted: list[int], gold: list[int], expected: dict[str, float]) -> None:
    found = score(BINARY, predicted, gold)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    "predicted", [[2.0, 2.0, 2.0], [np.nan, 1.0, 2.0], [np.inf, 1.0, 2.0], [np.nan, np.nan, np.nan]]
)
def test_undefined_correlations_are_zero(predicted: list[float]) -> None:
    assert score(REAL, predicted, [1.0, 2.0, 3.0]) == {"pearson": 0.0, "spearman": 0.0}
    assert score(REAL, [1.0, 2.0, 3.0], [4.0, 4.0, 4.0]) == {"pearson": 0.0, "spearman": 0.0}
    assert score(REAL, [1.0], [4.0]) == {"pearson": 0.0, "spearman": 0.0}
    nearly_constant = 1.0 + np.array([0.0, 1e-16, 2e-16, 1e-15])
    assert -1.0 <= score(REAL, nearly_constant, [1.0, 2.0, 3.0, 4.0])["pearson"] <= 1.0


def test_classes_of_logits() -> None:
    logits = [[0.1, 0.2], [3.0, -1.0], [1.0, 1.0], [np.nan, -5.0], [np.inf, 0.0], [np.nan, np.nan]]
    assert predict(BINARY, logits).tolist() == [1, 0, 0, 1, 1, 0]
    assert predict(REAL, np.array([[0.5], [2.5]], dtype=np.float16)).tolist() == [0.5, 2.5]


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 1)])
def test_logits_of_another_shape_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[N, 2\] expected"):
        compute_metrics(BINARY, np.zeros(shape), np.zeros(4))


@pytest.mark.parametrize(("predicted", "gold"), [([], []), ([0, 1], [0]), ([[0]], [[0]])])
def test_lengths_that_differ_are_an_error(predicted: list[int], gold: list[int]) -> None:
    with pytest.raises(ValueError, match="N > 0"):
        score(BINARY, predicted, gold)


@pytest.mark.parametrize(
    ("name", "key", "value", "says"),
    [
        ("rte", "metrics", ["foo"], "no metric 'foo' for task=rte; there are accuracy, f1_macro, matthews, f1"),
        ("rte", "metrics", [], "task.metrics: no metric ''"),
        ("cb", "select_metric", "f1", "task.select_metric: no metric 'f1' for task=cb; there are accuracy, f1_macro"),
        ("stsb", "select_metric", "accuracy", "no metric 'accuracy' for task=stsb; there are pearson, spearman"),
        ("record", "select_metric", "accuracy", "no metric 'accuracy' for task=record; there are f1, em"),
    ],
)
def test_a_metric_that_a_task_cannot_have_is_refused_before_the_training(
    name: str, key: str, value: object, says: str
) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        check_metrics(dataclasses.replace(load_task(name), **{key: value}))


@pytest.mark.parametrize("name", OFFICIAL)
def test_every_task_can_be_scored_and_its_record_written(name: str) -> None:
    task = load_task(name)
    check_metrics(task)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, task.num_outputs)).astype(np.float32)
    labels = rng.normal(size=20) if task.regression else rng.integers(0, task.num_outputs, 20)
    found = compute_metrics(task, logits, labels, groups=np.arange(20) // 3, credit=rng.random((20, 2)))
    assert set(task.metrics) | {task.select_metric} == set(found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
