"""Zero-shot similarity: the cosine of two texts' pooled vectors, each text read alone; nothing is trained.

The cosine c becomes low + (high - low) c on the task's scale, 5 c for STS-B. Correlations do not depend on that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sora.backbones import Backbone, Head
from sora.backbones.head import pooled
from sora.methods.base import Method, Plan
from sora.optim import ParameterGroup
from sora.publish import export

EQUATION = "Nothing was trained: the score is the cosine of the two texts' pooled vectors, on the task's scale."


class CosineHead(nn.Module):
    """Hidden states of two sequences an example, [2 n, t, d] -> [n, 1]."""

    def __init__(self, pooling: str, low: float, high: float) -> None:
        super().__init__()
        self.pooling, self.low, self.high = pooling, low, high

    def forward(self, hidden: Tensor, attention_mask: Tensor, spans: Tensor | None = None) -> Tensor:
        x = pooled(hidden, attention_mask, self.pooling)
        cosine = nn.functional.cosine_similarity(x[0::2], x[1::2], dim=1)
        return (self.low + (self.high - self.low) * cosine).unsqueeze(1)

    def export_state(self, replica: int) -> dict[str, Tensor]:
        """Return nothing: there are no weights."""
        return {}


class ZeroShot(Method):
    """A cosine above the frozen encoder."""

    def attach(self, backbone: Backbone, plan: Plan, generators: Sequence[torch.Generator]) -> None:
        self.plan, self.backbone = plan, backbone

    def make_head(self, backbone: Backbone, **how: Any) -> CosineHead:
        """Make a cosine on the scale of the task's targets."""
        low, high = self.plan.runs[0].task.score_range
        return CosineHead(backbone.config.pooling, low, high)

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    def export(self, replica: int, folder: Path, head: Head) -> None:
        export.write_tensors(folder, {}, self.backbone, head, replica, EQUATION)
