"""Schedules against transformers and against hand-computed values."""

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from sora import schedules


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
