"""Intervals and comparisons over seeds and test items (numpy and scipy only).

Scores are on the 0-1 scale of the records. Two kinds of chance meet in a table cell: the seed
(initialisation, data order) and the finite test set. A t interval over seeds covers the first only, a Wilson
interval the second only; the two-way bootstrap covers both, and five seeds on the same 139 items do not
shrink the second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A two-sided confidence interval, both ends included."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of its length, the number after "+-" where the interval is symmetric."""
        return (self.high - self.low) / 2


def mean(values: ArrayLike) -> float:
    """Arithmetic mean, ``sum(x) / n``, of a non-empty sequence."""
    return float(_vector(values).mean())


def population_sd(values: ArrayLike) -> float:
    """Population standard deviation, ``sqrt(sum((x - mean)^2) / n)``; 0 for one value.

    What the paper's tables hold, as far as its small test sets let one tell (results/published/anomalies.md). With
    five seeds it is 0.89 times the sample SD.
    """
    return float(_vector(values).std())


def sample_sd(values: ArrayLike) -> float:
    """Sample standard deviation, ``sqrt(sum((x - mean)^2) / (n - 1))``; NaN for one value, which has none.

    The divisor is ``n - 1`` (Bessel's correction).
    """
    x = _vector(values)
    return float(x.std(ddof=1)) if x.size > 1 else math.nan


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval | None:
    """Interval for the mean over seeds, ``mean +- t_{n-1, (1+c)/2} * s / sqrt(n)``; None for a single value.

    Student (1908), "The Probable Error of a Mean", Biometrika 6(1). Exact when the scores of the seeds are
    independent and normal. It says nothing about other test items: all seeds share the same ones. With n = 3
    the factor t is 4.30, so the interval is wide by right.
    """
    _check_confidence(confidence)
    x = _vector(values)
    if x.size < 2:
        return None
    centre = float(x.mean())
    reach = float(special.stdtrit(x.size - 1, (1 + confidence) / 2)) * sample_sd(x) / math.sqrt(x.size)
    return Interval(centre - reach, centre + reach)


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> Interval:
    """Interval for one accuracy from ``correct`` of ``total`` independent items.

    With p = correct / total, n = total and z the normal quantile of (1 + c) / 2::

        (p + z^2 / 2n  +-  z * sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Wilson (1927), "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22(158).
    Unlike ``p +- z * sqrt(p (1 - p) / n)`` it stays inside [0, 1] and keeps its coverage near 0, near 1 and
    for small n.

    Raises
    ------
    ValueError
        unless ``0 <= correct <= total`` and ``total >= 1``.
    """
    _check_confidence(confidence)
    if not (total >= 1 and 0 <= correct <= total):
        raise ValueError(f"{correct} correct of {total}: needs 0 <= correct <= total and total >= 1")
    z = float(special.ndtri((1 + confidence) / 2))
    p = correct / total
    scale = 1 + z * z / total
    centre = (p + z * z / (2 * total)) / scale
    reach = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / scale
    low = 0.0 if correct == 0 else centre - reach  # exactly 0 and 1 at the ends, which rounding would miss
    high = 1.0 if correct == total else centre + reach
    return Interval(low, high)


@dataclass(frozen=True)
class Difference:
    """Mean of a minus mean of b, with its bootstrap interval."""

    mean: float
    interval: Interval
    standard_error: float  # SD of the resampled means
    seeds: tuple[int, int]  # of a and of b
    items: int
    resamples: int

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval.low > 0 or self.interval.high < 0


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    paired_seeds: bool = True,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Interval for the difference of two mean scores, over seeds and test items at once.

    Parameters
    ----------
    a, b
        [S_a, N] and [S_b, N]: score of every seed on every item (for an accuracy: 1 right, 0 wrong). Column j
        is the same item in both.
    paired_seeds
        row i of both shares its seed (initialisation of the head, data order), so rows are drawn together;
        needs S_a = S_b. False: rows of a and b are drawn apart.
    resamples
        B, bootstrap samples.
    seed
        of the resampling itself: the same call gives the same interval.

    Notes
    -----
    With d = a - b, each resample draws S rows and N columns with replacement, independently of one another,
    and takes the mean of d over the drawn rows x columns: with counts u [S] and v [N], ``u^T d v / (S N)``.
    The interval is made of the (1 - c) / 2 and (1 + c) / 2 quantiles of the B means. Because the same columns
    are drawn for a and b, an item both get right, or both get wrong, adds no noise.

    Sellam et al. (2022), "The MultiBERTs: BERT Reproductions for Robustness Analysis", ICLR (the
    Multi-Bootstrap, with paired and unpaired seeds); Owen (2007), "The pigeonhole bootstrap", Annals of
    Applied Statistics 1(2). If d is a mean plus independent effects of seed, item and their interaction with
    variances s, t and e, the expected variance of the resampled means is ::

        s (S - 1) / S^2  +  t (N - 1) / N^2  +  e (3 - 2/S - 2/N + 1/(S N)) / (S N)

    against a true ``s / S + t / N + e / (S N)``: mildly too large where the interaction dominates, but too
    small by (S - 1) / S in the seeds' part. Below about five seeds read the interval as a lower bound of the
    uncertainty; a single seed has no seeds' part at all.

    Raises
    ------
    ValueError
        for shapes that do not fit, an empty array, a non-finite score, fewer than 1 resample.
    """
    _check_confidence(confidence)
    x, y = _matrix(a, "a"), _matrix(b, "b")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"a has {x.shape[1]} items and b {y.shape[1]}: both need the same items in the same order")
    if paired_seeds and x.shape[0] != y.shape[0]:
        raise ValueError(f"a has {x.shape[0]} seeds and b {y.shape[0]}: they cannot be paired (paired_seeds=False)")
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: at least 1")
    items = x.shape[1]
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    chunk = max(1, 4_000_000 // items)  # counts of one chunk: at most about 32 MB
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        v = _counts(rng, items, size)
        u = _counts(rng, x.shape[0], size)
        if paired_seeds:
            drawn = _weighted_mean(x - y, u, v)
        else:
            drawn = _weighted_mean(x, u, v) - _weighted_mean(y, _counts(rng, y.shape[0], size), v)
        means[start : start + size] = drawn
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Difference(
        mean=float(x.mean() - y.mean()),
        interval=Interval(float(low), float(high)),
        standard_error=float(means.std()),
        seeds=(x.shape[0], y.shape[0]),
        items=items,
        resamples=resamples,
    )


def _counts(rng: np.random.Generator, n: int, size: int) -> Floats:
    """[size, n]: how often each of n things was drawn in n draws with replacement."""
    draws = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
    return np.bincount(draws.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _weighted_mean(scores: Floats, u: Floats, v: Floats) -> Floats:
    """[B] from scores [S, N], seed counts u [B, S], item counts v [B, N]: u^T scores v / (S N)."""
    rows: Floats = v @ scores.T  # [B, S]
    total: Floats = (rows * u).sum(axis=1)
    return total / scores.size


def _vector(values: ArrayLike) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"needs a non-empty sequence of numbers, got shape {x.shape}")
    return x


def _matrix(values: ArrayLike, name: str) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or x.size == 0:
        raise ValueError(f"{name} needs the shape [seeds, items], got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} holds a score that is not finite")
    return x


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: between 0 and 1")
