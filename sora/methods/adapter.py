"""Bottleneck adapters (Houlsby et al., ICML 2019, arXiv 1902.00751).

    y = W0 x + b0,     out = y + U_r gelu(D_r y + c_r) + u_r,     r = 1..R

The paper's 1.41M parameters on DeBERTaV3-base fit a bottleneck of 8 behind each of the six matrices of a layer
(1,410,624), which is the default; ``method.targets=[output.dense]`` is Houlsby's own placement, behind the attention
and the feed-forward block.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sora.backbones import Backbone, Head
from sora.method_config import AdapterConfig
from sora.methods.base import Method, Plan, matrices_and_vectors, per_replica
from sora.optim import ParameterGroup
from sora.publish import export

EQUATION = (
    "Each named linear layer W becomes y = W x + b, y + gelu(y down^T + down_bias) up + up_bias, with the tensors "
    "`<name>.down` [d, out], `<name>.down_bias` [d], `<name>.up` [d, out] and `<name>.up_bias` [out]."
)
INIT_STD = 0.01  # Houlsby et al., section 3.6: small, so that training starts near the identity


class BottleneckLinear(nn.Module):
    """An ``nn.Linear`` followed by R independent bottlenecks with a skip connection.

    Parameters: ``down`` [R, d, out], ``down_bias`` [R, d], ``up`` [R, d, out] (transposed), ``up_bias`` [R, out], all
    float32. Maps ``[R*b, t, in]``, replica-major, to ``[R*b, t, out]``; a leading dimension of 1 is shared by the
    replicas, ``[1, p, in] -> [R, p, out]``.
    """

    def __init__(self, base: nn.Linear, *, replicas: int, bottleneck: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.replicas, self.bottleneck = replicas, bottleneck
        size, device = base.out_features, base.weight.device
        self.down = nn.Parameter(torch.zeros(replicas, bottleneck, size, device=device))
        self.down_bias = nn.Parameter(torch.zeros(replicas, bottleneck, device=device))
        self.up = nn.Parameter(torch.zeros(replicas, bottleneck, size, device=device))
        self.up_bias = nn.Parameter(torch.zeros(replicas, size, device=device))

    @torch.no_grad()
    def reset(self, generators: Sequence[torch.Generator]) -> None:
        """Draw both matrices from N(0, 0.01) truncated to two deviations, set biases to 0; one generator a replica."""
        for replica, generator in enumerate(generators):
            for tensor in (self.down, self.up):
                drawn = torch.empty(tensor.shape[1:])
                nn.init.trunc_normal_(drawn, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD, generator=generator)
                tensor[replica].copy_(drawn)

    def own(self) -> dict[str, nn.Parameter]:
        """Return the trainable tensors by name, without the frozen layer's."""
        return {"down": self.down, "down_bias": self.down_bias, "up": self.up, "up_bias": self.up_bias}

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; see the class for shapes."""
        base, replicas = self.base, self.replicas
        out = F.linear(x.to(base.weight.dtype), base.weight, base.bias)
        shape = (replicas, *out.shape[1:]) if out.shape[0] == 1 else out.shape
        rows = per_replica(out.expand(shape), replicas)
        down, up = self.down.to(rows.dtype), self.up.to(rows.dtype)
        inner = torch.baddbmm(self.down_bias.to(rows.dtype).unsqueeze(1), rows, down.transpose(1, 2))
        lifted = torch.baddbmm(self.up_bias.to(rows.dtype).unsqueeze(1), F.gelu(inner), up)
        return (rows + lifted).view(shape)


class Adapter(Method):
    """Stacked bottlenecks of a pack."""

    config: AdapterConfig
    layers: dict[str, BottleneckLinear]

    def attach(self, backbone: Backbone, plan: Plan, generators: Sequence[torch.Generator]) -> None:
        self.plan, self.backbone = plan, backbone
        for name, base in backbone.linear_targets(self.config.targets).items():
            layer = BottleneckLinear(base, replicas=plan.replicas, bottleneck=self.config.bottleneck)
            layer.reset(generators)
            backbone.encoder.set_submodule(name, layer)
            self.layers[name] = layer

    def parameter_groups(self) -> list[ParameterGroup]:
        named = {f"{name}.{key}": p for name, layer in self.layers.items() for key, p in layer.own().items()}
        return matrices_and_vectors(("adapter", "adapter.bias"), named, self.plan)

    def export(self, replica: int, folder: Path, head: Head) -> None:
        tensors = {f"{name}.{key}": p[replica] for name, layer in self.layers.items() for key, p in layer.own().items()}
        export.write_tensors(folder, tensors, self.backbone, head, replica, EQUATION)
