"""The order of examples: complete, reproducible from the step alone, equal alone and packed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sora.training.batching import MEGABATCH, batches, epoch_batches


def lengths_of(n, seed=0):
    return np.random.default_rng(seed).integers(5, 120, n)


@given(
    n=st.integers(1, 700),
    batch_size=st.integers(1, 33),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 5),
    bucketing=st.booleans(),
)
def test_every_example_once_an_epoch(n, batch_size, seed, epoch, bucketing):
    order = epoch_batches(lengths_of(n), batch_size, seed, epoch, bucketing)
    assert sorted(np.concatenate(order).tolist()) == list(range(n))
    assert all(len(batch) == batch_size for batch in order if len(batch) != n % batch_size)
    assert len(order) == -(-n // batch_size)


@given(
    n=st.integers(10, 900), batch_size=st.integers(1, 16), seeds=st.lists(st.integers(0, 99), min_size=2, max_size=4)
)
def test_batches_of_replicas_have_one_shape(n, batch_size, seeds):
    """The incomplete batch comes at the same step for every seed, or the replicas could not be stacked."""
    steps = -(-n // batch_size)
    got = list(batches(lengths_of(n), batch_size, seeds, first_step=0, last_step=steps, bucketing=True))
    assert len(got) == steps
    assert all(indices.shape[0] == len(seeds) for indices in got)


@pytest.mark.parametrize("bucketing", [True, False])
def test_a_replica_sees_the_same_order_alone_and_packed(bucketing):
    lengths = lengths_of(450)
    common = {"first_step": 0, "last_step": 150, "bucketing": bucketing}
    packed = list(batches(lengths, 8, [3, 9], **common))
    solo = list(batches(lengths, 8, [9], **common))
    for both, alone in zip(packed, solo, strict=True):
        assert np.array_equal(both[1], alone[0])
    assert any(not np.array_equal(both[0], both[1]) for both in packed)


def test_resuming_needs_only_the_step():
    lengths = lengths_of(450)
    whole = list(batches(lengths, 8, [3], first_step=0, last_step=200, bucketing=True))
    for step in (1, 56, 57, 58, 113, 199):
        rest = list(batches(lengths, 8, [3], first_step=step, last_step=200, bucketing=True))
        assert len(rest) == 200 - step
        assert all(np.array_equal(a, b) for a, b in zip(whole[step:], rest, strict=True))


def test_buckets_save_padding_and_replicas_pad_alike():
    """A pack is padded to its longest example: with shared slots little more than each replica alone."""
    lengths = lengths_of(8 * MEGABATCH * 3)

    def padded(bucketing, seeds):
        steps = len(lengths) // 8
        got = batches(lengths, 8, seeds, first_step=0, last_step=steps, bucketing=bucketing)
        return sum(int(lengths[indices].max()) * indices.size for indices in got) / len(seeds)

    real = int(lengths.sum())
    assert padded(True, [0]) < 1.1 * real < padded(False, [0])
    assert padded(True, [0, 1, 2]) < 1.1 * padded(True, [0])
