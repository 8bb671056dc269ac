"""AdaLoRA's running scores of a whole pack, all layers at once on the optimiser's rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sora.methods.bank import Bank
from sora.optim import ParameterGroup

if TYPE_CHECKING:
    from sora.methods.adalora import SvdLinear


class Scores:
    """A score s(lambda) + mean s(P) + mean s(Q) of each triplet, s = sensitivity * uncertainty (Eq. 7).

    The layers' buffers, by which checkpoints know the averages, become views of those here.
    """

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
        """Update the running sensitivity |w grad| and its uncertainty (Eq. 9-10) from the present gradients.

        Of the replicas that are not ``alive`` [R] nothing changes.
        """
        trains = alive.unsqueeze(1).to(self.sensitivity[0].dtype)
        first, second = trains * (1 - beta1), trains * (1 - beta2)
        for group, mean, spread in zip(self.groups, self.sensitivity, self.uncertainty, strict=True):
            assert group.grads is not None
            now = (_values(group) * group.grads).abs_()
            if not now.is_cuda:  # there RowsAdam has emptied the gradients of the dead, which may not be finite
                now.masked_fill_(~alive.unsqueeze(1), 0.0)
            mean.lerp_(now, first)
            spread.lerp_(now.sub_(mean).abs_(), second)

    def importance(self) -> Tensor:
        """Return the score of each triplet, [R, G] in the order of the layers."""
        matrices, gates = (a * b for a, b in zip(self.sensitivity, self.uncertainty, strict=True))
        a, b = matrices.tensor_split([self.bank.split], dim=1)
        return gates + self.bank.by_rank(a, outer=False, mean=True) + self.bank.by_rank(b, outer=True, mean=True)

    @torch.no_grad()
    def keep(self, kept: Tensor, alive: Tensor) -> None:
        """Set lambda to 0 where ``kept`` [R, G] is False, in the replicas that are ``alive`` [R]."""
        trains = alive.unsqueeze(1)
        self.kept.copy_(torch.where(trains, kept, self.kept))
        _values(self.groups[1]).mul_(kept | ~trains)


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
