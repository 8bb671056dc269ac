"""Full fine-tuning: every weight of the encoder trains. It has no replica axis, so a pack holds one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sora.backbones import Backbone, Head
from sora.methods.base import Method, Plan, matrices_and_vectors
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
        return matrices_and_vectors(("matrices", "vectors"), tensors, self.plan, stacked=False)

    def export(self, replica: int, folder: Path, head: Head) -> None:
        export.write_model(folder, self.backbone, head, replica)
