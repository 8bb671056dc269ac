"""LoRA (Hu et al., arXiv 2106.09685): h = W0 x + (alpha / r) B A x on the chosen matrices of every layer.

The adapter is that of a whole pack around one frozen linear layer, with SoRA's gate where a method has one:

    y_r = W0 x_r + b0 + s * B_r (g_r * (A_r x_r)),      r = 1..R   (SoRA, Eq. 6-9; LoRA without g)

Layout is chosen for the skinny products: B is stored transposed, the inner activations are kept as
``A x^T`` and the gate and the scale are folded into B, so that the adapter adds one rank-r update in
place to the frozen layer's output and keeps nothing but ``x`` (which the layer shares) and ``A x^T``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sora.backbones import Backbone, Head
from sora.method_config import LoraConfig
from sora.methods.bank import Bank
from sora.methods.base import Method, Plan, Summary, per_replica
from sora.optim import ParameterGroup
from sora.publish import export


class _LowRankFunction(torch.autograd.Function):
    """Frozen linear layer plus per-replica rank-r update, with its backward written out.

    Shapes: x [R, n, in], weight [out, in], bias [out] or None, a [R, r, in], b [R, r, out] -> [R, n, out].
    The frozen weight gets no gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
        out = F.linear(x, weight, bias)
        inner = torch.bmm(a, x.transpose(1, 2))  # [R, r, n]
        out.baddbmm_(inner.transpose(1, 2), b)
        ctx.save_for_backward(x, weight, a, b, inner)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, inner = ctx.saved_tensors
        grad_inner = torch.bmm(b, grad.transpose(1, 2))  # [R, r, n]
        grad_a = torch.bmm(grad_inner, x)
        grad_b = torch.bmm(inner, grad)
        grad_x = None
        if ctx.needs_input_grad[0]:  # the first layer's input is a frozen embedding
            grad_x = torch.matmul(grad, weight)
            grad_x.baddbmm_(grad_inner.transpose(1, 2), a)
        return grad_x, None, None, grad_a, grad_b


def draw_matrix(r: int, in_features: int, generator: torch.Generator) -> Tensor:
    """Draw an initial A [r, in] of LoRA."""
    bound = 1.0 / math.sqrt(in_features)
    return torch.empty(r, in_features).uniform_(-bound, bound, generator=generator)


def draw_gates(r: int, generator: torch.Generator) -> Tensor:
    """Draw initial gates [r] of SoRA; a layer draws its A first."""
    return torch.randn(r, generator=generator)


