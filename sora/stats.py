"""Means, intervals, tests and agreement over seeds (numpy and scipy only); over seeds and items: sora/bootstrap.py.

Scores are on the 0-1 scale of the records. Two kinds of chance meet in a table cell: the seed
(initialisation, data order) and the finite test set. A t interval over seeds covers the first only, a Wilson
interval the second only; the two-way bootstrap covers both, and five seeds on the same 139 items do not
shrink the second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A two-sided confidence interval, both ends included."""

    low: float
    high: float


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
    check_confidence(confidence)
    x = _vector(values)
    if x.size < 2:
        return None
    centre = float(x.mean())
    reach = float(special.stdtrit(x.size - 1, (1 + confidence) / 2)) * sample_sd(x) / math.sqrt(x.size)
    return Interval(centre - reach, centre + reach)


def t_interval_of_average(samples: Sequence[ArrayLike], confidence: float = 0.95) -> Interval | None:
    """Interval for the average of the means of independent samples; None where one has a single value.

    With the means m_i of n_i values, v_i = s_i^2 / n_i and K samples::

        mean(m) +- t_{f, (1+c)/2} * sqrt(sum(v)) / K,    f = sum(v)^2 / sum(v_i^2 / (n_i - 1))

    Welch (1947), "The Generalization of 'Student's' Problem when Several Different Population Variances are
    Involved", Biometrika 34(1-2). Of one sample it is :func:`t_interval`.
    """
    check_confidence(confidence)
    found = _average(samples)
    if found is None:
        return None
    reach = float(special.stdtrit(found.freedom, (1 + confidence) / 2)) * found.error if found.error else 0.0
    return Interval(found.mean - reach, found.mean + reach)


class _Average(NamedTuple):
    mean: float
    error: float  # standard error
    freedom: float  # degrees of freedom of the error, 0 where there is none


def _average(samples: Sequence[ArrayLike]) -> _Average | None:
    """Welch's, of the average of the means of independent samples; None where one has a single value."""
    values = [_vector(each) for each in samples]
    if not values or any(each.size < 2 for each in values):
        return None
    centre = mean([float(each.mean()) for each in values])
    parts = np.array([sample_sd(each) ** 2 / each.size for each in values])
    if not parts.any():
        return _Average(centre, 0.0, 0.0)
    freedom = parts.sum() ** 2 / sum(v * v / (each.size - 1) for v, each in zip(parts, values, strict=True))
    return _Average(centre, math.sqrt(parts.sum()) / len(values), float(freedom))


def detectable_gap(standard_error: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The true difference that a two-sided test of level ``alpha`` would find with probability ``power``.

    ``(z_{1 - alpha/2} + z_{power}) * SE`` with the standard error SE of the difference: 2.80 SE by default, the usual
    approximation that leaves out the far tail. A smaller gap may be real, but this comparison is too small to show it.
    """
    return float(special.ndtri(1 - alpha / 2) + special.ndtri(power)) * standard_error


def seeds_gap(samples: Sequence[ArrayLike], alpha: float = 0.05, power: float = 0.8) -> float:
    """The true average of the samples' means that a t test over seeds would find with probability ``power``.

    SE and degrees of freedom are those of :func:`t_interval_of_average`; SE is multiplied with the noncentrality at
    which the noncentral t exceeds the critical value so often, the far tail left out: 4.3 standard errors and more
    with three seeds, where :func:`detectable_gap` has 2.8. NaN where a sample has one value.
    """
    found = _average(samples)
    if found is None or found.freedom <= 0:
        return math.nan if found is None else 0.0
    critical = float(special.stdtrit(found.freedom, 1 - alpha / 2))
    return found.error * float(special.nctdtrinc(found.freedom, 1 - power, critical))


def holm(p_values: ArrayLike) -> list[float]:
    """Holm's adjusted p-values, in the order given: below alpha = rejected at family-wise error rate alpha.

    With the m values sorted, ``p~_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))``. Holm (1979), "A Simple Sequentially
    Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6(2). Needs no independence.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.size == 0:
        return []
    if not (np.isfinite(p).all() and (p >= 0).all() and (p <= 1).all()):
        raise ValueError("p-values lie between 0 and 1")
    order = np.argsort(p, kind="stable")
    adjusted = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    result = np.empty_like(adjusted)
    result[order] = adjusted
    return [float(each) for each in result]


