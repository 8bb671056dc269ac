"""Metrics over the predictions of a whole split, each on a scale where 1 is perfect.

No network and no metric hub: accuracy is a mean, F1 and Matthews come from scikit-learn, the correlations
from scipy. Both are imported when a metric is first computed, since they cost a second.

Degenerate predictions get a number instead of NaN, because a record is JSON and a mean over seeds must exist:

* constant predictions or targets: matthews, pearson and spearman are 0 (no association was shown);
* no positive prediction and no positive label: f1 is 0;
* a logit that is not finite (a diverged replica) is read as minus infinity in a class score; one such value
  among real predictions makes pearson and spearman 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sora.tasks.spec import TaskConfig

Array = NDArray[Any]


def accuracy(predictions: Array, labels: Array) -> float:
    """Share of equal entries; both [N] class indices."""
    return float(np.mean(predictions == labels))


def f1(predictions: Array, labels: Array) -> float:
    """F1 of class 1; both [N] of 0 and 1."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="binary", pos_label=1, zero_division=0))


def f1_macro(predictions: Array, labels: Array) -> float:
    """Unweighted mean of the F1 of each class that occurs among labels or predictions; both [N]."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0))


def matthews(predictions: Array, labels: Array) -> float:
    """Matthews correlation (phi for two classes), -1..1; 0 when either side is constant; both [N]."""
    from sklearn.metrics import matthews_corrcoef

    if _constant(predictions) or _constant(labels):
        return 0.0
    return float(matthews_corrcoef(labels, predictions))


def pearson(predictions: Array, labels: Array) -> float:
    """Pearson correlation, -1..1; 0 when undefined; both [N] real."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, labels)


def spearman(predictions: Array, labels: Array) -> float:
    """Spearman rank correlation with mean ranks for ties, -1..1; 0 when undefined; both [N] real."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, labels)


METRICS: dict[str, Callable[[Array, Array], float]] = {
    function.__name__: function for function in (accuracy, f1, f1_macro, matthews, pearson, spearman)
}


def predict(task: TaskConfig, logits: ArrayLike) -> Array:
    """[N, C] logits -> [N] class indices (ties to the lowest class), or float64 [N] scores for regression.

    Raises ValueError when C is not the task's number of outputs.
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != task.num_outputs:
        raise ValueError(f"{task.name}: logits of shape {values.shape}, [N, {task.num_outputs}] expected")
    if task.regression:
        return values[:, 0]
    return np.argmax(np.where(np.isfinite(values), values, -np.inf), axis=1)


def score(task: TaskConfig, predictions: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Every metric of the task, and the one that selects the checkpoint: [N] predictions against [N] labels.

    Raises ValueError for lengths that differ, no examples, or a metric that does not exist.
    """
    predicted, gold = np.asarray(predictions), np.asarray(labels)
    if predicted.shape != gold.shape or predicted.ndim != 1 or not len(gold):
        raise ValueError(
            f"{task.name}: predictions {predicted.shape} and labels {gold.shape}, both [N] expected, N > 0"
        )
    names = dict.fromkeys([*task.metrics, task.select_metric])
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"{task.name}: no metric {', '.join(unknown)}; there are {', '.join(METRICS)}")
    return {name: METRICS[name](predicted, gold) for name in names}


def compute_metrics(task: TaskConfig, logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Metrics of [N, C] logits against [N] labels: ``{metric: value}``, as ``score`` gives them."""
    return score(task, predict(task, logits), labels)


def _constant(values: Array) -> bool:
    return bool(np.all(values == values[0]))


def _correlation(function: Callable[..., Any], predictions: Array, labels: Array) -> float:
    x, y = np.asarray(predictions, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if len(x) < 2 or not np.all(np.isfinite(x)) or _constant(x) or _constant(y):
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "nearly constant": the value that follows is still the answer
        value = float(function(x, y).statistic)
    return value if np.isfinite(value) else 0.0
