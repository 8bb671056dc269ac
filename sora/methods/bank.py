"""All low-rank adapters of a pack made ready in a few launches, for a GPU, where launches are what a step costs.

The optimiser has every A side by side in the columns of its rows, then every B, then every gate. One product folds all
gates into all B and rounds everything to the layers' type, and every layer takes its part as a view. Backward, the
parts come together again and their gradients go into the optimiser's rows without passing through the parameters.

On a CPU every layer folds for itself (``LowRankLinear.folded``): its small products stay in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sora.optim import ParameterGroup

if TYPE_CHECKING:
    from sora.methods.lora import LowRankLinear


class Bank:
    """The adapters of ``layers``, in whose order ``adapter`` has every A and then every B, and ``gate`` every gate.

    ``stacked``: also offer the matrices of a forward pass by width (:attr:`stacks`), for a penalty on them.
    """

    def __init__(
        self,
        layers: Sequence[LowRankLinear],
        adapter: ParameterGroup,
        gate: ParameterGroup | None,
        stacked: bool = False,
    ) -> None:
        self.layers, self.adapter, self.gate, self.stacked = list(layers), adapter, gate, stacked
        first = self.layers[0]
        self.replicas, self.r, self.scaling = first.replicas, first.r, first.scaling
        self.inner = [layer.r * layer.in_features for layer in self.layers]
        self.outer = [layer.r * layer.out_features for layer in self.layers]
        self.gates: Tensor | None = None  # [R, G] of the present forward pass, differentiable
        self.stacks: list[Tensor] = []  # [n, R, r, width] of the present forward pass, differentiable
        self._tables: dict[str, Any] = {}

    @property
    def ready(self) -> bool:
        """Return whether the optimiser has the tensors, on a GPU."""
        return self.adapter.values is not None and self.adapter.values.is_cuda

    def attach(self, model: nn.Module) -> None:
        """Prepare the layers before each forward pass of ``model``."""
        model.register_forward_pre_hook(lambda module, given: self._prepare())
        model.register_forward_hook(lambda module, given, out: self._forget(), always_call=True)

    def _prepare(self) -> None:
        self.gates, self.stacks = None, []
        if not self.ready:
            return
        dtype = self.layers[0].base.weight.dtype
        anchor = torch.empty(0, device=self.matrices.device, requires_grad=torch.is_grad_enabled())
        made = list(_Spread.apply(anchor, self, dtype))
        count = len(self.layers)
        for layer, a, b in zip(self.layers, made[:count], made[count : 2 * count], strict=True):
            layer.prepared = (a, b)
        if self.gate is not None:
            self.gates = made[2 * count]
        if self.stacked:
            self.stacks = made[2 * count + 1 :]

    def _forget(self) -> None:
        for layer in self.layers:
            layer.prepared = None

    # -- columns -----------------------------------------------------------------------------------------------

    @property
    def matrices(self) -> Tensor:
        """Return every A, then every B: [R, sum r in + sum r out]."""
        assert self.adapter.values is not None
        return self.adapter.values

    @property
    def split(self) -> int:
        """Return columns of all A."""
        return sum(self.inner)

    def factors(self) -> Tensor:
        """Return the factor of each column, [R or 1, sum r in + sum r out]: 1 for an A, scale and gate for a B."""
        values = self.matrices
        if self.gate is None:
            if "factor" not in self._tables:
                factor = np.repeat([1.0, self.scaling], [self.split, values.shape[1] - self.split])
                self._tables["factor"] = _moved(factor[None], values.device).to(values.dtype)
            constant: Tensor = self._tables["factor"]
            return constant
        gates = self.gate.values
        assert gates is not None
        count = gates.shape[1]
        if "rank" not in self._tables:
            ranks = np.repeat(np.arange(count), np.repeat([layer.out_features for layer in self.layers], self.r))
            self._tables["rank"] = _moved(np.concatenate([np.full(self.split, count), ranks]), values.device)
            self._tables["scaled"] = values.new_ones((self.replicas, count + 1))  # the last is the factor of an A
        scaled: Tensor = self._tables["scaled"]
        torch.mul(gates, self.scaling, out=scaled[:, :count])
        return scaled.index_select(1, self._tables["rank"])

    def by_rank(self, columns: Tensor, outer: bool, mean: bool = False) -> Tensor:
        """Sum (or average) each rank's columns of the A or, with ``outer``, of the B -> [R, G].

        Widths are few: the columns of one are gathered and summed at once, in an order that is always the same.
        """
        name = "outer" if outer else "inner"
        widths = [layer.out_features if outer else layer.in_features for layer in self.layers]
        if name not in self._tables:
            self._tables[name] = self._widths(widths, columns.device)
        groups, back = self._tables[name]
        found = []
        for width, chosen in groups:
            part = columns if chosen is None else columns.index_select(1, chosen)
            part = part.reshape(self.replicas, -1, width)
            found.append(part.mean(-1) if mean else part.sum(-1))
        return found[0] if back is None else torch.cat(found, dim=1).index_select(1, back)

    def _widths(self, widths: list[int], device: torch.device) -> tuple[list[tuple[int, Tensor | None]], Tensor | None]:
        """Return for each width its columns (None: all), and where each rank lies among the groups (None: in order)."""
        distinct = sorted(set(widths))
        if len(distinct) == 1:
            return [(distinct[0], None)], None
        of_layers = np.array(widths)
        of_columns, of_ranks = np.repeat(of_layers, of_layers * self.r), np.repeat(of_layers, self.r)
        groups: list[tuple[int, Tensor | None]] = [
            (width, _moved(np.flatnonzero(of_columns == width), device)) for width in distinct
        ]
        order = np.concatenate([np.flatnonzero(of_ranks == width) for width in distinct])
        return groups, _moved(np.argsort(order), device)

    def by_width(self, columns: Tensor) -> list[Tensor]:
        """Sort the columns of every A, then every B, by width: matrices [n, R, r, width]."""
        parts = columns.split_with_sizes([*self.inner, *self.outer], dim=1)
        found: dict[int, list[Tensor]] = {}
        for part in parts:
            found.setdefault(part.shape[1], []).append(part.view(self.replicas, self.r, -1))
        return [torch.stack(found[size]) for size in sorted(found)]

    def from_width(self, stacks: Sequence[Tensor]) -> Tensor:
        """Invert :meth:`by_width`."""
        sizes = [*self.inner, *self.outer]
        left = {size: iter(stack.unbind()) for size, stack in zip(sorted(set(sizes)), stacks, strict=True)}
        return torch.cat([next(left[size]).reshape(self.replicas, -1) for size in sizes], dim=1)


def _moved(table: np.ndarray, device: torch.device) -> Tensor:
    """Copy a table to the device, without waiting for it."""
    host = torch.from_numpy(table)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


class _Spread(torch.autograd.Function):
    """The parts of every layer from the rows: all A, all folded B, [the gates], [the matrices by width].

    ``anchor`` stands for the rows, which are no parameter: it makes autograd come back here.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, bank: Bank, dtype: torch.dtype) -> tuple[Tensor, ...]:
        matrices, factors = bank.matrices, bank.factors()
        ready = torch.empty_like(matrices, dtype=dtype, memory_format=torch.contiguous_format)
        torch.mul(matrices, factors, out=ready)  # rounded once, where dtype is bf16
        outputs = []
        if bank.gate is not None:
            assert bank.gate.values is not None
            outputs = [bank.gate.values.view_as(bank.gate.values)]
        if bank.stacked:
            outputs += bank.by_width(matrices)
        ctx.bank, ctx.dtype = bank, dtype
        ctx.save_for_backward(factors)
        ctx.set_materialize_grads(False)
        parts = ready.split_with_sizes([*bank.inner, *bank.outer], dim=1)
        return (*[part.view(bank.replicas, bank.r, -1) for part in parts], *outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[None, None, None]:
        bank, (factors,) = ctx.bank, ctx.saved_tensors
        sizes, matrices = [*bank.inner, *bank.outer], bank.matrices
        parts, rest = grads[: len(sizes)], list(grads[len(sizes) :])
        filled = [
            matrices.new_zeros((bank.replicas, size), dtype=ctx.dtype)
            if part is None
            else part.reshape(bank.replicas, -1)
            for part, size in zip(parts, sizes, strict=True)
        ]
        with bank.adapter.receiving() as received:
            received.copy_(torch.cat(filled, dim=1))
            if bank.gate is not None:
                products = received[:, bank.split :] * matrices[:, bank.split :]
                of_gates, direct = bank.by_rank(products, outer=True), rest.pop(0)
                with bank.gate.receiving() as target:
                    if direct is None:
                        torch.mul(of_gates, bank.scaling, out=target)
                    else:
                        torch.add(direct, of_gates, alpha=bank.scaling, out=target)
            received.mul_(factors)
            if any(part is not None for part in rest):
                received.add_(bank.from_width(rest))
        return None, None, None
