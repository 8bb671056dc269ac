"""The optimiser of a pack: AdamW over flat rows, one row per replica, and what a group does after its Adam step.

Every trainable tensor is a view into ``rows`` [R, P], its gradient a view into ``grads`` [R, P]. A row is all
that one replica trains, so that its norm is one reduction, a checkpoint one slice, and the best weights so far
one copy. Inside a row the tensors of one group lie side by side: a group is a range of columns.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from sora.schedules import Timeline

# A view into the rows of a pack is strided over R, so autograd remarks once that gradient and parameter are not
# dense. The last dimensions are contiguous all the same.
warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")


class AfterAdam(Protocol):
    """A step that a method takes with a group after Adam's, or instead of it."""

    @property
    def adam(self) -> bool:
        """Return whether Adam steps the group first."""

    def thresholds(self, timeline: Timeline, step: int) -> list[float]:
        """Return the strength [R] of the 0-based ``step``, which the call takes as ``threshold``."""

    def __call__(self, values: Tensor, grads: Tensor, rate: Tensor, threshold: Tensor) -> Tensor:
        """Return the new values [R, n] of ``values`` and ``grads`` [R, n], at ``rate`` and ``threshold`` [R, 1]."""


@dataclass
class ParameterGroup:
    """Tensors that train by one rule.

    ``lr`` [R] is the peak rate of each replica. The loop hands the optimiser its value at every step (schedules.py).
    """

    name: str
    tensors: dict[str, nn.Parameter]
    lr: Sequence[float]
    weight_decay: float = 0.0
    eps: float = 1e-8
    variant: str = "adamw"  # adamw | adamw_hf: transformers' old one, eps before the bias correction, decay last
    clip: str = "joint"  # joint: by the norm of all joint groups together | own: by the group's own norm
    stacked: bool = True  # tensors have the leading axis R; False only for R = 1
    after_adam: AfterAdam | None = None  # a further step of the method, such as SoRA's GateStep
    # set by the optimiser: where the group lies in its rows, and the views [R, n] of weights and gradients there
    columns: slice = field(default_factory=lambda: slice(0, 0), repr=False)
    values: Tensor | None = field(default=None, repr=False)
    grads: Tensor | None = field(default=None, repr=False)
    received: bool = field(default=False, repr=False)  # whether ``grads`` holds gradients of this step already

    @contextlib.contextmanager
    def receiving(self) -> Iterator[Tensor]:
        """Yield the place for gradients [R, n] that bypass the tensors; they add to those that are there already."""
        assert self.grads is not None
        target = torch.empty_like(self.grads) if self.received else self.grads
        yield target
        if self.received:
            self.grads.add_(target)
        self.received = True


def takes_adam(group: ParameterGroup) -> bool:
    """Return whether Adam steps the group."""
    return group.after_adam is None or group.after_adam.adam


def column(values: Sequence[float], like: Tensor) -> Tensor:
    """Put one number per replica next to ``like``, as [R, 1]."""
    return numbers([[value] for value in values], like)


