"""Statistics against scipy, statsmodels, scikit-learn, closed forms and enumeration."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as formula
from scipy import stats as reference
from sklearn.metrics import jaccard_score
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower, normal_power

from sora.stats import (
    best_of,
    detectable_gap,
    expected_maximum,
    holm,
    jaccard,
    mean,
    population_sd,
    probability_of_improvement,
    sample_sd,
    seeds_gap,
    smallest_sign_p,
    spearman,
    t_interval,
    t_interval_of_average,
    two_way,
)

SCORES = [0.701, 0.722, 0.688, 0.731, 0.709]


def test_mean_and_sd_by_hand():
    assert mean([1.0, 2.0, 6.0]) == 3.0
    assert sample_sd([1.0, 2.0, 6.0]) == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert population_sd([1.0, 2.0, 6.0]) == pytest.approx(math.sqrt((4 + 1 + 9) / 3))
    assert population_sd([1.0]) == 0.0
    assert math.isnan(sample_sd([1.0]))
    with pytest.raises(ValueError, match="non-empty"):
        mean([])


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_t_interval_agrees_with_scipy(n, confidence):
    expected = reference.ttest_1samp(SCORES[:n], 0.0).confidence_interval(confidence)
    assert t_interval(SCORES[:n], confidence) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_t_interval_of_three_seeds_uses_the_printed_quantile():
    low, high = t_interval([0.1, 0.2, 0.3])
    assert (high - low) / 2 == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)  # any table of t, 2 df, 97.5 %


def test_one_seed_has_no_interval():
    assert t_interval([0.7]) is None


def test_the_interval_of_an_average_agrees_with_scipy():
    """Two samples, one negated: their average is half the difference, whose interval is Welch's."""
    first, second = SCORES, [0.6, 0.75, 0.64]
    expected = reference.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    low, high = t_interval_of_average([first, [-each for each in second]])
    assert (2 * low, 2 * high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert t_interval_of_average([SCORES]) == pytest.approx(t_interval(SCORES), rel=1e-12)
    assert t_interval_of_average([SCORES, [0.5]]) is None
    assert t_interval_of_average([[0.5, 0.5], [0.7, 0.7]]) == pytest.approx((0.6, 0.6))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_gap_that_seeds_can_show_agrees_with_statsmodels(n):
    values = np.random.default_rng(n).normal(size=n)
    effect = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8, alternative="two-sided")
    assert seeds_gap([values]) == pytest.approx(effect * values.std(ddof=1), rel=1e-3)
    assert seeds_gap([values]) > detectable_gap(values.std(ddof=1) / math.sqrt(n))


def test_seeds_that_agree_or_are_alone_have_no_gap_to_show():
    assert seeds_gap([[0.5, 0.5]]) == 0.0
    assert math.isnan(seeds_gap([[0.5], [0.1, 0.2]]))


def test_t_interval_covers_at_its_nominal_rate():
    rng = np.random.default_rng(1)
    hits = sum(low <= 0.7 <= high for low, high in (t_interval(rng.normal(0.7, 0.02, 3)) for _ in range(4000)))
    assert hits / 4000 == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


@pytest.mark.parametrize("seed", range(5))
def test_holm_agrees_with_statsmodels(seed):
    rng = np.random.default_rng(seed)
    p = np.round(rng.random(seed * 3 + 1) ** 3, 2)  # rounded, so that there are ties
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist())


def test_holm_by_hand_and_at_the_ends():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.5, float("nan")])


def test_smallest_sign_p_is_that_of_the_exact_test():
    for n in (3, 5, 6):
        exact = reference.permutation_test(
            (np.arange(1.0, n + 1), np.zeros(n)), lambda x, y: np.mean(x - y), permutation_type="samples"
        )
        assert smallest_sign_p(n) == pytest.approx(exact.pvalue)
    assert smallest_sign_p(5) > 0.05 > smallest_sign_p(6)


