"""Learning-rate and sparsity schedules: pure functions of the step, so that resuming needs no state (torch-free).

A run trains through *stages*. Stage 0 is the ordinary training at xi0 = ``method.threshold``; without a schedule it is
all there is. ``sparsify`` (Algorithm 1 of the paper) adds a stage for each level of xi, which goes on from the weights
that the stage before ended with; the first one goes on from the selected weights of stage 0. The optimiser's moments
are kept. ``one_shot`` adds no step: its levels prune the trained gates by magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sora.errors import UserError

if TYPE_CHECKING:
    from sora.config import RunConfig


def total_steps(examples: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
    """Optimiser steps of a run: ceil(epochs * batches per epoch), an incomplete batch counted, or ``max_steps``."""
    if max_steps is not None:
        return max_steps
    return math.ceil(epochs * math.ceil(examples / batch_size))


def steps_between(every: int | None, total: int) -> int:
    """Return the steps from one evaluation to the next; ten evaluations where none are configured."""
    return math.ceil(total / 10) if every is None else every


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


@dataclass(frozen=True)
class Timeline:
    """What holds at each step of a run: its stage, its learning rate, its threshold. Steps count from 0.

    Args:
        dense: steps of stage 0.
        level_steps: steps of each later stage.
        levels: xi of each later stage.
        lr: of the later stages. ``rewarm``: warm-up and decay anew in each; ``constant``: the peak rate;
            ``authors_zero``: 0, as in the authors' code, whose exhausted scheduler is used again (only the threshold
            then moves anything, and only the gates).
        warmup_ratio: share of a stage's steps in which its rate rises.
    """

    dense: int
    warmup_ratio: float
    level_steps: int = 0
    levels: tuple[float, ...] = ()
    lr: str = "rewarm"

    @property
    def total(self) -> int:
        """Optimiser steps of the whole run."""
        return self.dense + self.level_steps * len(self.levels)

    def stage(self, step: int) -> int:
        """0, or the level (from 1) that ``step`` trains."""
        return 0 if step < self.dense else 1 + (step - self.dense) // self.level_steps

    def ends_stage(self, done: int) -> bool:
        """Whether a stage is over when ``done`` steps have been made."""
        return done == self.total or (done >= self.dense and (done - self.dense) % self.level_steps == 0)

    def multiplier(self, step: int) -> float:
        """Learning rate at ``step`` in units of its peak."""
        if step < self.dense:
            return linear_decay(step, self.dense, warmup_steps(self.dense, self.warmup_ratio))
        if self.lr == "rewarm":
            warmup = warmup_steps(self.level_steps, self.warmup_ratio)
            return linear_decay((step - self.dense) % self.level_steps, self.level_steps, warmup)
        return 1.0 if self.lr == "constant" else 0.0

    def threshold(self, step: int, xi0: float) -> float:
        """xi at peak learning rate in the stage of ``step``."""
        stage = self.stage(step)
        return xi0 if stage == 0 else self.levels[stage - 1]


def timeline(run: RunConfig, examples: int) -> Timeline:
    """The stages of a run that trains on ``examples`` examples."""
    trainer, schedule = run.trainer, run.schedule
    dense = total_steps(examples, trainer.batch_size, trainer.epochs, trainer.max_steps)
    if schedule.kind != "sparsify":
        return Timeline(dense, trainer.warmup_ratio)
    steps = total_steps(examples, trainer.batch_size, schedule.epochs, schedule.steps)
    return Timeline(dense, trainer.warmup_ratio, steps, tuple(schedule.levels), schedule.lr)


SPACINGS: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {  # where steps are equal, and back
    "linear": (float, float),
    "log_linear": (math.exp, math.log),
    "exp_linear": (math.log, math.exp),
}


def spaced(spacing: str, start: float, stop: float, count: int) -> list[float]:
    """``count`` levels from ``start`` to ``stop``, both included, spaced as the authors' script names it.

    ``linear``: equal differences. ``exp_linear``: exp of equally spaced logarithms, so equal factors. ``log_linear``:
    log of equally spaced exponentials, which far below 1 is all but linear. Rounded to six significant digits, so
    that the name of a run does not depend on a machine's exp and log.

    Raises:
        UserError: ``exp_linear`` from 0, ``log_linear`` to where exp overflows.
    """
    there, back = SPACINGS[spacing]
    try:
        low, high = there(start), there(stop)
        inner = [back(low + (high - low) * i / (count - 1)) for i in range(1, count - 1)]
    except (ValueError, OverflowError):  # a logarithm of 0, an exponential without bound
        inner = [math.inf]
    if not all(map(math.isfinite, inner)):
        raise UserError(
            f"schedule.spacing={spacing}: lays no levels from {start:g} to {stop:g}; choose another schedule.start "
            "or schedule.stop (exp_linear starts above 0), or linear"
        )
    return [float(f"{level:.6g}") for level in (start, *inner, stop)]
