"""Learning-rate and threshold schedules: pure functions of the step, so that resuming needs no state."""

from __future__ import annotations

import math


def total_steps(examples: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
    """Optimiser steps of a run: ceil(epochs * batches per epoch), an incomplete batch counted, or ``max_steps``."""
    if max_steps is not None:
        return max_steps
    return math.ceil(epochs * math.ceil(examples / batch_size))


def warmup_steps(total: int, ratio: float) -> int:
    """ceil(ratio * total), as transformers counts them."""
    return math.ceil(total * ratio)


def linear_decay(step: int, total: int, warmup: int) -> float:
    """Multiplier of the peak rate at the 0-based ``step``: from 0 over ``warmup`` steps, then down to 0 at ``total``.

    Equal to transformers' ``get_linear_schedule_with_warmup``; the first step of a warm-up has rate 0.
    """
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (total - step) / max(1, total - warmup))


def threshold_factor(rule: str, multiplier: float) -> float:
    """What xi is multiplied with at a step whose learning rate is ``multiplier`` times its peak.

    ``constant`` is the authors' code; ``lr_scaled`` is Eq. 10, xi_t = eta_t * lambda with xi = eta_peak * lambda.
    """
    return multiplier if rule == "lr_scaled" else 1.0
