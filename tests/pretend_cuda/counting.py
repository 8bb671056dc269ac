"""How many operations a step of a real architecture launches, counted on fake tensors: shapes without data.

A custom operation counts as one, as its kernel does; where the kernel cannot run, its passes are some twenty.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sora.backbones import DropoutKey
from sora.runs.compose import runs_of
from sora.training.pack import build_pack, losses_of

LENGTH = 96  # tokens; batches of 8 a run
_VIEWS = """view _unsafe_view expand transpose t permute slice select unsqueeze squeeze as_strided alias detach split
split_with_sizes unbind reshape _reshape_alias unfold diagonal narrow chunk lift_fresh set_ is_pinned record_stream"""
FREE = frozenset([*_VIEWS.split(), "empty", "empty_like", "empty_strided", "new_empty"])


class Count(TorchDispatchMode):
    """Counts operations on CUDA tensors that launch something; copies to the device are not among them."""

    def __init__(self) -> None:
        super().__init__()
        self.launched = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name in FREE or name.startswith("prim::"):
            return out
        given, made = (
            [each for each in tree_leaves(every) if isinstance(each, torch.Tensor)] for every in ((args, kwargs), out)
        )
        if not any(each.is_cuda for each in (*given, *made)):
            return out
        if not (name == "_to_copy" and not any(each.is_cuda for each in given)):
            self.launched += 1
        return out


@contextlib.contextmanager
def fakes() -> Iterator[None]:
    """FakeTensorMode, and what of torch fake tensors cannot do: be swapped in a module, be pinned, be drawn."""

    def apply(self: Any, fn: Any, recurse: bool = True) -> Any:
        for module in self.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and (moved := fn(parameter.detach())) is not parameter:
                    module._parameters[name] = torch.nn.Parameter(moved, requires_grad=parameter.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = fn(buffer)
        return self

    with (
        mock.patch.object(torch.nn.Module, "_apply", apply),
        mock.patch.object(torch.Tensor, "pin_memory", lambda self, device=None: self),
        mock.patch.object(torch.nn.init, "trunc_normal_", lambda tensor, **how: tensor),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        yield


def step_of(backbone: str, method: str, words: list[str]) -> list[int]:
    """Launches of the forward pass, the backward pass and the update in the second step of a pack."""
    common = ["task=rte", "backbone.weights=random", "recipe=none", "budget=none", "trainer.max_steps=100"]
    seed = [] if any(word.startswith("seed=") for word in words) else ["seed=0"]
    runs = runs_of([f"backbone={backbone}", f"method={method}", *common, *seed, *words])
    data: Any = types.SimpleNamespace(splits={"train": range(2490)})
    with fakes():
        pack = build_pack(runs, data, torch.device("cuda"), encode=False)
        count = pack.replicas * runs[0].trainer.batch_size
        for step in range(2):
            parts = [Count() for _ in range(3)]
            words_of = torch.from_numpy(np.random.default_rng(0).integers(5, 50, (count, LENGTH))).to("cuda")
            batch, labels = {"input_ids": words_of, "attention_mask": torch.ones_like(words_of)}, words_of[:, 0] * 0
            with parts[0]:
                pack.model.backbone.dropout.begin(DropoutKey(pack.dropout_seeds, step))
                losses = losses_of(pack.model(batch), labels, pack.replicas)
                penalty = pack.method.penalty()
                objective = losses if penalty is None else losses + penalty
                pack.optimizer.zero_grad()
            with parts[1]:
                objective.sum().backward()
            with parts[2]:
                pack.optimizer.step(objective, pack.timeline.multiplier(step), pack.thresholds(step))
                pack.method.after_step(step, pack.optimizer.alive)
        for name, tensor in [*pack.model.named_parameters(), *pack.model.named_buffers()]:
            assert tensor.is_cuda, f"{name} stayed on {tensor.device}"
    return [part.launched for part in parts]
