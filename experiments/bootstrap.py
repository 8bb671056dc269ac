"""The two-way bootstrap: intervals and p-values over seeds and test items at once (numpy only).

Runs of one task are scored on the same items. Each resample draws the N items anew, with replacement and the same for
all runs, and the S seeds anew, the same for all methods that share their seeds; so an item that two methods both get
right, or both get wrong, adds no noise to their difference. Sellam et al. (2022), "The MultiBERTs: BERT Reproductions
for Robustness Analysis", ICLR (the Multi-Bootstrap); Owen (2007), "The pigeonhole bootstrap", Annals of Applied
Statistics 1(2).

A metric that is no mean over items (F1, Matthews, Pearson) is computed anew on each resample, from sums over items
that a resample only weights: true positives, moments.

If the difference of two methods is a mean plus independent effects of seed, item and both, with variances s, t and e,
the expected variance of its resampled mean is ::

    s (S - 1) / S^2  +  t (N - 1) / N^2  +  e (3 - 2/S - 2/N + 1/(S N)) / (S N)

against a true ``s / S + t / N + e / (S N)``: too small by (S - 1) / S in the seeds' part, where the distribution of few
seeds is coarse besides, and up to three times too large where the interaction dominates. docs/statistics.md has the
coverage that follows, measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.stats import NONE, Floats, Interval

METRICS = ("accuracy", "f1", "f1_macro", "matthews", "pearson")  # that are functions of sums over items
DRAWS = 20_000_000  # items drawn for one task at most, as long as that leaves LEAST resamples
LEAST, MOST = 2_000, 10_000


def resamples_for(items: int) -> int:
    """How many resamples a test set of that size gets: 10,000 up to 2,000 items, 2,000 from 10,000 items on."""
    return int(np.clip(DRAWS // items, LEAST, MOST))


# -- metrics as functions of sums over items -------------------------------------------------------------------


def features(
    metric: str, predictions: ArrayLike, labels: ArrayLike, classes: int = 2
) -> NDArray[np.float32 | np.float64]:
    """[N, F]: what is summed over items to compute the metric, of one run.

    predictions, labels: [N] class indices, or real numbers for pearson. Raises ValueError for a metric that is not in
    ``METRICS``.
    """
    x, y = np.asarray(predictions), np.asarray(labels)
    if metric == "accuracy":
        return (x == y).astype(np.float32)[:, None]
    if metric in ("f1", "f1_macro", "matthews"):
        width = 2 if metric == "f1" else classes
        cells = np.arange(width)
        first, second = (x[:, None] == cells).astype(np.float32), (y[:, None] == cells).astype(np.float32)
        return (second[:, :, None] * first[:, None, :]).reshape(len(x), width * width)
    if metric == "pearson":
        u, v = _standard(x), _standard(y)
        return np.stack([u, v, u * u, v * v, u * v], axis=1)
    raise ValueError(f"metric={metric}: no sum over items gives it, only {', '.join(METRICS)}")


def combine(metric: str, sums: NDArray[np.floating], items: int) -> Floats:
    """[..., F] sums over ``items`` items -> [...] scores, with the conventions of sora/tasks/metrics.py."""
    s = np.ascontiguousarray(np.moveaxis(sums, -1, 0), dtype=np.float64)  # [F, ...]: whole planes are fast to add
    if metric == "accuracy":
        return s[0] / items
    if metric == "pearson":
        x, y, xx, yy, xy = s / items
        scale = np.sqrt(np.maximum(xx - x * x, 0) * np.maximum(yy - y * y, 0))
        return _ratio(xy - x * y, scale, 1e-12)
    width = int(np.sqrt(len(s)))
    confusion = s.reshape(width, width, *s.shape[1:])  # label, prediction
    right = s[:: width + 1]
    gold, predicted = confusion.sum(1), confusion.sum(0)
    if metric == "f1":
        return _ratio(2 * right[1], gold[1] + predicted[1])
    if metric == "f1_macro":
        each: Floats = _ratio(2 * right, gold + predicted).mean(0)
        return each
    # Matthews for any number of classes (Gorodkin 2004), phi for two.
    top = right.sum(0) * items - (gold * predicted).sum(0)
    return _ratio(top, np.sqrt((items**2 - (gold**2).sum(0)) * (items**2 - (predicted**2).sum(0))))


def _ratio(top: NDArray[np.floating], bottom: NDArray[np.floating], tiny: float = 0.0) -> Floats:
    """top / bottom, and 0 where bottom is 0."""
    return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=bottom > tiny)


def _standard(x: NDArray[np.floating]) -> Floats:
    """Shifted and scaled, which changes no correlation but keeps the sums exact; zeros where one is not finite."""
    values = np.asarray(x, dtype=np.float64)
    if not np.isfinite(values).all():
        return np.zeros_like(values)
    spread = values.std()
    return (values - values.mean()) / (spread if spread > 0 else 1.0)


# -- resampling ------------------------------------------------------------------------------------------------


def resample(runs: Sequence[NDArray[np.floating]], metric: str, resamples: int, seed: int = 0) -> Floats:
    """[B, R]: the score of each of R runs on B resamples of the items, the same items for all of them.

    runs: R arrays [N, F] as ``features`` gives them. seed: of the resampling itself, so that the same call gives the
    same scores. Raises ValueError when the runs were not scored on the same number of items.
    """
    if len({len(each) for each in runs}) != 1:
        raise ValueError(f"runs of {sorted({len(each) for each in runs})} items: all need the same items")
    items, width = runs[0].shape
    stacked = np.concatenate(runs, axis=1)  # [N, R F]
    rng = np.random.default_rng([seed, 0])
    result = np.empty((resamples, len(runs)), order="F")  # what follows takes whole runs out of it
    chunk = max(1, 2_000_000 // max(items, stacked.shape[1]))  # 16 MB of counts or sums at most
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        counts = _counts(rng, items, size).astype(stacked.dtype)
        sums = (counts @ stacked).reshape(size, len(runs), width)
        result[start : start + size] = combine(metric, sums, items)
    return result


def mean_over_seeds(scores: Floats, seed: int = 0, stream: int = 0) -> Floats:
    """[B, S] scores on resampled items -> [B]: their mean over resampled seeds.

    Calls with the same S and B draw the same seeds: that pairs methods which share their seeds. ``stream``: another
    number draws others, for methods which do not.
    """
    count = scores.shape[1]
    total: Floats = (scores * _seeds_drawn(seed, stream, count, len(scores))).sum(axis=1)
    return total / count


@lru_cache(maxsize=8)  # a table asks for few different ones, once per cell
def _seeds_drawn(seed: int, stream: int, count: int, size: int) -> NDArray[np.float32]:
    drawn = _counts(np.random.default_rng([seed, 1, count, stream]), count, size)
    result = np.asarray(drawn, dtype=np.float32, order="F")
    result.setflags(write=False)
    return result


def percentile(draws: Floats) -> Interval:
    """The 2.5 % and 97.5 % quantiles of the resampled values."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """Mean of a minus mean of b, with its bootstrap interval and p-value."""

    mean: float
    interval: Interval
    p: float  # two-sided, of the hypothesis that the true difference is 0
    standard_error: float  # SD of the resampled means


NOTHING = Difference(math.nan, NONE, math.nan, math.nan)


def summary(mean: float, draws: Floats) -> Difference:
    """What B resampled differences ``draws`` say about the observed one.

    The p-value is twice the smaller share of resampled differences on either side of 0, with one added to both counts:
    ``min(1, 2 (1 + min(#(d <= 0), #(d >= 0))) / (B + 1))``; 1 where no resample differs from 0. It inherits the
    interval's weakness: with few seeds and a large seeds' part it is too small.
    """
    draws = np.where(np.abs(draws) < 1e-12, 0.0, draws)  # equal scores in another order of summation are equal
    side = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return Difference(
        mean=mean,
        interval=percentile(draws),
        p=min(1.0, 2.0 * (1 + side) / (len(draws) + 1)),
        standard_error=float(draws.std()),
    )


def _counts(rng: np.random.Generator, n: int, size: int) -> NDArray[np.integer]:
    """[size, n]: how often each of n things was drawn in n draws with replacement."""
    draws = rng.integers(n, size=(size, n))
    draws += n * np.arange(size)[:, None]
    return np.bincount(draws.ravel(), minlength=size * n).reshape(size, n)
