"""Metrics over the predictions of a whole split, each on a scale where 1 is perfect.

No network and no metric hub: accuracy is a mean, F1 and Matthews come from scikit-learn, the correlations
from scipy. Both are imported when a metric is first computed, since they cost a second.

Degenerate predictions get a number instead of NaN, because a record is JSON and a mean over seeds must exist:

* constant predictions or targets: matthews, pearson and spearman are 0 (no association was shown);
* no positive prediction and no positive label: f1 and f1a are 0; so is the part of f1_macro of a class that
  occurs nowhere;
* equal scores: the first class, choice or candidate;
* a logit that is not finite (a diverged replica) is read as minus infinity in a class score; one such value
  among real predictions makes pearson and spearman 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sora.config import TaskConfig
from sora.errors import UserError

Array = NDArray[Any]


@dataclass(frozen=True)
class Scored:
    """Predictions [N] and what they are compared with (``Examples.gold``)."""

    predictions: Array
    labels: Array
    classes: int
    groups: Array | None = None
    credit: Array | None = None

    def need(self, name: str) -> Array:
        """``groups`` or ``credit``. Raises ValueError when it was not given."""
        value: Array | None = getattr(self, name)
        if value is None:
            raise ValueError(f"this metric needs {name} [N] next to the labels")
        return value


def accuracy(s: Scored) -> float:
    """Share of equal classes."""
    return float(np.mean(s.predictions == s.labels))


def f1(s: Scored) -> float:
    """F1 of class 1."""
    from sklearn.metrics import f1_score

    return float(f1_score(s.labels, s.predictions, average="binary", pos_label=1, zero_division=0))


def f1_macro(s: Scored) -> float:
    """Unweighted mean of the F1 of each class, also of one that occurs nowhere."""
    from sklearn.metrics import f1_score

    return float(f1_score(s.labels, s.predictions, average="macro", labels=range(s.classes), zero_division=0))


def exact_match(s: Scored) -> float:
    """Share of the questions (``groups``) all of whose answers are judged right."""
    _, question = np.unique(s.need("groups"), return_inverse=True)
    wrong = np.bincount(question, weights=s.predictions != s.labels)
    return float(np.mean(wrong == 0))


def parity(s: Scored) -> float:
    """Share of the ``groups`` whose predictions all agree."""
    _, group = np.unique(s.need("groups"), return_inverse=True)
    first = s.predictions[np.unique(group, return_index=True)[1]]
    return 1.0 - float(np.mean(np.bincount(group, weights=s.predictions != first[group]) > 0))


def matthews(s: Scored) -> float:
    """Matthews correlation (phi for two classes), -1..1; 0 when either side is constant."""
    from sklearn.metrics import matthews_corrcoef

    if _constant(s.predictions) or _constant(s.labels):
        return 0.0
    return float(matthews_corrcoef(s.labels, s.predictions))


def pearson(s: Scored) -> float:
    """Pearson correlation, -1..1; 0 when undefined."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, s.predictions, s.labels)


def spearman(s: Scored) -> float:
    """Spearman rank correlation with mean ranks for ties, -1..1; 0 when undefined."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, s.predictions, s.labels)


def credited(column: int) -> Callable[[Scored], float]:
    """Mean of a column of ``credit`` over the candidates that were chosen, one a question."""
    return lambda s: float(np.mean(s.need("credit")[s.predictions == 1, column]))


def metrics_of(task: TaskConfig) -> dict[str, Callable[[Scored], float]]:
    """Return the metrics that a task can have, by name."""
    if task.regression:
        return {"pearson": pearson, "spearman": spearman}
    if task.scoring == "candidates":
        return {"f1": credited(0), "em": credited(1)}
    found: dict[str, Callable[[Scored], float]]
    found = {"accuracy": accuracy, "f1_macro": f1_macro, "matthews": matthews}
    if task.num_outputs == 2:
        found["f1"] = f1
    if task.scoring == "answers":
        found |= {"f1a": f1, "em": exact_match}  # f1a: of all answers to all questions
    if task.trained_on:
        found["parity"] = parity  # of a diagnostic set of pairs
    return found


def check_metrics(task: TaskConfig) -> None:
    """Raise UserError, naming the key, for a metric that does not exist or that this task cannot have."""
    fitting = metrics_of(task)
    named = [("task.metrics", name) for name in task.metrics or [""]]
    for key, name in [*named, ("task.select_metric", task.select_metric)]:
        if name not in fitting:
            raise UserError(f"{key}: no metric {name!r} for task={task.name}; there are {', '.join(fitting)}")


def predict(task: TaskConfig, logits: ArrayLike, groups: Array | None = None) -> Array:
    """[N, C] logits -> [N] class indices (ties to the lowest class), or float64 [N] scores for regression.

    With ``scoring: candidates`` the one candidate of each of ``groups`` [N] that is surest to be right (logit 1
    minus logit 0; ties to the first) is 1, the others are 0.

    Raises ValueError when C is not the task's number of outputs, or ``groups`` are missing.
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != task.num_outputs:
        raise ValueError(f"{task.name}: logits of shape {values.shape}, [N, {task.num_outputs}] expected")
    if task.regression:
        return values[:, 0]
    finite = np.where(np.isfinite(values), values, -np.inf)
    if task.scoring != "candidates":
        return np.argmax(finite, axis=1)
    if groups is None:
        raise ValueError(f"{task.name}: candidates are chosen among those of a question, so groups [N] are needed")
    sure = np.where(np.isfinite(values).all(axis=1), values[:, 1] - values[:, 0], -np.inf)
    _, question = np.unique(groups, return_inverse=True)
    order = np.lexsort((np.arange(len(sure)), -sure, question))  # by question, then the surest, then the first
    best = order[np.concatenate([[True], np.diff(question[order]) > 0])]
    chosen = np.zeros(len(sure), dtype=np.int64)
    chosen[best] = 1
    return chosen


def score(
    task: TaskConfig,
    predictions: ArrayLike,
    labels: ArrayLike,
    groups: Array | None = None,
    credit: Array | None = None,
) -> dict[str, float]:
    """Every metric of the task, and the one that selects the checkpoint: [N] predictions against [N] labels.

    ``groups`` [N] and ``credit`` [N, 2] are those of ``Examples``, for the tasks that have them.

    Raises ValueError for lengths that differ, no examples, or a metric that lacks its groups.
    """
    predicted, gold = np.asarray(predictions), np.asarray(labels)
    if predicted.shape != gold.shape or predicted.ndim != 1 or not len(gold):
        raise ValueError(
            f"{task.name}: predictions {predicted.shape} and labels {gold.shape}, both [N] expected, N > 0"
        )
    names = dict.fromkeys([*task.metrics, task.select_metric])
    known = metrics_of(task)
    scored = Scored(predicted, gold, max(2, task.num_outputs), groups, credit)
    return {name: known[name](scored) for name in names}


def compute_metrics(
    task: TaskConfig,
    logits: ArrayLike,
    labels: ArrayLike,
    groups: Array | None = None,
    credit: Array | None = None,
) -> dict[str, float]:
    """Metrics of [N, C] logits: ``{metric: value}``, as ``score`` gives them; the rest is ``Examples.gold``."""
    return score(task, predict(task, logits, groups), labels, groups, credit)


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
