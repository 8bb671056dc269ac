"""Biases of a whole pack: what BitFit (Ben Zaken, Goldberg and Ravfogel, ACL 2022) trains, one copy per replica."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StackedBias(nn.Module):
    """A frozen ``nn.Linear`` or ``nn.LayerNorm`` whose bias has the replica axis: ``bias`` [R, out], float32.

    Maps ``[R*b, ..., in]``, replica-major, to ``[R*b, ..., out]``; an input with leading dimension 1 is shared by the
    replicas and comes out as ``[R, ..., out]``.
    """

    def __init__(self, base: nn.Linear | nn.LayerNorm, replicas: int) -> None:
        super().__init__()
        if base.bias is None:
            raise ValueError("a module without a bias has nothing to train here")
        self.base = base.requires_grad_(False)
        self.replicas = replicas
        self.bias = nn.Parameter(base.bias.detach().float().repeat(replicas, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The frozen map without its bias, plus each replica's own."""
        if isinstance(self.base, nn.Linear):
            out = F.linear(x.to(self.base.weight.dtype), self.base.weight)
        else:
            out = F.layer_norm(x, self.base.normalized_shape, self.base.weight, None, self.base.eps)
        bias = self.bias.to(out.dtype)
        if out.shape[0] == 1:
            return out + bias.view(self.replicas, *[1] * (out.dim() - 2), -1)
        if out.shape[0] % self.replicas:
            raise ValueError(f"a batch of {out.shape[0]} rows does not split over {self.replicas} replicas")
        return (out.view(self.replicas, -1, out.shape[-1]) + bias.unsqueeze(1)).view(out.shape)

    @torch.no_grad()
    def single(self, replica: int) -> nn.Module:
        """The plain module with the bias of one replica."""
        base = self.base
        plain: nn.Module
        if isinstance(base, nn.Linear):
            plain = nn.Linear(base.in_features, base.out_features)
        else:
            plain = nn.LayerNorm(base.normalized_shape, base.eps)
        plain.load_state_dict({"weight": base.weight.float(), "bias": self.bias[replica]})
        return plain