def test_probability_of_improvement_is_mann_whitneys_u():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 6, 7), rng.integers(0, 6, 5)  # with ties
    u = reference.mannwhitneyu(a, b).statistic
    assert probability_of_improvement(a, b) == pytest.approx(u / 35)
    assert probability_of_improvement([2.0], [1.0]) == 1.0
    assert probability_of_improvement([1.0], [1.0]) == 0.5


def test_detectable_gap_has_the_power_it_names():
    gap = detectable_gap(2.0)
    assert gap == pytest.approx(2 * (1.959964 + 0.841621), rel=1e-6)  # any table of the normal distribution
    assert normal_power(gap / 2.0, 1, 0.05) == pytest.approx(0.8, abs=1e-4)
    # RTE's half: 139 items, two models that disagree on 6 % of them: 5.8 points
    assert detectable_gap(100 * math.sqrt(0.06 / 139)) == pytest.approx(5.8, abs=0.05)


@pytest.mark.parametrize("trials", [1, 2, 3, 5])
def test_expected_maximum_is_the_mean_over_all_draws(trials):
    values = [0.3, 0.7, 0.5, 0.7]
    draws = itertools.product(values, repeat=trials)
    assert expected_maximum(values, trials) == pytest.approx(np.mean([max(each) for each in draws]))


def test_best_of_is_a_distribution():
    assert best_of(7, 3).sum() == pytest.approx(1.0)
    assert best_of(4, 1).tolist() == pytest.approx([0.25] * 4)
    with pytest.raises(ValueError, match="at least 1"):
        best_of(4, 0)


def test_spearman_agrees_with_scipy():
    rng = np.random.default_rng(2)
    for _ in range(20):
        a, b = rng.integers(0, 8, 36), rng.integers(0, 8, 36)
        assert spearman(a, b) == pytest.approx(reference.spearmanr(a, b).statistic)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    with pytest.raises(ValueError, match="as many"):
        spearman([1, 2], [1, 2, 3])


def test_jaccard_agrees_with_scikit_learn():
    rng = np.random.default_rng(3)
    a, b = rng.random(40) < 0.4, rng.random(40) < 0.4
    assert jaccard(np.flatnonzero(a), np.flatnonzero(b)) == pytest.approx(jaccard_score(a, b))
    assert jaccard("ab", "cd") == 0.0
    assert math.isnan(jaccard([], []))


def test_two_way_agrees_with_the_analysis_of_variance_of_statsmodels():
    rng = np.random.default_rng(4)
    scores = rng.normal(70, 1, (4, 1)) + rng.normal(0, 0.5, (1, 5)) + rng.normal(0, 0.3, (4, 5))
    rows, columns, rest = two_way(scores)
    index = np.indices(scores.shape).reshape(2, -1)
    frame = pd.DataFrame({"score": scores.ravel(), "i": index[0], "j": index[1]})
    table = anova_lm(formula.ols("score ~ C(i) + C(j)", data=frame).fit())
    mean_square = table["sum_sq"] / table["df"]
    assert (rows.f, columns.f) == pytest.approx((table["F"]["C(i)"], table["F"]["C(j)"]))
    assert (rows.p, columns.p) == pytest.approx((table["PR(>F)"]["C(i)"], table["PR(>F)"]["C(j)"]))
    assert rest == pytest.approx(mean_square["Residual"])
    assert rows.variance == pytest.approx((mean_square["C(i)"] - rest) / 5)
    assert columns.variance == pytest.approx((mean_square["C(j)"] - rest) / 4)


def test_two_way_recovers_the_variances_on_average():
    rng = np.random.default_rng(5)
    found = []
    for _ in range(2000):
        scores = rng.normal(0, 2, (6, 1)) + rng.normal(0, 1.5, (1, 6)) + rng.normal(0, 1, (6, 6))
        rows, columns, rest = two_way(scores)
        found.append((rows.variance, columns.variance, rest))
    assert np.mean(found, axis=0) == pytest.approx([4.0, 2.25, 1.0], rel=0.06)


def test_two_way_needs_two_of_each():
    with pytest.raises(ValueError, match="at least two rows"):
        two_way([[1.0, 2.0, 3.0]])
