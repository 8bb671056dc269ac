"""AdaLoRA (Zhang et al., ICLR 2023, arXiv 2303.10512): a budget of ranks that moves to where it matters.

Every run of a pack has the same budget and spends it over all its matrices by its own scores. The allocation works
inside the loop and on the optimiser's gradients: nobody has to call it.

The adapter is W0 + (alpha / r) P diag(lambda) Q (Eq. 3), a gated low-rank adapter whose gate is lambda. What is new are
the running scores of every weight, buffers with the replica axis so that checkpoints carry them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sora.backbones import Backbone
from sora.errors import UserError
from sora.method_config import AdaloraConfig
from sora.methods.bank import Bank
from sora.methods.base import Plan
from sora.methods.lora import Lora, LowRankLinear
from sora.optim import ParameterGroup

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
        assert self.gate is not None
        self.gate.zero_()

    def live(self) -> Tensor:
        """Return bool [R, r]: triplets that are not dead; all of them while the layer has never been scored."""
        unscored = (self.sensitivity_gate == 0).all(dim=1, keepdim=True)
        return super().live() | unscored


def distances(matrices: Tensor) -> Tensor:
    """Compute ||X X^T - I||_F of each X [r, width] in [n, R, r, width] -> [n, R], as in the authors' code."""
    count, replicas, r, width = matrices.shape
    flat = matrices.reshape(-1, r, width)
    eye = torch.eye(r, dtype=flat.dtype, device=flat.device)
    grams = torch.baddbmm(eye, flat, flat.transpose(1, 2), beta=-1.0)
    return torch.linalg.matrix_norm(grams).view(count, replicas)


class Scores:
    """A score s(lambda) + mean s(P) + mean s(Q) of each triplet, s = sensitivity * uncertainty (Eq. 7).

    The layers' buffers, by which checkpoints know the averages, become views of those here.
    """

    def __init__(self, bank: Bank, layers: Sequence[SvdLinear]) -> None:
        assert bank.gate is not None
        self.bank = bank
        self.groups = (bank.adapter, bank.gate)
        self.sensitivity = [torch.zeros_like(_values(group)) for group in self.groups]
        self.uncertainty = [torch.zeros_like(_values(group)) for group in self.groups]
        self.kept = torch.ones_like(self.sensitivity[1], dtype=torch.bool)
        for kind, (matrices, gates) in (("sensitivity", self.sensitivity), ("uncertainty", self.uncertainty)):
            a, b = matrices.tensor_split([bank.split], dim=1)
            for name, whole in (("lora_A", a), ("lora_B", b), ("gate", gates)):
                _bind(layers, f"{kind}_{name}", whole)
        _bind(layers, "kept", self.kept)

    @torch.no_grad()
    def update(self, beta1: float, beta2: float, alive: Tensor) -> None:
        """Update the running sensitivity |w grad| and its uncertainty (Eq. 9-10) from the present gradients.

        Of the replicas that are not ``alive`` [R] nothing changes.
        """
        trains = alive.unsqueeze(1).to(self.sensitivity[0].dtype)
        first, second = trains * (1 - beta1), trains * (1 - beta2)
        for group, mean, spread in zip(self.groups, self.sensitivity, self.uncertainty, strict=True):
            assert group.grads is not None
            now = (_values(group) * group.grads).abs_()
            if not now.is_cuda:  # there RowsAdam has emptied the gradients of the dead, which may not be finite
                now.masked_fill_(~alive.unsqueeze(1), 0.0)
            mean.lerp_(now, first)
            spread.lerp_(now.sub_(mean).abs_(), second)

    def importance(self) -> Tensor:
        """Return the score of each triplet, [R, G] in the order of the layers."""
        matrices, gates = (a * b for a, b in zip(self.sensitivity, self.uncertainty, strict=True))
        a, b = matrices.tensor_split([self.bank.split], dim=1)
        return gates + self.bank.by_rank(a, outer=False, mean=True) + self.bank.by_rank(b, outer=True, mean=True)

    @torch.no_grad()
    def keep(self, kept: Tensor, alive: Tensor) -> None:
        """Set lambda to 0 where ``kept`` [R, G] is False, in the replicas that are ``alive`` [R]."""
        trains = alive.unsqueeze(1)
        self.kept.copy_(torch.where(trains, kept, self.kept))
        _values(self.groups[1]).mul_(kept | ~trains)


def _values(group: ParameterGroup) -> Tensor:
    assert group.values is not None
    return group.values


def _bind(layers: Sequence[SvdLinear], name: str, whole: Tensor) -> None:
    """Make the buffer ``name`` of each layer the next columns of ``whole`` [R, n], with the values it has."""
    start = 0
    for layer in layers:
        old: Tensor = getattr(layer, name)
        width = old[0].numel()
        view = whole[:, start : start + width].view(old.shape)
        view.copy_(old)
        setattr(layer, name, view)
        start += width


def cubic_budget(step: int, warmup: int, last: int, start: int, end: int) -> int:
    """Count the triplets kept at the 0-based ``step``: ``start`` up to ``warmup`` = t_i, ``end`` from ``last`` = T-t_f.

    Between them (t - t_i) / (T - t_i - t_f) of the way is behind, as in the authors' code; Eq. 12 as printed takes a
    second t_f from the numerator, by which the budget would jump at the end.
    """
    if step <= warmup:
        return start
    if step >= last:
        return end
    left = 1 - (step - warmup) / (last - warmup)
    return int(end + (start - end) * left**3)


