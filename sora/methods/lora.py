"""LoRA (Hu et al., arXiv 2106.09685): h = W0 x + (alpha / r) B A x on the chosen matrices of every layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sora.backbones import Backbone, Head
from sora.config import LoraConfig
from sora.methods.bank import Bank
from sora.methods.base import Method, Plan, Summary
from sora.methods.lowrank import LowRankLinear, replace_module
from sora.optim import ParameterGroup
from sora.publish import export


class Lora(Method):
    """Low-rank adapters of a pack; ``gated`` methods build on it."""

    gated = False
    penalises_matrices = False  # whether ``penalty`` is of the A and B
    bank: Bank | None = None

    def __init__(self, config: LoraConfig) -> None:
        self.config = config
        self.layers: dict[str, LowRankLinear] = {}

    def attach(self, backbone: Backbone, plan: Plan, generators: Sequence[torch.Generator]) -> None:
        self.plan, self.backbone = plan, backbone
        self.seeds = [generator.initial_seed() for generator in generators]
        for name, base in backbone.linear_targets(self.config.targets).items():
            layer = self._layer(base, name)
            layer.reset(generators)
            replace_module(backbone.encoder, name, layer)
            self.layers[name] = layer

    def _layer(self, base: nn.Linear, name: str) -> LowRankLinear:
        return LowRankLinear(
            base,
            replicas=self.plan.replicas,
            r=self.config.r,
            scaling=self.scaling,
            gated=self.gated,
            dropout=self._dropout(name),
        )

    def _dropout(self, name: str) -> nn.Module | None:
        p = self.config.dropout
        return self.backbone.dropout_site(p, f"{name}.lora") if p else None

    @property
    def scaling(self) -> float:
        """Return s in W0 + s B A: alpha / r, or alpha / sqrt(r) with rsLoRA (Kalajdzievski, arXiv 2312.03732)."""
        r = self.config.r
        return self.config.alpha / (math.sqrt(r) if self.config.rslora else r)

    def parameter_groups(self) -> list[ParameterGroup]:
        matrices = {f"{name}.lora_A": layer.lora_A for name, layer in self.layers.items()}
        matrices |= {f"{name}.lora_B": layer.lora_B for name, layer in self.layers.items()}
        decay = self.plan.runs[0].trainer.weight_decay
        group = ParameterGroup("adapter", matrices, lr=self.plan.learning_rates(), weight_decay=decay)
        return self._banked([group])

    def _banked(self, groups: list[ParameterGroup]) -> list[ParameterGroup]:
        """Hand adapter and gate groups to the bank, which makes all layers ready together on a GPU."""
        if self.bank is None:
            self.bank = Bank(list(self.layers.values()), groups[0], None, stacked=self.penalises_matrices)
            self.bank.attach(self.backbone)
        self.bank.adapter, self.bank.gate = groups[0], groups[1] if len(groups) > 1 else None
        return groups

    def penalty(self) -> Tensor | None:
        return None

    def after_step(self, step: int, alive: Tensor) -> None:
        """Do nothing: LoRA has no state but its weights."""

    def summary(self, replica: int) -> Summary:
        ranks = {name: int(layer.live()[replica].sum()) for name, layer in self.layers.items()}
        sizes = {name: layer.in_features + layer.out_features for name, layer in self.layers.items()}
        dead = sum(layer.r - ranks[name] for name, layer in self.layers.items())
        full = sum(layer.r * sizes[name] for name, layer in self.layers.items())
        return Summary(
            live=sum(ranks[name] * sizes[name] for name in ranks),
            authors_formula=full - dead * 2 * self.backbone.arch.hidden,
            ranks=ranks,
        )

    def _redraw(self, replica: int) -> torch.Generator:
        """Restart the stream that ``attach`` drew a replica's initial weights from."""
        return torch.Generator().manual_seed(self.seeds[replica])

    def export(self, replica: int, folder: Path, head: Head) -> None:
        factors = {name: layer.pruned(replica) for name, layer in self.layers.items()}
        export.write_peft(folder, factors, self.scaling, self.backbone, head, replica)
