"""Statistics against scipy, closed forms and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from sora.stats import mean, paired_bootstrap, sample_sd, t_interval, wilson_interval

SCORES = [0.701, 0.722, 0.688, 0.731, 0.709]


def test_mean_and_sd_by_hand():
    assert mean([1.0, 2.0, 6.0]) == 3.0
    assert sample_sd([1.0, 2.0, 6.0]) == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
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


def test_t_interval_covers_at_its_nominal_rate():
    rng = np.random.default_rng(1)
    hits = sum(low <= 0.7 <= high for low, high in (t_interval(rng.normal(0.7, 0.02, 3)) for _ in range(4000)))
    assert hits / 4000 == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


@given(
    st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.sampled_from([0.8, 0.95, 0.99]),
)
def test_wilson_agrees_with_scipy(counts, confidence):
    correct, total = counts
    expected = reference.binomtest(correct, total).proportion_ci(confidence, method="wilson")
    interval = wilson_interval(correct, total, confidence)
    assert interval == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= interval.low <= correct / total <= interval.high <= 1


def test_wilson_on_the_papers_rte_half():
    """139 items resolve about five and a half points either way at the paper's LoRA score."""
    assert wilson_interval(round(0.8532 * 139), 139).half_width == pytest.approx(0.058, abs=0.002)


def test_wilson_refuses_impossible_counts():
    for correct, total in [(-1, 10), (11, 10), (0, 0)]:
        with pytest.raises(ValueError, match="correct of"):
            wilson_interval(correct, total)


def crossed(rng, seeds, items, gap=0.1, seed_sd=0.2, item_sd=0.5, noise=0.5):
    """Two score arrays whose difference has mean ``gap`` and independent effects of seed, item and both."""
    base = rng.normal(size=(seeds, items))
    effects = rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, item_sd, (1, items))
    return base + gap + effects + rng.normal(0, noise, (seeds, items)), base


def exact_variance(d):
    """Var of u^T d v / (S N) for multinomial counts u, v, from E[u u^T] = I + (1 - 1/S) 1 1^T."""
    seeds, items = d.shape
    second = [np.eye(n) + (1 - 1 / n) * np.ones((n, n)) for n in (seeds, items)]
    return (((second[0] @ d @ second[1]) * d).sum() - d.sum() ** 2) / d.size**2


def test_bootstrap_has_the_exact_conditional_variance():
    a, b = crossed(np.random.default_rng(2), seeds=5, items=60)
    result = paired_bootstrap(a, b, resamples=40_000)
    assert result.standard_error**2 == pytest.approx(exact_variance(a - b), rel=0.03)  # SD of the estimate: 0.7 %
    assert result.interval.half_width == pytest.approx(1.96 * math.sqrt(exact_variance(a - b)), rel=0.03)
    assert result.mean == pytest.approx((a - b).mean())
    assert (result.seeds, result.items, result.resamples) == ((5, 5), 60, 40_000)


def test_unpaired_seeds_add_their_variances():
    rng = np.random.default_rng(3)
    a = rng.normal(0, 1, (6, 1)) + np.zeros((6, 40))  # only the seed matters: items add nothing
    b = rng.normal(0, 1, (4, 1)) + np.zeros((4, 40))
    result = paired_bootstrap(a, b, paired_seeds=False, resamples=40_000)
    expected = a[:, 0].var() / 6 + b[:, 0].var() / 4
    assert result.standard_error**2 == pytest.approx(expected, rel=0.03)
    assert result.seeds == (6, 4)


def test_expected_variance_is_the_docstrings():
    s, t, e, seeds, items = 0.04, 0.25, 0.25, 5, 40
    rng = np.random.default_rng(4)
    variances = [
        exact_variance(np.subtract(*crossed(rng, seeds, items, 0, s**0.5, t**0.5, e**0.5))) for _ in range(3000)
    ]
    formula = (
        s * (seeds - 1) / seeds**2
        + t * (items - 1) / items**2
        + e * (3 - 2 / seeds - 2 / items + 1 / (seeds * items)) / (seeds * items)
    )
    assert np.mean(variances) == pytest.approx(formula, rel=0.03)


def test_pairing_removes_what_both_share():
    rng = np.random.default_rng(5)
    hard = rng.random(300) < 0.3
    a = np.tile(~hard, (5, 1)).astype(float)
    b = a.copy()
    b[:, :3] = 1 - b[:, :3]  # the two disagree on three items only
    both = paired_bootstrap(a, b)
    alone = wilson_interval(int(a[0].sum()), 300)
    assert both.interval.half_width < alone.half_width / 3


def test_same_scores_give_exactly_zero():
    a = (np.random.default_rng(6).random((3, 50)) < 0.7).astype(float)
    result = paired_bootstrap(a, a)
    assert (result.mean, *result.interval) == (0.0, 0.0, 0.0)
    assert not result.resolved


def test_a_clear_gap_is_resolved_and_the_sign_is_a_minus_b():
    a, b = np.ones((3, 50)), np.zeros((3, 50))
    assert paired_bootstrap(a, b).interval == (1.0, 1.0)
    assert paired_bootstrap(a, b).resolved
    assert paired_bootstrap(b, a).mean == -1.0


def test_bootstrap_is_seeded_and_not_fixed():
    a, b = crossed(np.random.default_rng(7), 3, 50)
    assert paired_bootstrap(a, b, seed=1) == paired_bootstrap(a, b, seed=1)
    assert paired_bootstrap(a, b, seed=1).interval != paired_bootstrap(a, b, seed=2).interval
    # The global generator must stay untouched.
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    paired_bootstrap(a, b)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


@pytest.mark.slow
def test_bootstrap_covers_the_true_difference():
    """Eight seeds and 150 items, true gap 0.1, Bernoulli scores: near 95 %, and neither 80 % nor always."""
    rng = np.random.default_rng(8)
    hits = 0
    for _ in range(400):
        p = np.clip(rng.normal(0.6, 0.2, (1, 150)) + rng.normal(0, 0.03, (8, 1)), 0, 0.9)
        q = np.clip(rng.normal(0.0, 0.03, (8, 1)) + p - 0.0, 0, 0.9)
        a, b = (rng.random((8, 150)) < p).astype(float), (rng.random((8, 150)) < q).astype(float)
        low, high = paired_bootstrap(a, b, resamples=400).interval
        hits += low <= 0.0 <= high
    assert 0.91 <= hits / 400 <= 0.995


def test_bootstrap_refuses_what_does_not_fit():
    ok = np.zeros((3, 4))
    for a, b, words in [
        (ok, np.zeros((3, 5)), "same items"),
        (ok, np.zeros((2, 4)), "cannot be paired"),
        (ok, np.full((3, 4), np.nan), "not finite"),
        (np.zeros(4), np.zeros(4), "seeds, items"),
    ]:
        with pytest.raises(ValueError, match=words):
            paired_bootstrap(a, b)
    with pytest.raises(ValueError, match="between 0 and 1"):
        paired_bootstrap(ok, ok, confidence=95)
