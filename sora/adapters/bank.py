"""All low-rank adapters of a pack made ready in a few launches, for a GPU, where launches are what a step costs.

The optimiser has every A side by side in the columns of its rows, then every B, then every gate. One product folds all
gates into all B, one cast rounds each, and every layer takes its part as a view. Backward, the parts come together
again and their gradients go into the optimiser's rows without passing through the parameters.

On a CPU every layer folds for itself (``LowRankLinear.folded``): its small products stay in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sora.adapters.lowrank import LowRankLinear
from sora.optim import ParameterGroup


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
        """Whether the optimiser has the tensors, on a GPU."""
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
        """Every A, then every B: [R, sum r in + sum r out]."""
        assert self.adapter.values is not None
        return self.adapter.values

    @property
    def split(self) -> int:
        """Columns of all A."""
        return sum(self.inner)

    def per_rank(self, values: Tensor) -> Tensor:
        """Values of the ranks [R, G] -> of every column of the B, [R, sum r out]."""
        if "rank" not in self._tables:
            sizes = np.repeat([layer.out_features for layer in self.layers], self.r)
            self._tables["rank"] = _moved(np.repeat(np.arange(len(sizes)), sizes), values.device)
        return values.index_select(1, self._tables["rank"])

    def by_rank(self, columns: Tensor, outer: bool, mean: bool = False) -> Tensor:
        """Sums (or means) over each rank of columns of the A or, with ``outer``, of the B -> [R, G].

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
        """Of each width its columns (None: all), and where each rank lies among the groups (None: in order)."""
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
        """Columns of every A, then every B -> the matrices of each width, [n, R, r, width]."""
        parts = columns.split_with_sizes([*self.inner, *self.outer], dim=1)
        found: dict[int, list[Tensor]] = {}
        for part in parts:
            found.setdefault(part.shape[1], []).append(part.view(self.replicas, self.r, -1))
        return [torch.stack(found[size]) for size in sorted(found)]

    def from_width(self, stacks: Sequence[Tensor]) -> Tensor:
        """The inverse of :meth:`by_width`."""
        sizes = [*self.inner, *self.outer]
        left = {size: iter(stack.unbind()) for size, stack in zip(sorted(set(sizes)), stacks, strict=True)}
        return torch.cat([next(left[size]).reshape(self.replicas, -1) for size in sizes], dim=1)


def _moved(table: np.ndarray, device: torch.device) -> Tensor:
    """A table on the device, without waiting for it."""
    return torch.from_numpy(table).pin_memory().to(device, non_blocking=True)


class _Spread(torch.autograd.Function):
    """The parts of every layer from the rows: all A, all folded B, [the gates], [the matrices by width].

    ``anchor`` stands for the rows, which are no parameter: it makes autograd come back here.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, bank: Bank, dtype: torch.dtype) -> tuple[Tensor, ...]:
        matrices, split = bank.matrices, bank.split
        b, spread, outputs = matrices[:, split:], None, []
        if bank.gate is not None:
            gates = bank.gate.values
            assert gates is not None
            b, spread = b * bank.scaling, bank.per_rank(gates)
            outputs = [gates.view_as(gates)]
        if bank.stacked:
            outputs += bank.by_width(matrices)
        ctx.bank, ctx.dtype = bank, dtype
        ctx.save_for_backward(b if spread is not None else None, spread)
        ctx.set_materialize_grads(False)
        a = matrices[:, :split].to(dtype)
        folded = torch.empty_like(b, dtype=dtype, memory_format=torch.contiguous_format)
        torch.mul(b, bank.scaling if spread is None else spread, out=folded)  # rounded once, where dtype is bf16
        shape = (bank.replicas, bank.r, -1)
        a_parts, b_parts = a.split_with_sizes(bank.inner, dim=1), folded.split_with_sizes(bank.outer, dim=1)
        return (*[part.view(shape) for part in a_parts], *[part.view(shape) for part in b_parts], *outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[None, None, None]:
        bank, (b, spread) = ctx.bank, ctx.saved_tensors
        count, values = len(bank.layers), bank.matrices

        def joined(parts: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor:
            filled = [
                values.new_zeros((bank.replicas, size), dtype=ctx.dtype)
                if part is None
                else part.reshape(bank.replicas, -1)
                for part, size in zip(parts, sizes, strict=True)
            ]
            return torch.cat(filled, dim=1)

        rest = list(grads[2 * count :])
        with bank.adapter.receiving() as received:
            of_a, of_b = received.tensor_split([bank.split], dim=1)
            of_a.copy_(joined(grads[:count], bank.inner))
            of_b.copy_(joined(grads[count : 2 * count], bank.outer))
            if spread is not None:
                of_gates, direct = bank.by_rank(of_b * b, outer=True), rest.pop(0)
                with bank.gate.receiving() as gates:
                    gates.copy_(of_gates if direct is None else of_gates + direct)
                of_b.mul_(spread)
            of_b.mul_(bank.scaling)
            if any(part is not None for part in rest):
                received.add_(bank.from_width(rest))
        return None, None, None
