"""LoRA whose rank is given matrix by matrix: does it matter *which* ranks a method keeps?

    h = W0 x + (alpha / r) B M A x,      M a fixed diagonal of zeros and ones

A masked rank is absent: its row of A and its column of B start at zero, so that neither ever has a gradient, and decay
and Adam leave zeros as they are. That is PEFT's LoRA with ``rank_pattern`` and the scale alpha / r everywhere. A matrix
of rank k has the first k of r ranks; they start as LoRA's first k of the same seed do.

``pattern`` makes three controls from one list of ranks, all of (nearly) the same number of weights:

    own        the ranks as they are
    permuted   all r places of all matrices of equal cost (in + out) are shuffled: exactly as many weights
    uniform    one rank everywhere, one more in some: to within half a rank as many weights
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sora.backbones import Backbone
from sora.errors import UserError
from sora.method_config import MaskedLoraConfig
from sora.methods.base import Plan, Summary
from sora.methods.lora import Lora, LowRankLinear

GOLDEN = 0.6180339887498949  # multiples of it, modulo 1, spread evenly over layers and kinds of matrices


class MaskedLinear(LowRankLinear):
    """A low-rank adapter of which only the ranks of ``mask``, bool [R, r], exist."""

    mask: Tensor

    def __init__(self, base: nn.Linear, *, mask: Tensor, scaling: float, dropout: nn.Module | None = None) -> None:
        super().__init__(base, replicas=mask.shape[0], r=mask.shape[1], scaling=scaling, dropout=dropout)
        self.register_buffer("mask", mask.to(base.weight.device), persistent=False)

    @torch.no_grad()
    def reset(self, generators: Sequence[torch.Generator]) -> None:
        """Draw as LoRA does, with zeros where there is no rank."""
        super().reset(generators)
        self.lora_A.mul_(self.mask.unsqueeze(-1))

    def live(self) -> Tensor:
        """Return the mask."""
        return self.mask


class MaskedLora(Lora):
    """Low-rank adapters of a pack, each replica with ranks of its own."""

    config: MaskedLoraConfig

    def attach(self, backbone: Backbone, plan: Plan, generators: Sequence[torch.Generator]) -> None:
        """Attach as LoRA does. Raises UserError where the ranks are not those of the adapted matrices."""
        found = backbone.linear_targets(self.config.targets)
        costs = {name: base.in_features + base.out_features for name, base in found.items()}
        each = [self._ranks(run.method, costs) for run in plan.runs]  # type: ignore[arg-type]
        place = torch.arange(self.config.r)
        self.masks = {name: torch.stack([place < ranks[name] for ranks in each]) for name in costs}
        super().attach(backbone, plan, generators)

    def _ranks(self, config: MaskedLoraConfig, costs: Mapping[str, int]) -> dict[str, int]:
        if config.ranks is None:
            raise UserError("method.source: missing; give the run id of a finished run, or method.ranks")
        if unlike := sorted(set(config.ranks) ^ set(costs)):
            what = "is not adapted here" if unlike[0] in config.ranks else "has no rank"
            raise UserError(f"method.ranks: {unlike[0]} {what}; give one rank for each matrix of method.targets")
        ranks = {name: config.ranks[name] for name in costs}
        if config.pattern == "permuted":
            return permuted(ranks, costs, config.r, config.permutation or 0)
        return uniform(ranks, costs) if config.pattern == "uniform" else ranks

    def _layer(self, base: nn.Linear, name: str) -> LowRankLinear:
        return MaskedLinear(base, mask=self.masks[name], scaling=self.scaling, dropout=self._dropout(name))

    def summary(self, replica: int) -> Summary:
        """Summarise as LoRA does, with the weights of masked ranks as absent."""
        found = super().summary(replica)
        held = sum(layer.lora_A[0].numel() + layer.lora_B[0].numel() for layer in self.layers.values())
        return Summary(found.live, found.authors_formula, found.ranks, absent=held - found.live)


def permuted(ranks: Mapping[str, int], costs: Mapping[str, int], r: int, seed: int) -> dict[str, int]:
    """Shuffle the r places, kept or not, of all matrices whose ranks cost the same number of weights.

    So each cost has as many ranks as before, and which matrix has them is chance.
    """
    generator = torch.Generator().manual_seed(seed)
    result = dict.fromkeys(ranks, 0)
    for cost in sorted(set(costs.values())):
        names = [name for name in ranks if costs[name] == cost]
        kept = sum(ranks[name] for name in names)
        for place in torch.randperm(len(names) * r, generator=generator)[:kept].tolist():
            result[names[place // r]] += 1
    return result


def uniform(ranks: Mapping[str, int], costs: Mapping[str, int]) -> dict[str, int]:
    """Give every matrix one rank, and some one more, spread over the model, to nearly as many weights.

    What is missing or too much is at most half of what a rank costs in some matrix.
    """
    wanted = sum(rank * costs[name] for name, rank in ranks.items())
    base, left = divmod(wanted, sum(costs.values()))
    result = dict.fromkeys(ranks, base)
    spread = sorted(enumerate(ranks), key=lambda item: item[0] * GOLDEN % 1.0)
    without = []
    for _, name in spread:
        if costs[name] <= left:
            result[name] += 1
            left -= costs[name]
        else:
            without.append(name)
    nearest = min(without, key=lambda name: costs[name], default=None)
    if nearest is not None and costs[nearest] < 2 * left:
        result[nearest] += 1
    return result
