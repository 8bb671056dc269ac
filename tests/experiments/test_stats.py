"""Statistics against scipy, statsmodels, scikit-learn, closed forms and enumeration."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference
from sklearn.metrics import jaccard_score
from statsmodels.stats.power import TTestPower, normal_power

from experiments import published
from experiments.rank_map import agreement, dead_agreement, dispersion
from experiments.seeds import parts
from experiments.stats import (
    detectable_gap,
    exact_order_p,
    holm,
    probability_of_improvement,
    seeds_gap,
    smallest_sign_p,
    t_interval,
    t_interval_of_average,
)
from tests.experiments import published_notes

SCORES = [0.701, 0.722, 0.688, 0.731, 0.709]


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_t_interval_agrees_with_scipy(n, confidence):
    expected = reference.ttest_1samp(SCORES[:n], 0.0).confidence_interval(confidence)
    assert t_interval(SCORES[:n], confidence) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_one_seed_has_no_interval():
    assert np.isnan(t_interval([0.7])).all()


@pytest.mark.parametrize("values", [[0.7] * 3, [0.1] * 6, [1 / 3, 1 / 3 + 1e-15], [-1.0, -1.0]])
def test_seeds_that_agree_have_no_interval(values):
    """Also where they are not equal to the last digit, as sums in another order are."""
    assert np.isnan(t_interval(values)).all()


@pytest.mark.parametrize(("seeds", "values"), [(1, 3), (2, 3), (3, 2)])
def test_the_exact_p_of_equal_orders_is_the_share_of_all_arrangements(seeds, values):
    """Every seed's values in every order: how many of these have a rank correlation of -1 in each seed."""
    orders = list(itertools.permutations(range(values)))
    falling = [all(order == orders[-1] for order in each) for each in itertools.product(orders, repeat=seeds)]
    assert exact_order_p(seeds, values) == pytest.approx(np.mean(falling))


def test_the_interval_of_an_average_agrees_with_scipy():
    """Two samples, one negated: their average is half the difference, whose interval is Welch's."""
    first, second = SCORES, [0.6, 0.75, 0.64]
    expected = reference.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    low, high = t_interval_of_average([first, [-each for each in second]])
    assert (2 * low, 2 * high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert t_interval_of_average([SCORES]) == pytest.approx(t_interval(SCORES), rel=1e-12)
    assert np.isnan(t_interval_of_average([SCORES, [0.5]])).all()
    assert np.isnan(t_interval_of_average([[0.5, 0.5], [0.7, 0.7]])).all()


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_gap_that_seeds_can_show_agrees_with_statsmodels(n):
    values = np.random.default_rng(n).normal(size=n)
    effect = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8, alternative="two-sided")
    assert seeds_gap([values]) == pytest.approx(effect * values.std(ddof=1), rel=1e-3)
    assert seeds_gap([values]) > detectable_gap(values.std(ddof=1) / math.sqrt(n))


def test_seeds_that_agree_or_are_alone_have_no_gap_to_show():
    assert math.isnan(seeds_gap([[0.5, 0.5]]))
    assert math.isnan(seeds_gap([[0.5], [0.1, 0.2]]))


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


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2]) == pytest.approx([0.2])


def test_agreement_of_ranks_by_hand_and_by_scipy():
    table = pd.DataFrame(np.random.default_rng(2).integers(0, 8, (3, 36)), index=list("abc"))
    pairs = [reference.spearmanr(table.loc[a], table.loc[b]).statistic for a, b in ("ab", "ac", "bc")]
    assert agreement(table) == pytest.approx(np.mean(pairs))
    assert math.isnan(agreement(pd.DataFrame([[1, 1, 1], [1, 2, 3]]))), "one rank everywhere correlates with nothing"


def test_dispersion_of_ranks_is_that_of_the_published_maps_and_of_chance():
    """One map of the paper by its note; sums over runs by simulation, with and without modules that all runs prefer."""
    (qqp,) = published.ranks().groupby("task").get_group("qqp").filter(like="layer_").to_numpy().reshape(1, -1)
    ratio, p = dispersion(pd.DataFrame([qqp]), 8)
    assert f"| QQP | 95.1 % | {ratio:.2f} | {f'{p:.3f}'.lstrip('0')} |" in published_notes.dispersion()
    chance = np.random.default_rng(5)
    drawn = chance.binomial(8, np.array([[0.5], [0.7], [0.9]]), (2000, 3, 36))
    found = np.array([dispersion(pd.DataFrame(each), 8) for each in drawn])
    assert found[:, 0].mean() == pytest.approx(1, abs=0.02)
    assert (found[:, 1] < 0.05).mean() == pytest.approx(0.05, abs=0.015)
    preferred = chance.binomial(8, np.where(np.arange(36) < 6, 0.9, 0.6), (3, 36))
    assert dispersion(pd.DataFrame(preferred), 8)[1] < 0.01
    assert np.isnan(dispersion(pd.DataFrame(np.full((3, 36), 8)), 8)).all(), "nothing was cut"


def test_agreement_on_dead_modules_agrees_with_scikit_learn():
    table = pd.DataFrame(np.random.default_rng(3).random((2, 40)) < 0.6).astype(int)
    assert dead_agreement(table) == pytest.approx(jaccard_score(table.loc[0] == 0, table.loc[1] == 0))


def test_parts_of_the_variance_by_hand():
    """Two by two: rows 2 apart, columns 4 apart, and an interaction of 1 in each corner."""
    scores = pd.DataFrame([[1.0, 3.0], [1.0, 7.0]])
    row, column, rest = 4.0, 16.0, 4.0  # mean squares: 2 (2/2)^2 2, 2 (4/2)^2 2, 4 1^2
    found = parts(scores)
    assert found["SD init"] == pytest.approx(0.0, abs=1e-6)
    assert found["SD data"] == pytest.approx(math.sqrt((column - rest) / 2))
    assert found["SD rest"] == pytest.approx(2.0)
    assert found["p init"] == pytest.approx(reference.f.sf(row / rest, 1, 1))
    assert all(math.isnan(value) for value in parts(scores.iloc[:1]).values())


def test_a_grid_that_is_not_square_divides_rows_by_its_columns_and_columns_by_its_rows():
    """Two by three, the rows 6 apart and nothing else: their effect has the SD of 0 and 6."""
    scores = pd.DataFrame([[0.0, 0.0, 0.0], [6.0, 6.0, 6.0]])
    apart = math.sqrt(18)  # (3^2 + 3^2) / (2 - 1)
    assert [parts(scores)[name] for name in ("SD init", "SD data")] == pytest.approx([apart, 0], abs=1e-6)
    assert [parts(scores.T)[name] for name in ("SD init", "SD data")] == pytest.approx([0, apart], abs=1e-6)
