"""Bottleneck adapters (Houlsby et al., ICML 2019, arXiv 1902.00751).

The paper's 1.41M parameters on DeBERTaV3-base fit a bottleneck of 8 behind each of the six matrices of a layer
(1,410,624), which is the default; ``method.targets=[output.dense]`` is Houlsby's own placement, behind the attention
and the feed-forward block.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sora.backbones import Backbone, Head
from sora.config import AdapterConfig
from sora.methods.base import Method, Plan, Summary
from sora.methods.bottleneck import BottleneckLinear
from sora.methods.lowrank import replace_module
from sora.optim import ParameterGroup
from sora.publish import export

EQUATION = (
    "Each named linear layer W becomes y = W x + b, y + gelu(y down^T + down_bias) up + up_bias, with the tensors "
    "`<name>.down` [d, out], `<name>.down_bias` [d], `<name>.up` [d, out] and `<name>.up_bias` [out]."
)


class Adapter(Method):
    """Stacked bottlenecks of a pack."""

    def __init__(self, config: AdapterConfig) -> None:
        self.config = config
        self.layers: dict[str, BottleneckLinear] = {}

    def attach(self, backbone: Backbone, plan: Plan, generators: Sequence[torch.Generator]) -> None:
        self.plan, self.backbone = plan, backbone
        for name, base in backbone.linear_targets(self.config.targets).items():
            layer = BottleneckLinear(base, replicas=plan.replicas, bottleneck=self.config.bottleneck)
            layer.reset(generators)
            replace_module(backbone.encoder, name, layer)
            self.layers[name] = layer

    def parameter_groups(self) -> list[ParameterGroup]:
        lr, decay = self.plan.learning_rates(), self.plan.runs[0].trainer.weight_decay
        named = {f"{name}.{key}": p for name, layer in self.layers.items() for key, p in layer.own().items()}
        matrices = {name: p for name, p in named.items() if p.ndim == 3}
        biases = {name: p for name, p in named.items() if p.ndim == 2}
        return [
            ParameterGroup("adapter", matrices, lr=lr, weight_decay=decay),
            ParameterGroup("adapter.bias", biases, lr=lr),
        ]

    def penalty(self) -> Tensor | None:
        return None

    def after_step(self, step: int, alive: Tensor) -> None:
        """Nothing."""

    def summary(self, replica: int) -> Summary:
        count = sum(p[0].numel() for layer in self.layers.values() for p in layer.own().values())
        return Summary(live=count, authors_formula=count)

    def export(self, replica: int, folder: Path, head: Head) -> None:
        tensors = {f"{name}.{key}": p[replica] for name, layer in self.layers.items() for key, p in layer.own().items()}
        export.write_tensors(folder, tensors, self.backbone, head, replica, EQUATION)
