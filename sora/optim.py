"""The optimiser of a pack: AdamW and the proximal gate step over flat rows, one row per replica.

Every trainable tensor is a view into ``rows`` [R, P], its gradient a view into ``grads`` [R, P]. A row is all
that one replica trains, so that its norm is one reduction, a checkpoint one slice, and the best weights so far
one copy. Inside a row the tensors of one group lie side by side: a group is a range of columns.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

# A view into the rows of a pack is strided over R, so autograd remarks once that gradient and parameter are not
# dense. The last dimensions are contiguous all the same.
warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")


@dataclass
class ParameterGroup:
    """Tensors that train by one rule.

    ``lr`` [R] is the peak rate and ``threshold`` [R] the xi at the peak rate of each replica. The loop hands
    the optimiser their values at every step (schedules.py).
    """

    name: str
    tensors: dict[str, nn.Parameter]
    lr: Sequence[float]
    weight_decay: float = 0.0
    eps: float = 1e-8
    variant: str = "adamw"  # adamw | adamw_hf: transformers' old one, eps before the bias correction, decay last
    clip: str = "joint"  # joint: by the norm of all joint groups together | own: by the group's own norm
    rule: str = "adam"  # adam | proximal
    stacked: bool = True  # tensors have the leading axis R; False only for R = 1
    # proximal groups only
    threshold: Sequence[float] = ()
    threshold_rule: str = "constant"  # constant | lr_scaled
    prox: str = "soft"  # soft | authors
    update: str = "adam"  # adam | gradient
    columns: slice = field(default_factory=lambda: slice(0, 0), repr=False)  # set by the optimiser


def soft_threshold(x: Tensor, xi: Tensor | float) -> Tensor:
    """T_xi(x) = sign(x) max(|x| - xi, 0), the proximal operator of xi |x| (SoRA, Eq. 11)."""
    return torch.sign(x) * (x.abs() - xi).clamp_min(0)


def authors_threshold(x: Tensor, xi: Tensor | float) -> Tensor:
    """What the authors' optimiser does instead: shrink by xi what is beyond xi, then zero what is left below xi.

    The dead zone is therefore |x| < 2 xi, and |x| = xi or 2 xi survive as +-xi.
    """
    shrunk = torch.where(x > xi, x - xi, x)
    shrunk = torch.where(shrunk < -xi, shrunk + xi, shrunk)
    return torch.where(shrunk.abs() < xi, torch.zeros_like(shrunk), shrunk)


PROX = {"soft": soft_threshold, "authors": authors_threshold}


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """One number per replica as [R, 1] beside ``like``; from pinned memory, so that a GPU is not waited for."""
    host = torch.tensor(list(values), dtype=like.dtype).unsqueeze(1)
    return host.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else host


class PackOptimizer:
    """Per-replica clipping, AdamW and proximal steps for R replicas at once.

    Adam itself is torch's fused AdamW, one per replica (each has its own rates). A replica that has diverged is
    skipped on the device (``found_inf``, the mechanism of gradient scalers), with no synchronisation.
    """

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        *,
        replicas: int,
        clip: float,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.groups = [g for g in groups if g.tensors]
        self.replicas, self.clip = replicas, clip
        first = next((tensor for group in self.groups for tensor in group.tensors.values()), torch.zeros(0))
        size = 0
        for group in self.groups:
            start = size
            for tensor in group.tensors.values():
                if tensor.dtype != first.dtype:
                    raise TypeError(f"trainable tensors must share one dtype, got {first.dtype} and {tensor.dtype}")
                size += tensor.numel() // replicas
            group.columns = slice(start, size)
        self.rows = torch.zeros(replicas, size, dtype=first.dtype, device=first.device)
        self.grads = torch.zeros_like(self.rows)
        self.alive = torch.ones(replicas, dtype=torch.bool, device=first.device)
        self.betas = betas
        self.updates = 0
        self._bind()
        self._adam = [self._build_adam(replica) for replica in range(replicas) if self.groups]

    def _bind(self) -> None:
        """Move every tensor and its gradient into the rows."""
        for group in self.groups:
            offset = group.columns.start
            for tensor in group.tensors.values():
                width = tensor.numel() // self.replicas
                shape = tensor.shape if group.stacked else (1, *tensor.shape)
                view = self.rows[:, offset : offset + width].view(shape)
                view.copy_(tensor.detach().view(shape))
                grad = self.grads[:, offset : offset + width].view(shape)
                tensor.data = view if group.stacked else view[0]
                tensor.grad = grad if group.stacked else grad[0]
                offset += width

    def _build_adam(self, replica: int) -> torch.optim.AdamW:
        specs = []
        for group in self.groups:
            if group.update == "gradient":
                continue
            part = nn.Parameter(self.rows[replica, group.columns])
            part.grad = self.grads[replica, group.columns]
            decay = group.weight_decay if group.variant == "adamw" else 0.0  # else it follows the step: _decay
            specs.append({"params": [part], "lr": group.lr[replica], "eps": group.eps, "weight_decay": decay})
        return torch.optim.AdamW(specs, betas=self.betas, fused=True)

    def zero_grad(self) -> None:
        self.grads.zero_()

    @torch.no_grad()
    def step(self, losses: Tensor, lr: float, threshold: Sequence[Sequence[float]]) -> Tensor:
        """One update of every living replica; returns the gradient norms [R] before clipping.

        ``losses`` [R] decide, with the norms, who is alive. ``lr`` multiplies each group's peak rate;
        ``threshold`` [groups][R] are the thresholds of this step (ignored for groups that have none).
        Order, as in the authors' loop: clip the tensors of a run by their norm (theirs are all ``joint``), AdamW, then
        the proximal map.
        """
        norms = torch.linalg.vector_norm(self.grads, dim=1)
        self.alive &= torch.isfinite(losses.detach()) & torch.isfinite(norms)
        if self.clip > 0:
            self._clip(norms)
        dead = (~self.alive).float()
        self.updates += 1
        for replica, adam in enumerate(self._adam):
            trained = [g for g in self.groups if g.update != "gradient"]
            for spec, group in zip(adam.param_groups, trained, strict=True):
                spec["lr"] = group.lr[replica] * lr
                spec["eps"] = group.eps if group.variant == "adamw" else self._uncorrected(group.eps)
            adam.found_inf = dead[replica]  # type: ignore[attr-defined]
            adam.step()
        for group, xi in zip(self.groups, threshold, strict=True):
            if group.variant == "adamw_hf" and group.weight_decay and group.update == "adam":
                self._decay(group, lr)
            if group.rule == "proximal":
                self._proximal(group, lr, xi)
        return norms

    def _clip(self, norms: Tensor) -> None:
        """Scale gradients so that no norm is above ``clip``; ``norms`` [R] are those of the whole rows."""
        parts = [[group.columns] for group in self.groups if group.clip == "own"]
        if not parts:
            self.grads.mul_((self.clip / (norms + 1e-6)).clamp_max(1.0).unsqueeze(1))
            return
        parts.append([group.columns for group in self.groups if group.clip == "joint"])
        for part in filter(None, parts):
            inside = torch.stack([torch.linalg.vector_norm(self.grads[:, columns], dim=1) for columns in part])
            factor = (self.clip / (torch.linalg.vector_norm(inside, dim=0) + 1e-6)).clamp_max(1.0).unsqueeze(1)
            for columns in part:
                self.grads[:, columns].mul_(factor)

    def _uncorrected(self, eps: float) -> float:
        """The eps with which torch's m_hat / (sqrt(v_hat) + .) is the old m_hat sqrt(1 - beta2^t) / (sqrt(v) + eps)."""
        return eps / math.sqrt(1.0 - self.betas[1] ** self.updates)

    def _decay(self, group: ParameterGroup, lr: float) -> None:
        """w <- w - lr * decay * w, of what the Adam step has left."""
        values = self.rows[:, group.columns]
        kept = 1.0 - column([peak * lr * group.weight_decay for peak in group.lr], values)
        values.mul_(torch.where(self.alive.unsqueeze(1), kept, torch.ones_like(kept)))

    def _proximal(self, group: ParameterGroup, lr: float, threshold: Sequence[float]) -> None:
        values = self.rows[:, group.columns]
        moved = values
        if group.update == "gradient":
            moved = values - column([peak * lr for peak in group.lr], values) * self.grads[:, group.columns]
        moved = PROX[group.prox](moved, column(threshold, values))
        values.copy_(torch.where(self.alive.unsqueeze(1), moved, values))

    # -- state: everything is sliced by replica, because a checkpoint belongs to a run -------------------------

    def state(self, replica: int) -> dict[str, Tensor]:
        """Row, moments and step counts of one replica, on the CPU."""
        state = {"row": self.rows[replica].detach().cpu().clone(), "alive": self.alive[replica].cpu().clone()}
        state["updates"] = torch.tensor(self.updates)
        for index, parameter in enumerate(self._parameters(replica)):
            for key, value in self._adam[replica].state[parameter].items():
                state[f"adam.{index}.{key}"] = value.detach().cpu().clone()
        return state

    def named(self, replica: int) -> dict[str, Tensor]:
        """The weights of one replica by name, on the CPU."""
        return {
            name: (tensor.detach()[replica] if group.stacked else tensor.detach()).cpu().clone()
            for group in self.groups
            for name, tensor in group.tensors.items()
        }

    @torch.no_grad()
    def load_named(self, replica: int, weights: dict[str, Tensor]) -> None:
        """Inverse of ``named``. Raises KeyError or RuntimeError where the weights are of another run."""
        for group in self.groups:
            for name, tensor in group.tensors.items():
                (tensor.detach()[replica] if group.stacked else tensor.detach()).copy_(weights[name])

    @torch.no_grad()
    def load_state(self, replica: int, state: dict[str, Tensor]) -> None:
        """Inverse of ``state``. Raises KeyError or RuntimeError where the state is of another run."""
        self.rows[replica].copy_(state["row"])
        self.alive[replica] = bool(state["alive"])
        self.updates = int(state["updates"])
        for index, parameter in enumerate(self._parameters(replica)):
            prefix = f"adam.{index}."
            found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            if found:
                self._adam[replica].state[parameter] = {
                    key: value.clone().to(parameter.device) for key, value in found.items()
                }

    def _parameters(self, replica: int) -> list[Tensor]:
        return [p for spec in self._adam[replica].param_groups for p in spec["params"]]
