"""The two-way bootstrap against its exact conditional variance, the real metrics on drawn items, and simulation."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, pearsonr
from sklearn.metrics import f1_score

from experiments.bootstrap import (
    METRICS,
    Difference,
    combine,
    features,
    mean_over_seeds,
    percentile,
    resample,
    resamples_for,
    summary,
)
from sora.tasks import metrics as real


def paired_bootstrap(a: np.ndarray, b: np.ndarray, resamples: int = 10_000, seed: int = 0) -> Difference:
    """The difference of two mean scores [S, N] of the same seeds on the same items, as the tables make it."""
    scores = resample([row[:, None] for row in (*a, *b)], "accuracy", resamples, seed)
    draws = mean_over_seeds(scores[:, : len(a)] - scores[:, len(a) :], seed)
    return summary(float(a.mean() - b.mean()), draws)


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


def half_width(interval):
    return (interval[1] - interval[0]) / 2


def test_bootstrap_has_the_exact_conditional_variance():
    a, b = crossed(np.random.default_rng(2), seeds=5, items=60)
    result = paired_bootstrap(a, b, resamples=40_000)
    assert result.standard_error**2 == pytest.approx(exact_variance(a - b), rel=0.03)  # SD of the estimate: 0.7 %
    assert half_width(result.interval) == pytest.approx(1.96 * math.sqrt(exact_variance(a - b)), rel=0.03)
    assert result.mean == pytest.approx((a - b).mean())


def test_pairing_removes_what_both_share():
    rng = np.random.default_rng(5)
    hard = rng.random(300) < 0.3
    a = np.tile(~hard, (5, 1)).astype(float)
    b = a.copy()
    b[:, :3] = 1 - b[:, :3]  # the two disagree on three items only
    both = paired_bootstrap(a, b)
    alone = binomtest(int(a[0].sum()), 300).proportion_ci(method="wilson")
    assert half_width(both.interval) < half_width((alone.low, alone.high)) / 3


def test_same_scores_give_exactly_zero():
    a = (np.random.default_rng(6).random((3, 50)) < 0.7).astype(float)
    result = paired_bootstrap(a, a)
    assert (result.mean, *result.interval) == (0.0, 0.0, 0.0)
    assert result.p == 1.0


def test_a_clear_gap_is_resolved_and_the_sign_is_a_minus_b():
    a, b = np.ones((3, 50)), np.zeros((3, 50))
    assert paired_bootstrap(a, b).interval == (1.0, 1.0)
    assert paired_bootstrap(a, b).p == pytest.approx(2 / 10_001)
    assert paired_bootstrap(b, a).mean == -1.0


def test_bootstrap_is_seeded_and_not_fixed():
    a, b = crossed(np.random.default_rng(7), 3, 50)
    assert paired_bootstrap(a, b, seed=1) == paired_bootstrap(a, b, seed=1)
    assert paired_bootstrap(a, b, seed=1).interval != paired_bootstrap(a, b, seed=2).interval
    # The global generator must stay untouched.
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    paired_bootstrap(a, b)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


def test_bootstrap_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="same items"):
        resample([np.zeros((3, 1)), np.zeros((4, 1))], "accuracy", 10)
    with pytest.raises(ValueError, match="no sum over items"):
        features("em", [1], [1])


def predictions(metric, items=80):
    rng = np.random.default_rng(items)
    if metric == "pearson":
        labels = rng.uniform(0, 5, items)
        return labels + rng.normal(0, 2, items), labels
    classes = 3 if metric in ("f1_macro", "accuracy") else 2
    labels = rng.integers(classes, size=items)
    return np.where(rng.random(items) < 0.7, labels, rng.integers(classes, size=items)), labels


def scored(metric):
    """One of the program's metrics, of predictions and labels."""
    return lambda x, y: metric(real.Scored(x, y, 2))


REAL = {
    **{name: scored(getattr(real, name)) for name in ("accuracy", "f1", "matthews", "pearson")},
    "f1_macro": lambda x, y: f1_score(y, x, average="macro", labels=range(3), zero_division=0),
}


@pytest.mark.parametrize("metric", METRICS)
def test_a_resampled_score_is_the_metric_of_the_items_drawn(metric):
    """Against scikit-learn and scipy on the drawn items themselves."""
    x, y = predictions(metric)
    table = features(metric, x, y, 3 if metric == "f1_macro" else 2)
    rng = np.random.default_rng(1)
    for _ in range(20):
        drawn = rng.integers(len(y), size=len(y))
        assert combine(metric, table[drawn].sum(axis=0), len(y)) == pytest.approx(REAL[metric](x[drawn], y[drawn]))


@pytest.mark.parametrize("metric", METRICS)
def test_a_prediction_that_says_nothing_scores_as_the_metrics_say(metric):
    _, y = predictions(metric)
    constant = np.zeros_like(y)
    score = combine(metric, features(metric, constant, y, 3).sum(axis=0), len(y))
    assert score == pytest.approx(REAL[metric](constant, y))
    broken = np.where(np.arange(len(y)) == 3, np.nan, y.astype(float))
    if metric == "pearson":
        assert combine(metric, features(metric, broken, y).sum(axis=0), len(y)) == 0 == REAL["pearson"](broken, y)


def test_resampled_scores_spread_as_scipys_bootstrap_does():
    x, y = predictions("pearson", 120)
    mine = resample([features("pearson", x, y)], "pearson", 4000)[:, 0]
    other = bootstrap(
        (x, y), lambda a, b: pearsonr(a, b).statistic, paired=True, vectorized=False, n_resamples=1500, rng=1,
        method="percentile",
    )  # fmt: skip
    assert mine.std() == pytest.approx(other.standard_error, rel=0.08)
    assert percentile(mine) == pytest.approx((other.confidence_interval.low, other.confidence_interval.high), abs=0.01)


def test_methods_with_the_same_seeds_are_paired_and_others_are_not():
    seeds = np.random.default_rng(9).normal(size=5)
    scores = np.tile(seeds, (4000, 1))  # items add nothing
    assert np.ptp(mean_over_seeds(scores + 1) - mean_over_seeds(scores)) == pytest.approx(0, abs=1e-12)
    apart = mean_over_seeds(scores) - mean_over_seeds(scores, stream=1)
    assert apart.var() == pytest.approx(2 * seeds.var() / 5, rel=0.1)


def test_p_is_uniform_where_nothing_differs():
    """Twenty seeds that dominate, so that the percentiles are good: p below 0.1 in about a tenth of all cases."""
    rng = np.random.default_rng(10)
    p = []
    for _ in range(200):
        items = rng.normal(0, 1, (1, 60))
        noise = rng.normal(0, 0.6, (2, 20, 1)) + items + rng.normal(0, 0.3, (2, 20, 60))
        p.append(paired_bootstrap(noise[0], noise[1], resamples=300).p)
    assert np.mean(np.array(p) < 0.1) == pytest.approx(0.1, abs=0.06)
    assert np.mean(p) == pytest.approx(0.5, abs=0.07)


def test_small_test_sets_get_more_resamples():
    assert [resamples_for(n) for n in (139, 2000, 5000, 40_430)] == [10_000, 10_000, 4000, 2000]
