"""The levels of a sparsity schedule: what is done to the weights between them, and what is measured at each.

Level 0 is the dense model: the selected weights of the ordinary training, which the record's ``metrics.selected``
describe too. Every schedule starts from them, so that those of one seed share their level 0. A run that has diverged
gets no further levels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sora.training.evaluation import Logits, evaluate
from sora.training.pack import Pack


def prune_smallest(gates: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Zero the round(share * G) gates of smallest magnitude in each row of ``gates`` [R, G].

    Gates that are zero already count among them; of equal magnitudes the first goes first. Returns the pruned gates
    and, [R], the largest magnitude that was zeroed.
    """
    count = round(share * gates.shape[1])
    magnitudes, order = gates.abs().sort(dim=1, stable=True)
    cut = magnitudes[:, count - 1] if count else torch.zeros_like(magnitudes[:, 0])
    return gates.scatter(1, order[:, :count], 0.0), cut


class Levels:
    """What has been measured so far. ``logits[k]`` are those of level k.

    ``check`` is called before every batch that is measured, and may raise.
    """

    def __init__(self, pack: Pack, check: Callable[[], None] = lambda: None) -> None:
        self.pack, self.schedule, self.check = pack, pack.runs[0].schedule, check
        self.logits: list[Logits] = []

    def after_stage(self, stage: int, best: Tensor) -> list[list[dict[str, Any]]]:
        """Measure the levels that a stage ends with: entries of ``level_results``, [levels][R].

        After stage 0 the weights become ``best`` [R, P], the selected ones; ``one_shot`` then prunes them level by
        level. They stay at the last level.
        """
        if self.schedule.kind == "none":
            return []
        optimizer = self.pack.optimizer
        if stage > 0:
            return [self._measure([self.pack.timeline.levels[stage - 1]] * self.pack.replicas)]
        optimizer.rows.copy_(torch.where(optimizer.alive.unsqueeze(1), best, optimizer.rows))
        entries = [self._measure([run.method.threshold for run in self.pack.runs])]  # type: ignore[attr-defined]
        if self.schedule.kind == "one_shot":
            entries += [self._prune(share) for share in self.schedule.levels]
        return entries

    def _prune(self, share: float) -> list[dict[str, Any]]:
        optimizer = self.pack.optimizer
        (group,) = (group for group in optimizer.groups if group.after_adam is not None)
        gates, cut = prune_smallest(optimizer.rows[:, group.columns], share)
        optimizer.rows[:, group.columns] = torch.where(
            optimizer.alive.unsqueeze(1), gates, optimizer.rows[:, group.columns]
        )
        return [entry | {"sparsity": share} for entry in self._measure(cut.tolist())]

    def _measure(self, thresholds: list[float]) -> list[dict[str, Any]]:
        """Evaluate the present weights on every split; one entry per replica."""
        metrics, logits = evaluate(self.pack, self.check)
        self.logits.append(logits)
        entries = []
        for replica, (threshold, scores) in enumerate(zip(thresholds, metrics, strict=True)):
            summary = self.pack.method.summary(replica)
            entries.append(
                {
                    "level": len(self.logits) - 1,
                    "threshold": threshold,
                    **scores,
                    "live": summary.live,
                    "authors_formula": summary.authors_formula,
                    "ranks": summary.ranks,
                }
            )
        return entries

    # -- state of one replica, for its checkpoint -----------------------------------------------------------------

    def state(self, replica: int) -> dict[str, Tensor]:
        """Return ``<level>.<split>`` -> logits [N, C] of a replica."""
        return {
            f"{level}.{split}": torch.from_numpy(values[replica].copy())
            for level, logits in enumerate(self.logits)
            for split, values in logits.items()
        }

    def load_states(self, states: list[dict[str, Tensor]]) -> None:
        """Load what ``state`` returned, of all replicas at once."""
        self.logits = []
        for key in states[0]:
            level, split = key.split(".")
            while len(self.logits) <= int(level):
                self.logits.append({})
            self.logits[int(level)][split] = np.stack([state[key].numpy() for state in states])
