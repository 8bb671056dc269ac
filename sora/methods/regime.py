"""Tell before a run whether its loss can hold a gate up, and after it whether the data chose the ranks (torch-free).

A gate of SoRA starts from N(0, 1). Step t moves it by at most about ``reach * lr_t`` and takes the threshold xi_t from
its magnitude; lr_t and xi_t are the learning rate and the threshold of that step. Over the T steps of stage 0:

    rho    = xi / (reach * lr)     at the peaks of both: above 1 no step can undo what the threshold takes
    shrink = sum of xi_t           what the threshold takes in all: xi * T, or xi * T / 2 with threshold_rule=lr_scaled
    travel = reach * sum of lr_t   how far a gate can move in all: reach * lr * T / 2 with a warm-up and linear decay,
                                   half a step more without the warm-up

``reach`` is 1 with gate_update=adam, so that rho = xi / lr and travel = lr * T / 2. A gradient step moves a gate by
lr_t times its gradient, which clipping bounds: reach = trainer.clip with gate_update=gradient, and 1 for want of a
bound where nothing is clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sora.config import RunConfig
from sora.method_config import SoraConfig
from sora.schedules import Timeline, threshold_factor

LARGEST_RHO, SMALLEST_TRAVEL = 0.5, 0.5  # beyond them the initial draw decides which ranks stay
HOPELESS = "no gate can be held up by the loss: ranks will follow the initial draw"


@dataclass(frozen=True)
class Regime:
    """``rho``, ``shrink`` and ``travel`` of a run (six significant digits), and what they were computed from.

    ``reach`` is as above, ``rates`` the sum over stage 0 of the learning rate in units of its peak.
    """

    threshold: float  # xi at the peak learning rate
    learning_rate: float  # peak
    reach: float
    rates: float
    shrink: float

    @property
    def rho(self) -> float:
        return _six(self.threshold / (self.reach * self.learning_rate))

    @property
    def travel(self) -> float:
        return _six(self.reach * self.learning_rate * self.rates)

    def numbers(self) -> dict[str, float]:
        """Return the numbers for the record and the dry run."""
        return {"rho": self.rho, "shrink": self.shrink, "travel": self.travel}

    def __str__(self) -> str:
        return f"rho {self.rho:.3g}, shrink {self.shrink:.3g}, travel {self.travel:.3g}"

    def warning(self) -> str:
        """Warn, and name values that would do, where the initial draw will decide the ranks; else empty."""
        wanted = []
        if self.rho > LARGEST_RHO:
            xi = LARGEST_RHO * self.reach * self.learning_rate
            unit = 10.0 ** (math.floor(math.log10(xi)) - 2)  # three significant digits, rounded down
            wanted.append(f"method.threshold of at most {math.floor(round(xi / unit, 6)) * unit:.3g}")
        if self.travel < SMALLEST_TRAVEL:
            steps = math.ceil(round(2 * SMALLEST_TRAVEL / (self.reach * self.learning_rate), 6))
            wanted.append(f"at least {steps:,} steps")
        if not wanted:
            return ""
        return (
            f"{HOPELESS} ({self}; rho should be at most {LARGEST_RHO}, travel at least {SMALLEST_TRAVEL}): "
            f"{' with '.join(wanted)} would do"
        )


def regime(run: RunConfig, timeline: Timeline) -> Regime | None:
    """Return the regime of a resolved run; None where it has no gates, or its threshold is 0."""
    method = run.method
    if not isinstance(method, SoraConfig) or method.threshold == 0:
        return None
    rates = [timeline.multiplier(step) for step in range(timeline.dense)]
    shrink = method.threshold * math.fsum(threshold_factor(str(method.threshold_rule), rate) for rate in rates)
    return Regime(
        threshold=method.threshold,
        learning_rate=float(run.trainer.learning_rate or method.learning_rate),
        reach=(run.trainer.clip or 1.0) if method.gate_update == "gradient" else 1.0,
        rates=math.fsum(rates),
        shrink=_six(shrink),
    )


def _six(value: float) -> float:
    """Round to six significant digits, so that 1.5e-4 / 1e-3 is 0.15."""
    return float(f"{value:.6g}")
