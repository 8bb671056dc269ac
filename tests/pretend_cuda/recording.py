"""A recording of what a piece of work gives the device, to be given again without its Python: a CUDA graph on paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recorder(TorchDispatchMode):
    """Runs ``work`` twice, the second time writing down its operations; ``replay`` repeats them on the same tensors.

    An operation that reads a tensor of the host is refused, as a graph would read that memory after it is gone.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self.replays = 0
        self.done: list[tuple[Any, Any, Any, list[Any]]] = []
        work()
        with self:
            work()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        if any(each.device.type == "cpu" and each.dim() > 0 for each in given):
            raise RuntimeError(f"{func} reads a tensor of the host while a graph is recorded")
        out = func(*args, **kwargs)
        self.done.append((func, args, kwargs, tree_leaves(out)))
        return out

    def replay(self) -> None:
        """Do every operation again; what it made then is overwritten in place."""
        self.replays += 1
        with torch.no_grad():
            for func, args, kwargs, made in self.done:
                for old, new in zip(made, tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)
