"""A linear probe: how far the frozen encoder's features alone carry.

Ridge regression for real targets, logistic regression for classes, both scikit-learn's, on pooled features (cls or
mean, as the run's head would take them) that are standardised by the training split. The strength of the penalty is
chosen inside the training split: by leave-one-out error, or by the log-loss of folds that are not shuffled. Nothing is
drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sora.backbones import Backbone, Head
from sora.backbones.head import pooled, span_means
from sora.errors import UserError
from sora.methods.base import Method, Plan
from sora.optim import ParameterGroup
from sora.publish import export

PENALTIES = np.logspace(-2, 6, 17)  # of ridge; half a power of ten apart
STRENGTHS = np.logspace(-5, 1, 13)  # of logistic regression: the inverse of its penalty
FOLDS = 5
ABSENT = -1e4  # logit of a class without a training example: never chosen, and finite in float16
EQUATION = (
    "The pooled vector x of the encoder is read by x W^T + b, with the tensors `out.weight` [C, d] and `out.bias` [C]."
)


class Pool(nn.Module):
    """hidden [n, t, d] -> features [n, (1 + S) d]: the pooled vector and the mean of each marked span."""

    def __init__(self, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, hidden: Tensor, attention_mask: Tensor, spans: Tensor | None = None) -> Tensor:
        x = pooled(hidden, attention_mask, self.pooling)
        return x if spans is None else torch.cat([x, span_means(hidden, spans)], dim=1)


class LinearHead(nn.Module):
    """Features -> logits [n, C]: ``out`` [1, C, (1 + S) d] and ``out_bias`` [1, C], zero until they are solved for."""

    def __init__(
        self, backbone: Backbone, *, outputs: int, policy: str, generators: Sequence[torch.Generator], spans: int = 0
    ) -> None:
        super().__init__()
        self.pool = Pool(backbone.config.pooling)
        self.out = nn.Parameter(torch.zeros(1, outputs, backbone.hidden * (1 + spans)))
        self.out_bias = nn.Parameter(torch.zeros(1, outputs))

    def forward(self, hidden: Tensor, attention_mask: Tensor, spans: Tensor | None = None) -> Tensor:
        x = self.pool(hidden.to(self.out.dtype), attention_mask, spans)
        return nn.functional.linear(x, self.out[0], self.out_bias[0])

    @torch.no_grad()
    def solve(self, features: NDArray[Any], labels: NDArray[Any]) -> None:
        """Fit to features [N, d] and labels [N] of the training split; labels that are no classes are real numbers."""
        real = np.issubdtype(labels.dtype, np.floating)
        weight, bias = ridge(features, labels) if real else logistic(features, labels, self.out.shape[1])
        self.out[0].copy_(torch.from_numpy(weight))
        self.out_bias[0].copy_(torch.from_numpy(bias))

    def export_state(self, replica: int) -> dict[str, Tensor]:
        """Return weight and bias."""
        return {"out.weight": self.out[replica], "out.bias": self.out_bias[replica]}


class Probe(Method):
    """A linear head above the frozen encoder, solved for at once."""

    def attach(self, backbone: Backbone, plan: Plan, generators: Sequence[torch.Generator]) -> None:
        self.plan, self.backbone = plan, backbone

    def make_head(self, backbone: Backbone, **how: Any) -> LinearHead:
        """Return a head on the targets' own scale: ridge is the same on every scale."""
        how.pop("scale", None)
        return LinearHead(backbone, **how)

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    def export(self, replica: int, folder: Path, head: Head) -> None:
        export.write_tensors(folder, {}, self.backbone, head, replica, EQUATION)


def ridge(features: NDArray[Any], targets: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit ridge regression: weight [1, d] and bias [1], for features as they are."""
    from sklearn.linear_model import RidgeCV

    x, mean, scale = _standardised(features)
    model = RidgeCV(alphas=PENALTIES).fit(x, np.asarray(targets, dtype=np.float64))
    return _raw(model.coef_[None, :], np.atleast_1d(model.intercept_), mean, scale)


def logistic(
    features: NDArray[Any], labels: NDArray[Any], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit logistic regression: weight [C, d] and bias [C], for features as they are.

    Raises UserError where a class has too few examples to choose the penalty by.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    present, counts = np.unique(labels, return_counts=True)
    folds = int(min(FOLDS, counts.min()))
    if len(present) < 2 or folds < 2:
        found = ", ".join(f"{count} of class {label}" for label, count in zip(present, counts, strict=True))
        raise UserError(f"method=probe: needs two training examples of each of two classes or more, found {found}")
    x, mean, scale = _standardised(features)
    search = GridSearchCV(
        LogisticRegression(max_iter=5000),
        {"C": STRENGTHS},
        scoring="neg_log_loss",
        cv=StratifiedKFold(folds),
    ).fit(x, labels)
    model = search.best_estimator_
    weight, bias = _raw(model.coef_, model.intercept_, mean, scale)
    if len(present) == 2:  # one score, of the second class
        weight, bias = np.stack([np.zeros_like(weight[0]), weight[0]]), np.array([0.0, bias[0]])
    whole, offset = np.zeros((classes, weight.shape[1])), np.full(classes, ABSENT)
    whole[present], offset[present] = weight, bias
    return whole, offset


def _standardised(features: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Scale features to mean 0 and variance 1, and return what they were; a constant one becomes 0."""
    x = np.asarray(features, dtype=np.float64)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    return (x - mean) / scale, mean, scale


def _raw(weight: Any, bias: Any, mean: Any, scale: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn weight and bias into those for features that are not standardised."""
    return weight / scale, bias - (weight / scale) @ mean
