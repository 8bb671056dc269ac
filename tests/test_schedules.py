"""Schedules against transformers and against hand-computed values."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from sora import schedules
from sora.errors import UserError


@pytest.mark.parametrize(("total", "warmup"), [(10, 0), (10, 3), (100, 6), (7, 7), (1, 0)])
def test_linear_decay_is_the_one_of_transformers(total, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = get_linear_schedule_with_warmup(optimizer, warmup, total)
    for step in range(total):
        assert schedules.linear_decay(step, total, warmup) == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        reference.step()


def test_total_steps_counts_the_incomplete_batch_and_fractions_of_epochs():
    assert schedules.total_steps(2490, 8, 50, None) == 312 * 50
    assert schedules.total_steps(10, 4, 0.5, None) == 2  # half of 3 batches, rounded up
    assert schedules.total_steps(10, 4, 20, 7) == 7


def test_warmup_rounds_up():
    assert schedules.warmup_steps(312 * 50, 0.06) == 936
    assert schedules.warmup_steps(101, 0.06) == 7


def test_threshold_follows_the_rate_only_when_told():
    assert schedules.threshold_factor("constant", 0.25) == 1.0
    assert schedules.threshold_factor("lr_scaled", 0.25) == 0.25


# -- levels ----------------------------------------------------------------------------------------------------

LADDER = schedules.Timeline(10, 0.3, level_steps=4, levels=(1e-3, 2e-3, 4e-3))


def test_without_levels_a_timeline_is_the_ordinary_training():
    plain = schedules.Timeline(10, 0.3)
    assert plain.total == 10
    assert [plain.multiplier(step) for step in range(10)] == [schedules.linear_decay(s, 10, 3) for s in range(10)]
    assert {plain.threshold(step, 5e-5) for step in range(10)} == {5e-5}
    assert [done for done in range(1, 11) if plain.ends_stage(done)] == [10]


def test_levels_follow_one_after_the_other():
    assert LADDER.total == 22
    assert [done for done in range(1, 23) if LADDER.ends_stage(done)] == [10, 14, 18, 22]
    assert [LADDER.stage(step) for step in range(22)] == [0] * 10 + [1] * 4 + [2] * 4 + [3] * 4
    xi = [LADDER.threshold(step, 1e-4) for step in range(22)]
    assert xi == [1e-4] * 10 + [1e-3] * 4 + [2e-3] * 4 + [4e-3] * 4


def test_the_rate_of_a_level_is_anew_the_peak_or_nothing():
    dense = [schedules.linear_decay(step, 10, 3) for step in range(10)]
    rates = {lr: [replace(LADDER, lr=lr).multiplier(s) for s in range(22)] for lr in ("constant", "authors_zero")}
    rates["rewarm"] = [LADDER.multiplier(s) for s in range(22)]
    assert rates["rewarm"] == dense + [0.0, 0.5, 1.0, 0.5] * 3  # ceil(0.3 * 4) = 2 steps up, 2 down
    assert rates["constant"] == dense + [1.0] * 12
    assert rates["authors_zero"] == dense + [0.0] * 12


def test_spacings_are_the_authors_formulas_in_numpy():
    low, high, count = 1e-4, 7e-4, 7
    formulas = {
        "linear": np.linspace(low, high, count),
        "log_linear": np.log(np.linspace(np.exp(low), np.exp(high), count)),
        "exp_linear": np.exp(np.linspace(np.log(low), np.log(high), count)),
    }
    for spacing, expected in formulas.items():
        levels = schedules.spaced(spacing, low, high, count)
        np.testing.assert_allclose(levels, expected, rtol=1e-5)
        assert (levels[0], levels[-1]) == (low, high)
    # The shipped script: linspace(0, 7e-4, 7), of which the 0 is its ordinary training.
    assert schedules.spaced("linear", 0.0, 7e-4, 7)[1:3] == [1.16667e-4, 2.33333e-4]


def test_log_linear_reaches_as_far_as_doubles_do():
    levels = schedules.spaced("log_linear", 1.0, 700.0, 5)
    np.testing.assert_allclose(levels, np.log(np.linspace(np.exp(1.0), np.exp(700.0), 5)), rtol=1e-5)
    for stop in (709.0, 1000.0):  # whose multiples, or itself, are beyond
        with pytest.raises(UserError, match=rf"schedule\.spacing=log_linear: lays no levels from 1 to {stop:g}"):
            schedules.spaced("log_linear", 1.0, stop, 20)
    assert len(schedules.spaced("linear", 0.0, 1000.0, 5)) == 5
