"""AdaLoRA's adapter (Zhang et al., ICLR 2023, Eq. 3): W0 + (alpha / r) P diag(lambda) Q, for R replicas.

It is a gated low-rank adapter whose gate is lambda; what is new are the running scores of every weight, buffers with
the replica axis so that checkpoints carry them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sora.methods.lowrank import LowRankLinear

INIT_STD = 0.02  # of P and Q, as in the AdaLoRA authors' code; lambda starts at 0


def draw_factors(r: int, inputs: int, outputs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw initial Q [r, in] and P [r, out], in this order."""
    q, p = (torch.randn(r, size, generator=generator) * INIT_STD for size in (inputs, outputs))
    return q, p


class SvdLinear(LowRankLinear):
    """P = ``lora_B`` [R, r, out] (transposed), lambda = ``gate`` [R, r], Q = ``lora_A`` [R, r, in].

    A triplet i is (P_i, lambda_i, Q_i); one with lambda_i = 0 is dead. Before training every lambda is 0 and none is
    dead yet: the running scores tell the two apart.
    """

    SCORED = ("lora_A", "lora_B", "gate")
    kept: Tensor
    sensitivity_gate: Tensor
    ADAPTIVE = (*(f"{kind}_{name}" for name in SCORED for kind in ("sensitivity", "uncertainty")), "kept")

    def __init__(
        self, base: nn.Linear, *, replicas: int, r: int, scaling: float, dropout: nn.Module | None = None
    ) -> None:
        super().__init__(base, replicas=replicas, r=r, scaling=scaling, gated=True, dropout=dropout)
        for name in self.SCORED:
            tensor = getattr(self, name)
            self.register_buffer(f"sensitivity_{name}", torch.zeros_like(tensor))
            self.register_buffer(f"uncertainty_{name}", torch.zeros_like(tensor))
        self.register_buffer("kept", torch.ones(replicas, r, dtype=torch.bool, device=base.weight.device))

    @torch.no_grad()
    def reset(self, generators: Sequence[torch.Generator]) -> None:
        """Draw P, Q ~ N(0, 0.02), set lambda = 0; one CPU generator per replica."""
        for replica, generator in enumerate(generators):
            a, b = draw_factors(self.r, self.in_features, self.out_features, generator)
            self.lora_A[replica].copy_(a)
            self.lora_B[replica].copy_(b)
        self._gate.zero_()

    @property
    def _gate(self) -> nn.Parameter:
        assert self.gate is not None
        return self.gate

    def live(self) -> Tensor:
        """Return bool [R, r]: triplets that are not dead; all of them while the layer has never been scored."""
        unscored = (self.sensitivity_gate == 0).all(dim=1, keepdim=True)
        return super().live() | unscored

    @torch.no_grad()
    def score(self, beta1: float, beta2: float, alive: Tensor) -> None:
        """Update the running sensitivity |w grad| and its uncertainty (Eq. 9-10) from the present gradients.

        Of the replicas that are not ``alive`` [R] nothing changes.
        """
        for name in self.SCORED:
            tensor = getattr(self, name)
            now = (tensor * tensor.grad).abs()
            mean, spread = getattr(self, f"sensitivity_{name}"), getattr(self, f"uncertainty_{name}")
            trains = alive.view(-1, *[1] * (tensor.ndim - 1))
            mean.copy_(torch.where(trains, mean.lerp(now, 1 - beta1), mean))
            spread.copy_(torch.where(trains, spread.lerp((now - mean).abs(), 1 - beta2), spread))

    def importance(self) -> Tensor:
        """Score of each triplet, [R, r]: s(lambda) + mean s(P) + mean s(Q), s = sensitivity * uncertainty (Eq. 7)."""
        a, b, gate = (getattr(self, f"sensitivity_{n}") * getattr(self, f"uncertainty_{n}") for n in self.SCORED)
        return gate + a.mean(-1) + b.mean(-1)

    @torch.no_grad()
    def keep(self, kept: Tensor, alive: Tensor) -> None:
        """Set lambda to 0 where ``kept`` [R, r] is False, in the replicas that are ``alive`` [R]."""
        trains = alive.unsqueeze(1)
        self.kept.copy_(torch.where(trains, kept, self.kept))
        self._gate.mul_(kept | ~trains)

    def orthogonality(self) -> Tensor:
        """Compute ||P^T P - I||_F and ||Q Q^T - I||_F, [2, R]; norms without the square, as in the authors' code."""
        eye = torch.eye(self.r, dtype=self.lora_A.dtype, device=self.lora_A.device)
        grams = [torch.bmm(x, x.transpose(1, 2)) - eye for x in (self.lora_A, self.lora_B)]
        return torch.stack([torch.linalg.matrix_norm(gram) for gram in grams])


def distances(matrices: Tensor) -> Tensor:
    """Compute ||X X^T - I||_F of each X [r, width] in [n, R, r, width] -> [n, R]: ``orthogonality`` of all at once."""
    count, replicas, r, width = matrices.shape
    flat = matrices.reshape(-1, r, width)
    eye = torch.eye(r, dtype=flat.dtype, device=flat.device)
    grams = torch.baddbmm(eye, flat, flat.transpose(1, 2), beta=-1.0)
    return torch.linalg.matrix_norm(grams).view(count, replicas)
