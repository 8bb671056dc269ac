"""SoRA's proximal step: what a gate does after its optimiser's step, or in its place (Eq. 10-11).

The switches between the paper and its code are explained in sora.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sora.config import RunConfig
from sora.method_config import SoraConfig
from sora.schedules import Timeline, threshold_factor


def soft_threshold(x: Tensor, xi: Tensor | float) -> Tensor:
    """Compute T_xi(x) = sign(x) max(|x| - xi, 0), the proximal operator of xi |x| (SoRA, Eq. 11)."""
    return torch.sign(x) * (x.abs() - xi).clamp_min(0)


def authors_threshold(x: Tensor, xi: Tensor | float) -> Tensor:
    """Do what the authors' optimiser does instead: shrink by xi what is beyond xi, then zero what is left below xi.

    The dead zone is therefore |x| < 2 xi, and |x| = xi or 2 xi survive as +-xi.
    """
    shrunk = torch.where(x > xi, x - xi, x)
    shrunk = torch.where(shrunk < -xi, shrunk + xi, shrunk)
    return torch.where(shrunk.abs() < xi, torch.zeros_like(shrunk), shrunk)


PROX = {"soft": soft_threshold, "authors": authors_threshold}


@dataclass(frozen=True)
class GateStep:
    """SoRA's step of the gates: the proximal map after Adam's step, or after a gradient step of its own (Eq. 10-11).

    ``threshold`` [R] is xi at the peak learning rate of each replica; the switches are those of ``method``. The
    optimiser of a pack and that of the library (sora/library.py) call the same object.
    """

    threshold: Sequence[float]
    threshold_rule: str = "constant"  # constant | lr_scaled
    prox: str = "soft"  # soft | authors
    update: str = "adam"  # adam | gradient

    @classmethod
    def of(cls, runs: Sequence[RunConfig]) -> GateStep:
        """Make the step of the replicas of a pack, whose switches are alike."""
        methods = [run.method for run in runs if isinstance(run.method, SoraConfig)]
        first = methods[0]
        switches = str(first.threshold_rule), str(first.prox), str(first.gate_update)
        return cls([method.threshold for method in methods], *switches)

    @property
    def adam(self) -> bool:
        """Return whether the optimiser's Adam steps the gates first."""
        return self.update == "adam"

    def scaled(self, multiplier: float, peaks: Sequence[float] | None = None) -> list[float]:
        """Return xi [R] at ``multiplier`` times the peak learning rate; ``peaks`` [R] stand in for ``threshold``."""
        factor = threshold_factor(self.threshold_rule, multiplier)
        return [xi * factor for xi in (self.threshold if peaks is None else peaks)]

    def thresholds(self, timeline: Timeline, step: int) -> list[float]:
        """Return xi [R] at the 0-based ``step``."""
        return self.scaled(timeline.multiplier(step), [timeline.threshold(step, xi) for xi in self.threshold])

    def __call__(self, values: Tensor, grads: Tensor, rate: Tensor | float, threshold: Tensor | float) -> Tensor:
        """Return the gates after a step; ``rate`` and ``threshold`` [R, 1] for gates and gradients [R, n]."""
        return self.shrunk(values if self.adam else values - rate * grads, threshold)

    def shrunk(self, gates: Tensor, threshold: Tensor | float) -> Tensor:
        """Apply the proximal map alone."""
        return PROX[self.prox](gates, threshold)