def smallest_sign_p(seeds: int) -> float:
    """The smallest two-sided p that an exact sign-flip test on ``seeds`` paired differences can give: ``2^(1 - n)``.

    0.25 for three seeds and 0.0625 for five: seeds alone cannot reach 0.05 before there are six of them.
    """
    return min(1.0, 2.0 ** (1 - seeds))


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> float:
    """``P(A > B) + P(A = B) / 2`` for one score of each drawn at random; 0.5 = no tendency.

    The Mann-Whitney U divided by ``n_a n_b``. Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the
    Statistical Precipice", NeurIPS.
    """
    x, y = _vector(a)[:, None], _vector(b)[None, :]
    return float(np.mean((x > y) + 0.5 * (x == y)))


def expected_maximum(values: ArrayLike, trials: int) -> float:
    """Expected best of ``trials`` scores drawn from ``values`` with replacement.

    With the N values sorted, ``sum_i v_(i) [(i / N)^n - ((i - 1) / N)^n]``. Dodge et al. (2019), "Show Your Work",
    EMNLP, eq. 7. As an estimate for new trials it is biased downwards, more so the nearer n comes to N (Tang et al.
    (2020), "Showing Your Work Doesn't Always Work", ACL).
    """
    return float(np.sum(np.sort(_vector(values)) * best_of(len(_vector(values)), trials)))


def best_of(count: int, trials: int) -> Floats:
    """[N]: the probability that the i-th smallest of N values is the best of n draws with replacement.

    Worked out in fractions: powers of floats differ in the last bit between processors, and published files must not.
    """
    if trials < 1:
        raise ValueError(f"trials={trials}: at least 1")
    steps = [Fraction(i, count) ** trials for i in range(count + 1)]
    return np.array([float(after - before) for before, after in pairwise(steps)])


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation, mean ranks for ties; NaN where either side is constant."""
    x, y = _ranked(_vector(a)), _ranked(_vector(b))
    if x.size != y.size:
        raise ValueError(f"{x.size} and {y.size} values: need as many of both")
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else math.nan


def jaccard(a: Iterable[object], b: Iterable[object]) -> float:
    """Size of the intersection over that of the union; NaN for two empty sets."""
    first, second = set(a), set(b)
    union = len(first | second)
    return len(first & second) / union if union else math.nan


class Component(NamedTuple):
    """What one factor of a two-way layout contributes."""

    variance: float  # of the factor's effects; 0 where the estimate is negative
    f: float  # its mean square over that of the rest
    p: float  # of the F test; NaN where the rest is 0


def two_way(scores: ArrayLike) -> tuple[Component, Component, float]:
    """Variance of rows, of columns, and of the rest, in a layout with one score per place.

    ``scores`` [I, J], I, J >= 2: score = mean + row effect + column effect + rest. With the mean squares of the
    analysis of variance, ``var_rows = (MS_rows - MS_rest) / J`` and likewise for columns; interaction cannot be told
    from noise here, and both are the rest. Returns rows, columns, variance of the rest.
    """
    x = matrix(scores, "scores")
    rows, columns = x.shape
    if min(rows, columns) < 2:
        raise ValueError(f"scores {x.shape}: needs at least two rows and two columns")
    by_row, by_column = x.mean(axis=1), x.mean(axis=0)
    rest = x - by_row[:, None] - by_column[None, :] + x.mean()
    freedom = (rows - 1) * (columns - 1)
    ms_rest = float((rest**2).sum()) / freedom
    found = []
    for means, repeats, n in ((by_row, columns, rows), (by_column, rows, columns)):
        ms = repeats * float(means.var(ddof=1))
        f = ms / ms_rest if ms_rest > 0 else math.nan
        p = float(special.fdtrc(n - 1, freedom, f)) if ms_rest > 0 else math.nan
        found.append(Component(max(0.0, (ms - ms_rest) / repeats), f, p))
    return found[0], found[1], ms_rest


def _ranked(x: Floats) -> Floats:
    """1-based ranks, the mean rank for ties."""
    _, place, count = np.unique(x, return_inverse=True, return_counts=True)
    last: Floats = np.cumsum(count).astype(np.float64)
    ranks: Floats = (last - (count - 1) / 2)[place]
    return ranks


def _vector(values: ArrayLike) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"needs a non-empty sequence of numbers, got shape {x.shape}")
    return x


def matrix(values: ArrayLike, name: str) -> Floats:
    """[rows, columns] of finite numbers, at least one. Raises ValueError that names it otherwise."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or x.size == 0:
        raise ValueError(f"{name} needs the shape [seeds, items], got {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{name} holds a score that is not finite")
    return x


def check_confidence(confidence: float) -> None:
    """Raises ValueError unless 0 < confidence < 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: between 0 and 1")
