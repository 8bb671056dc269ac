"""The authors' training rule for one run, transcribed into plain Python floats: no tensors, no shared code.

Follows what src/sparse_optimizer.py and the released training loop do (see the switches in sora/methods/sora.py):
all gradients of a run are clipped by one norm; matrices take AdamW with decay; gates take transformers' old AdamW
(eps beside sqrt(v), bias correction in the step size, no decay), then the in-place threshold sequence.
"""

import math


def clip(gradients: list[float], limit: float) -> list[float]:
    norm = math.sqrt(math.fsum(g * g for g in gradients))
    factor = min(1.0, limit / (norm + 1e-6))
    return [g * factor for g in gradients]


class ScalarAdam:
    """One weight. ``decay`` > 0 is decoupled decay of the value before the update (torch's order)."""

    def __init__(self, eps: float, decay: float = 0.0, eps_before_correction: bool = False) -> None:
        self.eps, self.decay, self.early = eps, decay, eps_before_correction
        self.m = self.v = 0.0
        self.t = 0

    def step(self, value: float, gradient: float, lr: float) -> float:
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient * gradient
        one, two = 1 - 0.9**self.t, 1 - 0.999**self.t
        if self.early:
            return value - lr * math.sqrt(two) / one * self.m / (math.sqrt(self.v) + self.eps)
        value -= lr * self.decay * value
        return value - lr * (self.m / one) / (math.sqrt(self.v / two) + self.eps)


def authors_shrink(value: float, xi: float) -> float:
    if value > xi:
        value -= xi
    if value < -xi:
        value += xi
    if abs(value) < xi:
        value = 0.0
    return value


def paper_shrink(value: float, xi: float) -> float:
    """argmin_u (u - value)^2 / 2 + xi |u|, found by comparing the three candidates rather than by the formula."""
    candidates = [0.0, value - xi, value + xi]
    return min(candidates, key=lambda u: 0.5 * (u - value) ** 2 + xi * abs(u))
