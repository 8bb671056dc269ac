"""LoRA cut after its training: of a finished run's updates only the largest singular values stay.

The update B A of every matrix is split into rank-one parts by SVD. Over all matrices the parts with the largest
singular values stay, as many as fit ``method.live`` weights, a part costing in + out. The head is the source's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sora.backbones import Backbone, Head
from sora.errors import UserError
from sora.files import as_user_error
from sora.method_config import SvdCutConfig
from sora.methods.base import Plan
from sora.methods.masked_lora import MaskedLinear, MaskedLora
from sora.publish import export


class SvdCut(MaskedLora):
    """The adapter of one finished LoRA run, cut."""

    config: SvdCutConfig  # type: ignore[assignment]

    def attach(self, backbone: Backbone, plan: Plan, generators: Sequence[torch.Generator]) -> None:
        """Read the source's adapter and put what stays of it on the encoder. Raises UserError where it is missing."""
        self.plan, self.backbone = plan, backbone
        config = self.config
        if config.live is None:
            raise UserError("method.source, method.size: both must be given: a finished LoRA run, and a size or a run")
        folder = Path(plan.runs[0].paths.runs) / config.source / "adapter"
        advice = "paths.runs names the folder of the source's run, else train it again"
        unfit = (OSError, ValueError, KeyError, SafetensorError)
        with as_user_error(f"method.source: {folder}", "holds no adapter that can be read", advice, unfit):
            found, self.scale, self.head_state, _ = export.read_peft(folder, backbone)
        factors = {name: found[name] for name, _ in backbone.encoder.named_modules() if name in found}
        parts = {name: split(a, b) for name, (a, b) in factors.items()}
        costs = {name: a.shape[1] + b.shape[0] for name, (a, b) in factors.items()}  # weights of one rank
        kept = largest({name: values for name, (_, values, _) in parts.items()}, costs, config.live)
        for name, (left, values, right) in parts.items():
            base = backbone.encoder.get_submodule(name)
            assert isinstance(base, nn.Linear)
            mask = (torch.arange(len(values)) < kept[name]).unsqueeze(0)
            layer = MaskedLinear(base, mask=mask, scaling=self.scale)
            root = (values.sqrt() * mask[0]).unsqueeze(1)
            with torch.no_grad():
                layer.lora_A[0].copy_(root * right)
                layer.lora_B[0].copy_(root * left)
            backbone.encoder.set_submodule(name, layer)
            self.layers[name] = layer

    def make_head(self, backbone: Backbone, **how: Any) -> Head:
        """Load the source's head; its export is on the targets' own scale, whatever it was trained on."""
        how.pop("scale", None)
        head = Head(backbone, **how)
        try:
            head.load_exported(0, self.head_state)
        except ValueError as error:
            raise UserError(
                f"method.source: {self.config.source} has another head ({error}); train it again"
            ) from error
        return head

    @property
    def scaling(self) -> float:
        """Return the source's."""
        return self.scale


def split(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose B A: left vectors [r, out], singular values [r], right vectors [r, in], float64, descending."""
    out, upper = torch.linalg.qr(b.double())
    into, lower = torch.linalg.qr(a.double().T)
    u, values, v = torch.linalg.svd(upper @ lower.T)
    return (out @ u).T, values, v @ into.T


def largest(values: Mapping[str, Tensor], costs: Mapping[str, int], budget: int) -> dict[str, int]:
    """Choose how many parts of each matrix stay: the largest over all that fit into ``budget`` weights."""
    ranked = sorted(((-float(value), name) for name, found in values.items() for value in found), key=lambda x: x[0])
    kept, left = dict.fromkeys(values, 0), budget
    for _, name in ranked:
        if costs[name] <= left:
            kept[name] += 1
            left -= costs[name]
    return kept
