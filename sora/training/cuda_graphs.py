"""CUDA graphs of a training step's forward and backward pass, one for each shape of a batch (``trainer.cuda_graphs``).

A graph is what a GPU was given to do once, given again as a whole: the host no longer launches the operations one by
one. It reads and writes fixed places, so a batch, its labels and the step's dropout keys are copied there first, and
the gradients end in the optimiser's rows. Lengths are rounded up, so that shapes are few; masks of dropout do not
depend on padding. The optimiser's step stays outside: its rates are numbers of the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from sora.backbones import DropoutKey
from sora.training.pack import Pack, differentiate

LENGTHS = 8  # lengths are rounded up to multiples of it
WARM_UP = 2  # passes before a graph is recorded: libraries make their workspaces and kernels in the first

Batch = dict[str, Tensor]


class Recording(Protocol):
    """Work that can be given again."""

    def replay(self) -> None: ...


class CudaGraphs:
    """Records on a real device; all recordings share their memory, since one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()

    def __call__(self, work: Callable[[], None]) -> Recording:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            work()
        recorded: Recording = graph
        return recorded


class _Step:
    """The places that one recording reads and writes."""

    def __init__(self, batch: Batch, labels: Tensor) -> None:
        self.batch = {name: torch.empty_like(tensor) for name, tensor in batch.items()}
        self.labels = torch.empty_like(labels)
        self.losses: Tensor | None = None
        self.penalty: Tensor | None = None
        self.recording: Recording | None = None

    def fill(self, batch: Batch, labels: Tensor) -> None:
        for name, tensor in batch.items():
            self.batch[name].copy_(tensor)
        self.labels.copy_(labels)


class StepGraphs:
    """Computes losses, penalty and gradients of a pack's steps by graphs.

    Args:
        record: makes a recording of some work, which it has done by then once or more.
        longest: tokens of the longest batch there will be; no length is rounded up beyond it.
    """

    def __init__(self, pack: Pack, longest: int, record: Callable[[Callable[[], None]], Recording]) -> None:
        self.pack, self.longest, self.record = pack, longest, record
        self.steps: dict[tuple[tuple[int, ...], ...], _Step] = {}
        pack.model.backbone.dropout.hold(pack.device, pack.replicas)

    def __call__(self, batch: Batch, labels: Tensor, key: DropoutKey) -> tuple[Tensor, Tensor | None]:
        """Compute losses [R] and penalty [R] or None of a batch; the gradients are in the optimiser's rows."""
        batch = self.rounded(batch)
        shape = (*(tuple(batch[name].shape) for name in sorted(batch)), tuple(labels.shape))
        self.pack.model.backbone.dropout.begin(key)
        step = self.steps.get(shape)
        if step is None:
            step = _Step(batch, labels)
            step.fill(batch, labels)
            step.recording = self.record(lambda: self._work(step))
            self.steps[shape] = step
        step.fill(batch, labels)
        assert step.recording is not None
        step.recording.replay()
        assert step.losses is not None
        return step.losses.clone(), None if step.penalty is None else step.penalty.clone()

    def _work(self, step: _Step) -> None:
        """Run the forward and backward pass over what lies at the step's places."""
        losses, penalty = differentiate(self.pack, step.batch, step.labels)
        self.pack.optimizer.collect()
        step.losses, step.penalty = losses.detach(), None if penalty is None else penalty.detach()

    def rounded(self, batch: Batch) -> Batch:
        """Round the length of the batch up: more padding, behind what is there."""
        length = batch["input_ids"].shape[1]
        missing = min(-(-length // LENGTHS) * LENGTHS, max(self.longest, length)) - length
        if not missing:
            return batch
        padding = {"input_ids": int(getattr(self.pack.model.backbone.hf_config, "pad_token_id", 0) or 0)}
        return {
            name: F.pad(tensor, (0, missing), value=padding.get(name, 0)) if tensor.shape[1:] == (length,) else tensor
            for name, tensor in batch.items()
        }

    def end(self) -> None:
        """Give the recordings back; the steps to come are not recorded."""
        self.steps.clear()
        self.pack.model.backbone.dropout.release()


def refusal(pack: Pack) -> str:
    """Explain in a few words why the steps of a pack cannot be recorded; empty where they can."""
    if pack.device.type != "cuda":
        return "there is no GPU in use"
    if pack.model.backbone.autocast:
        return "full fine-tuning in bf16 casts its weights anew in every step"
    return ""
