"""The order of the examples, as a pure function of (data seed, epoch): resuming needs the step and nothing else.

Every replica shuffles with its own seed and sorts inside megabatches, so that a batch holds examples of like
length. *Which slot of which megabatch comes when* is drawn without the replica's seed: replicas of a pack are
then at like lengths at the same time and pad alike, and a run's order is the same alone or packed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

MEGABATCH = 50  # batches that are sorted together; of the sizes tried it padded least while batches stay mixed


def epoch_batches(
    lengths: np.ndarray, batch_size: int, data_seed: int, epoch: int, bucketing: bool
) -> list[np.ndarray]:
    """Return the indices of every batch of one epoch, for one replica; each example occurs once.

    ``lengths`` [N] in tokens. There are ceil(N / batch_size) batches and the one incomplete batch, if any, is in
    the same place for every seed.
    """
    order = np.random.default_rng([data_seed, epoch]).permutation(len(lengths))
    count = -(-len(order) // batch_size)
    if not bucketing:
        return [order[i * batch_size : (i + 1) * batch_size] for i in range(count)]
    batches: list[np.ndarray] = []
    span = MEGABATCH * batch_size
    for start in range(0, len(order), span):
        mega = order[start : start + span]
        mega = mega[np.argsort(-lengths[mega], kind="stable")]
        batches += [mega[i : i + batch_size] for i in range(0, len(mega), batch_size)]
    slots = np.random.default_rng([len(lengths), batch_size, epoch]).permutation(count)
    return [batches[slot] for slot in slots]


def batches(
    lengths: np.ndarray,
    batch_size: int,
    data_seeds: Sequence[int],
    *,
    first_step: int,
    last_step: int,
    bucketing: bool,
) -> Iterator[np.ndarray]:
    """Yield the example indices [R, b] of steps ``first_step`` to ``last_step - 1``, replica-major."""
    per_epoch = -(-len(lengths) // batch_size)
    step = first_step
    while step < last_step:
        epoch, offset = divmod(step, per_epoch)
        orders = [epoch_batches(lengths, batch_size, seed, epoch, bucketing) for seed in data_seeds]
        for slot in range(offset, min(per_epoch, offset + last_step - step)):
            yield np.stack([order[slot] for order in orders])
            step += 1
