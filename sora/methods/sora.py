"""SoRA (Ding et al., arXiv 2311.11696): LoRA with a gate per rank that an L1 proximal step drives to zero.

    h = W0 x + (alpha / r) B (g * A x)             Eq. 6-9
    g <- T_xi(g - eta_t grad L0)                   Eq. 10-11, T the soft threshold

The paper and the released code differ in four places, each a switch of ``method``; ``fidelity`` sets those left null:

    switch           paper       authors    what the code does
    gate_update      gradient    adam       the gate takes an AdamW step (eps 1e-6, no decay), not a gradient step
    threshold_rule   lr_scaled   constant   xi is the same at every step instead of eta_t * lambda
    prox             soft        authors    shrink and zero test in sequence: a dead zone of 2 xi instead of xi
    penalty_rule     off         mean       an L1 term, lambda * mean |g|, is in the loss, besides the proximal step

``penalty_rule=sum`` is Eq. 14 read as a loss term, lambda * sum |g|.

A and B, and the head where it trains, go by ``trainer.optimizer``. Left null, ``fidelity=authors`` makes it
``adamw_hf``: transformers' old AdamW, which adds eps to sqrt(v) before the bias correction and decays after the step.
While gradients are small, eps is no rounding: it decides how A starts. The paper names no optimiser;
``fidelity=paper`` has torch's (``adamw``). To compare methods, give all of them one.

One difference remains: the authors' learning rates reach zero after int(epochs * N / b) steps (RTE: 3,890), those here
after all ceil(N / b) * epochs steps (3,900).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sora.method_config import SoraConfig
from sora.methods.lora import Lora, draw_gates, draw_matrix
from sora.methods.proximal import GateStep
from sora.optim import ParameterGroup, column

# Of the authors' gate optimiser, which is transformers' old AdamW whatever trains the rest: early gate gradients are of
# that size, so it decides how the gates start.
GATE_EPS = 1e-6


class Sora(Lora):
    """Gated low-rank adapters of a pack."""

    gated = True
    config: SoraConfig
    weights: Tensor | None = None  # of the penalty, [R]

    def parameter_groups(self) -> list[ParameterGroup]:
        gates = {f"{name}.gate": layer.gate for name, layer in self.layers.items() if layer.gate is not None}
        group = ParameterGroup(
            "gate",
            gates,
            lr=self.plan.learning_rates(),
            eps=GATE_EPS,
            variant="adamw_hf",
            clip=self.config.clip,
            after_adam=GateStep.of(self.plan.runs),
        )
        return self._banked([*super().parameter_groups(), group])

    def penalty(self) -> Tensor | None:
        if self.config.penalty_rule == "off":
            return None
        gates = self.bank.gates if self.bank is not None else None  # [R, G]
        if gates is None:
            gates = torch.cat([layer.gate for layer in self.layers.values() if layer.gate is not None], dim=1)
        size = gates.abs().mean(dim=1) if self.config.penalty_rule == "mean" else gates.abs().sum(dim=1)
        if self.weights is None or self.weights.device != size.device or self.weights.dtype != size.dtype:
            weights = [run.method.penalty for run in self.plan.runs]  # type: ignore[attr-defined]
            self.weights = column(weights, size).squeeze(1)  # once: a recorded step finds them where they were
        return size * self.weights

    def no_data_ranks(self, replica: int, step: int, total: int | None = None) -> dict[str, int]:
        """Draw the initial gates again, shrink them as the first ``step`` updates do, and count what is left.

        ``total``: count the largest ``total`` gates of the draw instead, as a threshold takes the smallest first.
        """
        timeline, generator = self.plan.timeline, self._redraw(replica)
        drawn = []
        for layer in self.layers.values():
            draw_matrix(layer.r, layer.in_features, generator)
            drawn.append(draw_gates(layer.r, generator))
        gates, shrink = torch.stack(drawn), GateStep.of([self.plan.runs[replica]])
        if total is not None:
            kept = torch.zeros(gates.numel(), dtype=torch.bool)
            kept[gates.abs().flatten().topk(total).indices] = True
            gates, step = kept.view_as(gates), 0
        for each in range(step):
            if not gates.any():
                break
            gates = shrink.shrunk(gates, column(shrink.thresholds(timeline, each), gates))
        return dict(zip(self.layers, (gates != 0).sum(dim=1).tolist(), strict=True))
