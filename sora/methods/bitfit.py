"""BitFit (Ben Zaken, Goldberg and Ravfogel, ACL 2022, arXiv 2106.10199): only biases train.

They are those of every linear layer and LayerNorm of the encoder, save the one LayerNorm of DeBERTa that acts on the
table of relative positions: that table has no examples, so no replica could have a bias of its own there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sora.backbones import Backbone, Head
from sora.errors import UserError
from sora.methods.base import Method, Plan, per_replica
from sora.optim import ParameterGroup
from sora.publish import export

TABLE_NORM = "encoder.LayerNorm"  # DeBERTa's norm_rel_ebd


class StackedBias(nn.Module):
    """A frozen ``nn.Linear`` or ``nn.LayerNorm`` whose bias has the replica axis: ``bias`` [R, out], float32.

    Maps ``[R*b, ..., in]``, replica-major, to ``[R*b, ..., out]``; an input with leading dimension 1 is shared by the
    replicas and comes out as ``[R, ..., out]``.
    """

    def __init__(self, base: nn.Linear | nn.LayerNorm, replicas: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.replicas = replicas
        self.bias = nn.Parameter(base.bias.detach().float().repeat(replicas, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the frozen map without its bias, and add each replica's own."""
        if isinstance(self.base, nn.Linear):
            out = F.linear(x.to(self.base.weight.dtype), self.base.weight)
        else:
            # a GPU's kernel takes one type; in bf16 the weights were rounded to it when they were read
            weight = self.base.weight.to(x.dtype) if x.is_cuda else self.base.weight
            out = F.layer_norm(x, self.base.normalized_shape, weight, None, self.base.eps)
        bias = self.bias.to(out.dtype)
        if out.shape[0] == 1:
            return out + bias.view(self.replicas, *[1] * (out.dim() - 2), -1)
        return (per_replica(out, self.replicas) + bias.unsqueeze(1)).view(out.shape)

    @torch.no_grad()
    def single(self, replica: int) -> nn.Module:
        """Return the plain module with the bias of one replica."""
        base = self.base
        plain: nn.Module
        if isinstance(base, nn.Linear):
            plain = nn.Linear(base.in_features, base.out_features)
        else:
            plain = nn.LayerNorm(base.normalized_shape, base.eps)
        plain.load_state_dict({"weight": base.weight.float(), "bias": self.bias[replica]})
        return plain


class Bitfit(Method):
    """Stacked biases of a pack."""

    layers: dict[str, StackedBias]

    def attach(self, backbone: Backbone, plan: Plan, generators: Sequence[torch.Generator]) -> None:
        self.plan, self.backbone = plan, backbone
        found = [
            (name, module)
            for name, module in backbone.encoder.named_modules()
            if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None and name != TABLE_NORM
        ]
        if not found:
            raise UserError(f"method=bitfit: {backbone.config.family} has no bias to train; choose another method")
        for name, base in found:
            self.layers[name] = StackedBias(base, plan.replicas)
            backbone.encoder.set_submodule(name, self.layers[name])

    def parameter_groups(self) -> list[ParameterGroup]:
        biases = {f"{name}.bias": layer.bias for name, layer in self.layers.items()}
        return [ParameterGroup("adapter", biases, lr=self.plan.learning_rates())]

    def export(self, replica: int, folder: Path, head: Head) -> None:
        """Write a plain transformers model: no PEFT type holds biases alone."""
        for name, layer in self.layers.items():
            self.backbone.encoder.set_submodule(name, layer.single(replica))
        try:
            export.write_model(folder, self.backbone, head, replica)
        finally:
            for name, layer in self.layers.items():
                self.backbone.encoder.set_submodule(name, layer)
