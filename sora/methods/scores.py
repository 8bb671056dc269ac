"""AdaLoRA's running scores of a whole pack: layer by layer on a CPU, on the optimiser's rows at once on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from sora.methods.bank import Bank
from sora.optim import ParameterGroup

if TYPE_CHECKING:
    from sora.methods.adalora import SvdLinear


class Scores(Protocol):
    """Scores of every triplet of every layer, [R, G] in the order of the layers."""

    def update(self, beta1: float, beta2: float, alive: Tensor) -> None:
        """Bring them up to date with the present gradients, in the replicas that are ``alive`` [R]."""

    def importance(self) -> Tensor:
        """Return the score of each triplet, [R, G]."""

    def keep(self, kept: Tensor, alive: Tensor) -> None:
        """Set lambda to 0 where ``kept`` [R, G] is False, in the replicas that are ``alive`` [R]."""

    def keep_chosen(self, alive: Tensor) -> None:
        """Keep again what was kept last."""


class LayerScores:
    """Every layer for itself."""

    def __init__(self, layers: Sequence[SvdLinear]) -> None:
        self.layers = list(layers)

    def update(self, beta1: float, beta2: float, alive: Tensor) -> None:
        for layer in self.layers:
            layer.score(beta1, beta2, alive)

    def importance(self) -> Tensor:
        return torch.cat([layer.importance() for layer in self.layers], dim=1)

    def keep(self, kept: Tensor, alive: Tensor) -> None:
        for layer, part in zip(self.layers, kept.split(self.layers[0].r, dim=1), strict=True):
            layer.keep(part, alive)

    def keep_chosen(self, alive: Tensor) -> None:
        for layer in self.layers:
            layer.keep(layer.kept, alive)


class RowScores:
    """All layers at once. The layers' buffers, by which checkpoints know the scores, become views of those here."""

    def __init__(self, bank: Bank, layers: Sequence[SvdLinear]) -> None:
        assert bank.gate is not None
        self.bank = bank
        self.groups = (bank.adapter, bank.gate)
        self.sensitivity = [torch.zeros_like(_values(group)) for group in self.groups]
        self.uncertainty = [torch.zeros_like(_values(group)) for group in self.groups]
        self.kept = torch.ones_like(self.sensitivity[1], dtype=torch.bool)
        for kind, (matrices, gates) in (("sensitivity", self.sensitivity), ("uncertainty", self.uncertainty)):
            a, b = matrices.tensor_split([bank.split], dim=1)
            for name, whole in (("lora_A", a), ("lora_B", b), ("gate", gates)):
                _bind(layers, f"{kind}_{name}", whole)
        _bind(layers, "kept", self.kept)

    @torch.no_grad()
    def update(self, beta1: float, beta2: float, alive: Tensor) -> None:
        """Update as ``SvdLinear.score`` does. Gradients of a dead replica are zeros by now: see ``RowsAdam.step``."""
        trains = alive.unsqueeze(1).to(self.sensitivity[0].dtype)
        first, second = trains * (1 - beta1), trains * (1 - beta2)
        for group, mean, spread in zip(self.groups, self.sensitivity, self.uncertainty, strict=True):
            assert group.grads is not None
            now = (_values(group) * group.grads).abs_()
            mean.lerp_(now, first)
            spread.lerp_(now.sub_(mean).abs_(), second)

    def importance(self) -> Tensor:
        matrices, gates = (a * b for a, b in zip(self.sensitivity, self.uncertainty, strict=True))
        a, b = matrices.tensor_split([self.bank.split], dim=1)
        return gates + self.bank.by_rank(a, outer=False, mean=True) + self.bank.by_rank(b, outer=True, mean=True)

    @torch.no_grad()
    def keep(self, kept: Tensor, alive: Tensor) -> None:
        trains = alive.unsqueeze(1)
        self.kept.copy_(torch.where(trains, kept, self.kept))
        _values(self.groups[1]).mul_(kept | ~trains)

    def keep_chosen(self, alive: Tensor) -> None:
        self.keep(self.kept, alive)


def _values(group: ParameterGroup) -> Tensor:
    assert group.values is not None
    return group.values


def _bind(layers: Sequence[SvdLinear], name: str, whole: Tensor) -> None:
    """Make the buffer ``name`` of each layer the next columns of ``whole`` [R, n], with the values it has."""
    start = 0
    for layer in layers:
        old: Tensor = getattr(layer, name)
        width = old[0].numel()
        view = whole[:, start : start + width].view(old.shape)
        view.copy_(old)
        setattr(layer, name, view)
        start += width