def numbers(table: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """Put numbers [n][R] next to ``like`` as a tensor [n, R], in one copy that a GPU is not waited for."""
    host = torch.tensor(table, dtype=like.dtype)
    return host.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else host


class PackOptimizer:
    """Per-replica clipping, AdamW and the groups' own steps for R replicas at once.

    On a CPU every tensor's gradient is a view of the rows, and Adam is torch's fused AdamW, one per replica (each has
    its own rates); on a GPU autograd keeps the gradients until :meth:`collect` joins them, and one AdamW steps all rows
    (:class:`RowsAdam`): what counts there is launches. A replica that has diverged is skipped on the device, with no
    synchronisation.
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
        self.gathers = first.is_cuda
        self._bind()
        self._adam: FusedAdams | RowsAdam = (RowsAdam if self.gathers else FusedAdams)(self)

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
                if not self.gathers:
                    tensor.grad = grad if group.stacked else grad[0]
                offset += width
            group.values, group.grads = self.rows[:, group.columns], self.grads[:, group.columns]

    def zero_grad(self) -> None:
        """Forget the gradients of the step before."""
        if not self.gathers:
            self.grads.zero_()
            return
        for group in self.groups:
            group.received = False
            for tensor in group.tensors.values():
                tensor.grad = None

    @torch.no_grad()
    def collect(self) -> None:
        """Join the gradients that autograd left at the tensors, on a GPU; elsewhere they lie in the rows already."""
        for group in self.groups if self.gathers else ():
            found = [tensor.grad for tensor in group.tensors.values()]
            if group.received and all(grad is None for grad in found):
                continue
            pieces = [
                (torch.zeros_like(tensor) if grad is None else grad).reshape(self.replicas, -1)
                for tensor, grad in zip(group.tensors.values(), found, strict=True)
            ]
            with group.receiving() as received:
                received.copy_(torch.cat(pieces, dim=1))
            for tensor in group.tensors.values():
                tensor.grad = None

    def show_gradients(self) -> None:
        """Make every tensor's ``grad`` what the rows hold, where autograd's own were joined; for those who look."""
        self.collect()
        for group in self.groups if self.gathers else ():
            assert group.grads is not None
            group.received, offset = False, 0
            for tensor in group.tensors.values():
                width = tensor.numel() // self.replicas
                tensor.grad = group.grads[:, offset : offset + width].view(tensor.shape)
                offset += width

    @torch.no_grad()
    def step(self, losses: Tensor, lr: float, threshold: Sequence[Sequence[float]]) -> Tensor:
        """Update every living replica; return the gradient norms [R] before clipping.

        ``losses`` [R] decide, with the norms, who is alive. ``lr`` multiplies each group's peak rate;
        ``threshold`` [groups][R] go to the groups' own steps (ignored for groups without).
        Order, as in the authors' loop: clip the tensors of a run by their norm (theirs are all ``joint``), AdamW, then
        the groups' own steps.
        """
        self.collect()
        norms = torch.linalg.vector_norm(self.grads, dim=1)
        self.alive &= torch.isfinite(losses.detach()) & torch.isfinite(norms)
        if self.clip > 0:
            self._clip(norms)
        self.updates += 1
        self._adam.step(lr)
        for group, xi in zip(self.groups, threshold, strict=True):
            if group.variant == "adamw_hf" and group.weight_decay and takes_adam(group):
                self._decay(group, lr)
            if group.after_adam is not None:
                self._step_after(group, group.after_adam, lr, xi)
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

    def eps(self, group: ParameterGroup) -> float:
        """Return the eps of this step in m_hat / (sqrt(v_hat) + eps).

        That of the old m_hat sqrt(1 - beta2^t) / (sqrt(v) + eps) is divided by the correction, to the same effect.
        """
        return group.eps if group.variant == "adamw" else group.eps / math.sqrt(1.0 - self.betas[1] ** self.updates)

    @property
    def adam_groups(self) -> list[ParameterGroup]:
        """Return the groups that take an Adam step, in the order of their state."""
        return [group for group in self.groups if takes_adam(group)]

    def _decay(self, group: ParameterGroup, lr: float) -> None:
        """Apply w <- w - lr * decay * w to what the Adam step has left."""
        values = self.rows[:, group.columns]
        kept = 1.0 - column([peak * lr * group.weight_decay for peak in group.lr], values)
        values.mul_(torch.where(self.alive.unsqueeze(1), kept, torch.ones_like(kept)))

    def _step_after(self, group: ParameterGroup, step: AfterAdam, lr: float, threshold: Sequence[float]) -> None:
        values, grads = self.rows[:, group.columns], self.grads[:, group.columns]
        moved = step(values, grads, column([peak * lr for peak in group.lr], values), column(threshold, values))
        values.copy_(torch.where(self.alive.unsqueeze(1), moved, values))

    # -- state: everything is sliced by replica, because a checkpoint belongs to a run -------------------------

    def state(self, replica: int) -> dict[str, Tensor]:
        """Return row, moments and step counts of one replica, on the CPU."""
        state = {"row": self.rows[replica].detach().cpu().clone(), "alive": self.alive[replica].cpu().clone()}
        state["updates"] = torch.tensor(self.updates)
        for index, moments in enumerate(self._adam.state(replica)):
            for key, value in moments.items():
                state[f"adam.{index}.{key}"] = value.detach().cpu().clone()
        return state

    def named(self, replica: int) -> dict[str, Tensor]:
        """Return the weights of one replica by name, on the CPU."""
        return {
            name: (tensor.detach()[replica] if group.stacked else tensor.detach()).cpu().clone()
            for group in self.groups
            for name, tensor in group.tensors.items()
        }

    @torch.no_grad()
    def load_named(self, replica: int, weights: dict[str, Tensor]) -> None:
        """Load what ``named`` returned. Raises KeyError or RuntimeError where the weights are of another run."""
        for group in self.groups:
            for name, tensor in group.tensors.items():
                (tensor.detach()[replica] if group.stacked else tensor.detach()).copy_(weights[name])

    @torch.no_grad()
    def load_state(self, replica: int, state: dict[str, Tensor]) -> None:
        """Load what ``state`` returned. Raises KeyError or RuntimeError where the state is of another run."""
        self.rows[replica].copy_(state["row"])
        self.alive[replica] = bool(state["alive"])
        self.updates = int(state["updates"])
        for index in range(len(self.adam_groups)):
            prefix = f"adam.{index}."
            found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            if found:
                self._adam.load_state(replica, index, found)


class FusedAdams:
    """torch's fused AdamW, one per replica, on slices of the rows."""

    def __init__(self, rows: PackOptimizer) -> None:
        self.rows = rows
        self._adams = [self._build(replica) for replica in range(rows.replicas) if rows.adam_groups]  # a probe has none

    def _build(self, replica: int) -> torch.optim.AdamW:
        specs = []
        for group in self.rows.adam_groups:
            part = nn.Parameter(self.rows.rows[replica, group.columns])
            part.grad = self.rows.grads[replica, group.columns]
            decay = group.weight_decay if group.variant == "adamw" else 0.0  # else it follows the step: _decay
            specs.append({"params": [part], "lr": group.lr[replica], "eps": group.eps, "weight_decay": decay})
        return torch.optim.AdamW(specs, betas=self.rows.betas, fused=True)

    def step(self, lr: float) -> None:
        """Step every living replica; a dead one is skipped by ``found_inf``, as gradient scalers do."""
        dead = (~self.rows.alive).float()
        for replica, adam in enumerate(self._adams):
            for spec, group in zip(adam.param_groups, self.rows.adam_groups, strict=True):
                spec["lr"] = group.lr[replica] * lr
                spec["eps"] = self.rows.eps(group)
            adam.found_inf = dead[replica]  # type: ignore[attr-defined]
            adam.step()

    def state(self, replica: int) -> list[dict[str, Tensor]]:
        """Return ``step``, ``exp_avg`` and ``exp_avg_sq`` of each group of a replica; {} before the first step."""
        adam = self._adams[replica]
        return [adam.state[spec["params"][0]] for spec in adam.param_groups]

    def load_state(self, replica: int, index: int, state: dict[str, Tensor]) -> None:
        adam = self._adams[replica]
        parameter = adam.param_groups[index]["params"][0]
        adam.state[parameter] = {key: value.clone().to(parameter.device) for key, value in state.items()}


class RowsAdam:
    """AdamW of all replicas in one pass over the rows: its launches do not grow with R.

    The moments of all groups are updated together, since they share their betas; rates, decay and eps are a group's.
    """

    def __init__(self, rows: PackOptimizer) -> None:
        self.rows = rows
        self.mean, self.square = torch.zeros_like(rows.rows), torch.zeros_like(rows.rows)

    def step(self, lr: float) -> None:
        """Step every living replica; of a dead one nothing changes, not even its moments."""
        optimizer = self.rows
        alive, grads = optimizer.alive.unsqueeze(1), optimizer.grads
        grads.masked_fill_(~alive, 0.0)  # they may not be finite, and 0 * nan is no 0
        weight = alive.to(grads.dtype)
        beta1, beta2 = optimizer.betas
        self.mean.lerp_(grads, weight * (1 - beta1))
        self.square.lerp_(grads * grads, weight * (1 - beta2))
        corrected1, corrected2 = (1 - beta**optimizer.updates for beta in optimizer.betas)
        groups = optimizer.adam_groups
        table = [[peak * lr / corrected1 for peak in group.lr] for group in groups]
        table += [[peak * lr * group.weight_decay for peak in group.lr] for group in groups]
        rates = numbers(table, grads) * weight.T  # [2 * groups, R]; a dead replica moves by 0
        for index, group in enumerate(groups):
            columns, values = group.columns, group.values
            assert values is not None
            if group.weight_decay and group.variant == "adamw":
                values.addcmul_(values, rates[len(groups) + index].unsqueeze(1), value=-1.0)
            root = self.square[:, columns].sqrt().mul_(1 / math.sqrt(corrected2)).add_(optimizer.eps(group))
            values.addcmul_(self.mean[:, columns] / root, rates[index].unsqueeze(1), value=-1.0)

    def state(self, replica: int) -> list[dict[str, Tensor]]:
        """Return the state as :class:`FusedAdams` does, so that a run can go on on another device."""
        groups, updates = self.rows.adam_groups, self.rows.updates
        if updates == 0:
            return [{} for _ in groups]
        return [
            {
                "step": torch.tensor(float(updates)),
                "exp_avg": self.mean[replica, group.columns],
                "exp_avg_sq": self.square[replica, group.columns],
            }
            for group in groups
        ]

    def load_state(self, replica: int, index: int, state: dict[str, Tensor]) -> None:
        columns = self.rows.adam_groups[index].columns
        self.mean[replica, columns] = state["exp_avg"].to(self.mean.device)
        self.square[replica, columns] = state["exp_avg_sq"].to(self.square.device)