class LowRankLinear(nn.Module):
    """An ``nn.Linear`` with R independent low-rank adapters.

    Parameters: ``lora_A`` [R, r, in], ``lora_B`` [R, r, out] (transposed with respect to PEFT's) and, with
    ``gated``, ``gate`` [R, r]. All are float32 whatever the frozen weight's type.

    The input is ``[R*b, t, in]``, replica-major, and the output ``[R*b, t, out]``. An input whose leading
    dimension is 1, such as DeBERTa's relative embeddings, is shared by the replicas: ``[1, p, in] -> [R, p, out]``.

    Raises:
        ValueError: the leading dimension is neither 1 nor a multiple of R.
    """

    def __init__(
        self,
        base: nn.Linear,
        *,
        replicas: int,
        r: int,
        scaling: float,
        gated: bool = False,
        dropout: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.replicas, self.r, self.scaling = replicas, r, scaling
        self.in_features, self.out_features = base.in_features, base.out_features
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.zeros(replicas, r, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(replicas, r, base.out_features, device=device))
        self.gate = nn.Parameter(torch.ones(replicas, r, device=device)) if gated else None
        self.dropout = dropout
        self.prepared: tuple[Tensor, Tensor] | None = None  # A and folded B of this forward pass, from a Bank

    @property
    def weight(self) -> Tensor:
        """Return the frozen layer's: some models, such as T5, ask for a weight's type before they call a layer."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """Return the frozen layer's."""
        return self.base.bias

    @torch.no_grad()
    def reset(self, generators: Sequence[torch.Generator]) -> None:
        """Draw A ~ U(-1/sqrt(in), 1/sqrt(in)) (Kaiming, a = sqrt(5)), B = 0 and g ~ N(0, 1) (authors' code).

        One CPU generator per replica: a replica draws the same numbers alone or packed, on any device.
        """
        for replica, generator in enumerate(generators):
            self.lora_A[replica].copy_(draw_matrix(self.r, self.in_features, generator))
            if self.gate is not None:
                self.gate[replica].copy_(draw_gates(self.r, generator))
        self.lora_B.zero_()

    def folded(self) -> Tensor:
        """Return s * g * B^T, [R, r, out]: what the update multiplies the inner activations with."""
        b = self.lora_B * self.scaling
        return b if self.gate is None else b * self.gate.unsqueeze(-1)

    def forward(self, x: Tensor) -> Tensor:
        dtype = self.base.weight.dtype
        x = x.to(dtype)
        a, b = self.prepared or (self.lora_A.to(dtype), self.folded().to(dtype))
        dropping = self.training and self.dropout is not None
        if x.shape[0] == 1 and not dropping:
            return self._shared(x, a, b)
        if x.shape[0] == 1:  # each replica drops for itself
            x = x.expand(self.replicas, *x.shape[1:])
        stacked = per_replica(x, self.replicas)
        if dropping or torch.is_autocast_enabled(x.device.type):  # autocast knows torch's own operations only
            out = F.linear(stacked, self.base.weight, self.base.bias)
            dropped = self.dropout(x).reshape_as(stacked) if self.dropout is not None else stacked
            out = torch.baddbmm(out, torch.bmm(dropped, a.transpose(1, 2)), b)
        else:
            out = _LowRankFunction.apply(stacked, self.base.weight, self.base.bias, a, b)
        return out.view(*x.shape[:-1], self.out_features)

    def _shared(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Map x [1, ..., in], seen by every replica, to [R, ..., out]; the frozen product is computed once."""
        rows = x.reshape(-1, self.in_features)
        base = F.linear(rows, self.base.weight, self.base.bias).expand(self.replicas, -1, -1)
        inner = torch.matmul(rows, a.transpose(1, 2))  # [R, p, r]
        return torch.baddbmm(base, inner, b).view(self.replicas, *x.shape[1:-1], self.out_features)

    def live(self) -> Tensor:
        """Return bool [R, r]: ranks whose gate is not zero (all of them without a gate)."""
        if self.gate is None:
            return torch.ones(self.replicas, self.r, dtype=torch.bool, device=self.lora_A.device)
        return self.gate.detach() != 0

    @torch.no_grad()
    def pruned(self, replica: int) -> tuple[Tensor, Tensor]:
        """Return the equal LoRA of one replica (SoRA, Eq. 12): A [r', in] and B [out, r'], the gate folded into B.

        The scale is not folded in: W0 + s * B A is the merged weight. r' may be 0.
        """
        keep = self.live()[replica]
        b = self.lora_B[replica]
        if self.gate is not None:
            b = b * self.gate[replica].unsqueeze(-1)
        return self.lora_A[replica][keep].float(), b[keep].t().float().contiguous()


class Lora(Method):
    """Low-rank adapters of a pack; ``gated`` methods build on it."""

    gated = False
    penalises_matrices = False  # whether ``penalty`` is of the A and B
    bank: Bank | None = None
    config: LoraConfig
    layers: dict[str, LowRankLinear]

    def attach(self, backbone: Backbone, plan: Plan, generators: Sequence[torch.Generator]) -> None:
        self.plan, self.backbone = plan, backbone
        self.seeds = [generator.initial_seed() for generator in generators]
        for name, base in backbone.linear_targets(self.config.targets).items():
            layer = self._layer(base, name)
            layer.reset(generators)
            backbone.encoder.set_submodule(name, layer)
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
        """Return s in W0 + s B A."""
        return self.config.scaling

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

    def summary(self, replica: int) -> Summary:
        ranks = {name: int(layer.live()[replica].sum()) for name, layer in self.layers.items()}
        sizes = {name: layer.in_features + layer.out_features for name, layer in self.layers.items()}
        dead = sum(layer.r - ranks[name] for name, layer in self.layers.items())
        full = sum(layer.r * sizes[name] for name, layer in self.layers.items())
        return Summary(
            live=sum(ranks[name] * sizes[name] for name in ranks),
            authors_formula=full - dead * 2 * self.backbone.hidden,
            ranks=ranks,
        )

    def _redraw(self, replica: int) -> torch.Generator:
        """Restart the stream that ``attach`` drew a replica's initial weights from."""
        return torch.Generator().manual_seed(self.seeds[replica])

    def export(self, replica: int, folder: Path, head: Head) -> None:
        factors = {name: layer.pruned(replica) for name, layer in self.layers.items()}
        export.write_peft(folder, factors, self.scaling, self.backbone, head, replica)