def allocate(scores: Tensor, budget: int) -> Tensor:
    """Choose the triplets that stay, bool [R, n]: each replica's ``budget`` highest of ``scores`` [R, n].

    Ties at the border die together, as in the authors' code. A replica whose scores are not finite keeps everything.
    """
    dropped = scores.shape[1] - budget
    if dropped <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    border = scores.sort(dim=1).values[:, dropped - 1 : dropped]
    return (scores > border) | ~torch.isfinite(scores).all(dim=1, keepdim=True)


class Adalora(Lora):
    """SVD-shaped adapters of a pack and the allocator of their ranks."""

    config: AdaloraConfig
    layers: dict[str, SvdLinear]  # type: ignore[assignment]
    penalises_matrices = True

    def attach(self, backbone: Backbone, plan: Plan, generators: Sequence[torch.Generator]) -> None:
        """Attach as LoRA does. Raises UserError where the phases leave no step to allocate ranks in."""
        config, total = self.config, plan.total_steps
        self.warmup = _steps(config.warmup, total)
        # The step of the last allocation; without a final phase it follows the last update.
        self.last = min(total - _steps(config.final, total), total - 1)
        if self.warmup >= self.last:
            raise UserError(
                f"method.warmup={config.warmup:g} and method.final={config.final:g} leave none of {total} steps "
                "to allocate ranks in; lower them (below 1 they are fractions of all steps)"
            )
        super().attach(backbone, plan, generators)
        self.start, self.end = config.init_r * len(self.layers), config.r * len(self.layers)

    def _layer(self, base: torch.nn.Linear, name: str) -> LowRankLinear:
        return SvdLinear(
            base,
            replicas=self.plan.replicas,
            r=self.config.init_r,
            scaling=self.scaling,
            dropout=self._dropout(name),
        )

    def parameter_groups(self) -> list[ParameterGroup]:
        gates = {f"{name}.gate": layer.gate for name, layer in self.layers.items() if layer.gate is not None}
        decay = self.plan.runs[0].trainer.weight_decay
        group = ParameterGroup("gate", gates, lr=self.plan.learning_rates(), weight_decay=decay)
        return self._banked([*super().parameter_groups(), group])

    def penalty(self) -> Tensor | None:
        """Return gamma times the mean over all P and Q of their distance from orthogonality (Eq. 4)."""
        if self.config.orthogonality == 0:
            return None
        stacks: Sequence[Tensor] = self.bank.stacks if self.bank is not None else []
        if not stacks:
            stacks = [matrix.unsqueeze(0) for layer in self.layers.values() for matrix in (layer.lora_A, layer.lora_B)]
        norms = torch.cat([distances(stack) for stack in stacks])  # [2 * matrices, R]
        return self.config.orthogonality * norms.mean(dim=0)

    def after_step(self, step: int, alive: Tensor) -> None:
        """Score, and at every ``interval`` steps between the first and the last phase spend the budget anew."""
        config, scores = self.config, self.scores
        if step > self.last:  # the final phase trains what was chosen
            scores.keep(scores.kept, alive)
            return
        if step < self.last:
            scores.update(config.beta1, config.beta2, alive)
        if self._allocates(step):
            budget = cubic_budget(step, self.warmup, self.last, self.start, self.end)
            scores.keep(allocate(scores.importance(), budget), alive)

    @functools.cached_property
    def scores(self) -> Scores:
        """Return the running scores, made at the first step, when the optimiser has the tensors."""
        assert self.bank is not None
        return Scores(self.bank, list(self.layers.values()))

    def _allocates(self, step: int) -> bool:
        """Return whether the budget is spent anew after the 0-based update ``step``."""
        return step == self.last or (self.warmup < step < self.last and step % self.config.interval == 0)

    def no_data_ranks(self, replica: int, step: int, total: int | None = None) -> dict[str, int]:
        """Spend the budget of that time by the order that the initial weights alone give the triplets.

        The scores |w grad| that a run begins with order nothing: lambda is 0, and so are the gradients of P and Q, so
        that all scores are 0, and ties die together. The null therefore gives every weight the same gradient: then
        sensitivity and uncertainty are both proportional to |w|, and a triplet's score to mean P^2 + mean Q^2 of its
        initial draw. The budget is ``total``, or that of the last allocation among the first ``step`` updates; before
        any, all stay.
        """
        generator = self._redraw(replica)
        scores = []
        for layer in self.layers.values():
            q, p = draw_factors(layer.r, layer.in_features, layer.out_features, generator)
            scores.append(q.square().mean(dim=1) + p.square().mean(dim=1))
        spent = max(filter(self._allocates, range(step)), default=0)
        budget = cubic_budget(spent, self.warmup, self.last, self.start, self.end) if total is None else total
        kept = allocate(torch.cat(scores).unsqueeze(0), budget).view(len(self.layers), -1)
        return dict(zip(self.layers, kept.sum(dim=1).tolist(), strict=True))


def _steps(value: float, total: int) -> int:
    """Return steps, given as steps (>= 1) or as a fraction of ``total`` (< 1)."""
    return round(value * total) if value < 1 else int(value)
