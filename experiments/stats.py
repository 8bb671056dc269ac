"""What scipy and statsmodels do not have of the statistics over seeds: averages of tasks and what a study could show.

Two kinds of chance meet in a table cell: the seed (initialisation, data order) and the finite test set. A t interval
over seeds covers the first only; the two-way bootstrap (experiments/bootstrap.py) covers both, and five seeds on the
same 139 items do not shrink the second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats
from statsmodels.stats.multitest import multipletests

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A two-sided confidence interval, both ends included; NaN where there is none."""

    low: float
    high: float


NONE = Interval(math.nan, math.nan)
SAME = 1e-9  # what sums in another order differ by: values so near are equal


def sd(values: pd.Series) -> float:
    """The population SD of the values that are known; NaN of a single one, which shows no spread."""
    return float(values.std(ddof=0)) if values.count() > 1 else math.nan


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's interval for the mean over seeds (:func:`scipy.stats.t.interval`); NaN for fewer than two values.

    NaN too where all values are equal: their spread of 0 would give an interval without width, as if no further seed
    could differ, which so few of them do not show.

    It says nothing about other test items: all seeds share the same ones. With n = 3 the factor t is 4.30, so the
    interval is wide by right.
    """
    return t_interval_of_average([values], confidence)


def average(samples: Sequence[ArrayLike]) -> tuple[float, float, float] | None:
    """The average of the means of K independent samples, its standard error, and that one's degrees of freedom.

    Welch's (1947, Biometrika 34(1-2)); None where a sample has a single value.

    With the means m_i of n_i values and v_i = s_i^2 / n_i: error = sqrt(sum(v)) / K, freedom = sum(v)^2 / sum(v_i^2 /
    (n_i - 1)), 0 where nothing varies.
    """
    values = [np.asarray(each, dtype=np.float64) for each in samples]
    if not values or any(each.size < 2 for each in values):
        return None
    parts = np.array([each.var(ddof=1) / each.size if np.ptp(each) > SAME else 0.0 for each in values])
    below = sum(v * v / (each.size - 1) for v, each in zip(parts, values, strict=True))
    mean = float(np.mean([each.mean() for each in values]))
    return mean, math.sqrt(parts.sum()) / len(values), parts.sum() ** 2 / below if below else 0.0


def t_interval_of_average(samples: Sequence[ArrayLike], confidence: float = 0.95) -> Interval:
    """Interval for the average of the means of samples, see :func:`average`; NaN as in :func:`t_interval`."""
    found = average(samples)
    if found is None:
        return NONE
    mean, error, freedom = found
    if not freedom:
        return NONE
    return Interval(*map(float, stats.t.interval(confidence, freedom, mean, error)))


def detectable_gap(standard_error: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The true difference that a two-sided test of level ``alpha`` would find with probability ``power``.

    ``(z_{1 - alpha/2} + z_{power}) * SE`` with the standard error SE of the difference: 2.80 SE by default, the usual
    approximation that leaves out the far tail. A smaller gap may be real, but this comparison is too small to show it.
    """
    return float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)) * standard_error


def seeds_gap(samples: Sequence[ArrayLike], alpha: float = 0.05, power: float = 0.8) -> float:
    """The true average of the samples' means that a t test over seeds would find with probability ``power``.

    The standard error of :func:`average` times the noncentrality at which the noncentral t exceeds the critical value
    so often, the far tail aside: 4.3 standard errors and more with three seeds, where :func:`detectable_gap` has 2.8.
    NaN where a sample has one value, or nothing varies.
    """
    found = average(samples)
    if found is None:
        return math.nan
    _, error, freedom = found
    if not freedom:
        return math.nan
    return error * float(special.nctdtrinc(freedom, 1 - power, float(stats.t.ppf(1 - alpha / 2, freedom))))


def smallest_sign_p(seeds: int) -> float:
    """The smallest two-sided p that an exact sign-flip test on ``seeds`` paired differences can give: ``2^(1 - n)``.

    0.25 for three seeds and 0.0625 for five: seeds alone cannot reach 0.05 before there are six of them.
    """
    return min(1.0, 2.0 ** (1 - seeds))


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> float:
    """``P(A > B) + P(A = B) / 2`` for one score of each drawn at random: Mann-Whitney's U over ``n_a n_b``."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return float(stats.mannwhitneyu(x, y, method="asymptotic").statistic) / (x.size * y.size)


def exact_order_p(seeds: int, values: int) -> float:
    """The one-sided p of as many rank correlations of 1 over so many ``values`` as there are ``seeds``, or of -1.

    Exact: without any order one of the ``values!`` arrangements of a seed gives it, so that p is ``values!^-seeds``.
    """
    return float(math.factorial(values)) ** -seeds


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation (scipy); NaN where a side is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(stats.spearmanr(a, b).statistic)


def holm(p_values: Sequence[float]) -> Floats:
    """Holm's adjusted p-values of one family, in the order given (statsmodels); NaN stays, and counts for nothing."""
    found = np.array(p_values, dtype=np.float64)
    if (known := ~np.isnan(found)).any():
        found[known] = multipletests(found[known], method="holm")[1]
    return found
