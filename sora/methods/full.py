"""Full fine-tuning: every weight of the encoder trains. It has no replica axis, so a pack holds one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sora.backbones import Backbone, Head
from sora.methods.base import Method, Plan
from sora.optim import ParameterGroup
from sora.publish import export


class Full(Method):
    """Weight decay on matrices; biases and LayerNorms without, as BERT's own training had it."""

    def attach(self, backbone: Backbone, plan: Plan, generators: Sequence[torch.Generator]) -> None:
        if plan.replicas != 1:
            raise ValueError(f"full trains the backbone itself and cannot be packed, got {plan.replicas} runs")
        self.plan, self.backbone = plan, backbone
        backbone.unfreeze()

    def parameter_groups(self) -> list[ParameterGroup]:
        tensors = dict(self.backbone.encoder.named_parameters())
        lr = self.plan.learning_rates()
        decay = self.plan.runs[0].trainer.weight_decay
        matrices = {n: p for n, p in tensors.items() if p.ndim >= 2}
        vectors = {n: p for n, p in tensors.items() if p.ndim < 2}
        return [
            ParameterGroup("matrices", matrices, lr=lr, weight_decay=decay, stacked=False),
            ParameterGroup("vectors", vectors, lr=lr, stacked=False),
        ]

    def export(self, replica: int, folder: Path, head: Head) -> None:
        export.write_model(folder, self.backbone, head, replica)
