"""What a job will cost, before it starts: floating-point operations and memory (torch-free).

Estimates from shapes, for choosing how many runs to pack and what to ask a scheduler for. docs/speed.md has how they
compare with what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sora import schedules
from sora.backbones.families import dimension
from sora.config import BackboneConfig, RunConfig
from sora.tasks import TaskData

CHARACTERS_PER_TOKEN = 3.9  # GLUE's English under the tokenizers of the backbones in conf/, on the low side
FLOAT = 4  # bytes
ROW_COPIES = 5  # of what trains: values, gradients, two moments, the best so far
EVALUATION_BATCH = 32  # examples per replica
ALLOCATOR = 1.3  # what allocators hold beyond what is asked of them
PROCESS_BYTES = 500 << 20  # interpreter and libraries on a CPU


@dataclass(frozen=True)
class DataFacts:
    """What is known of a task's data without a tokenizer. Lengths in characters, of both texts together."""

    sha256: str
    sizes: dict[str, int]
    mean: float
    longest: int

    def tokens(self, run: RunConfig) -> tuple[float, int]:
        """Mean and longest input of a run in tokens, special ones included."""
        limit = int(run.trainer.max_length or run.task.max_length)
        longest = min(limit, math.ceil(self.longest / CHARACTERS_PER_TOKEN) + 3)
        return min(longest, self.mean / CHARACTERS_PER_TOKEN + 3), longest


def facts_of(data: TaskData) -> DataFacts:
    """Return the facts of loaded data."""
    texts = data.splits["train"].texts
    lengths = [sum(map(len, row)) for row in zip(*texts, strict=True)]
    return DataFacts(data.sha256, data.sizes, sum(lengths) / max(1, len(lengths)), max(lengths, default=0))


class Shape:
    """The encoder's size, from its architecture."""

    def __init__(self, backbone: BackboneConfig) -> None:
        arch: dict[str, Any] = backbone.arch
        self.hidden = int(dimension(arch, "hidden_size"))
        self.layers = int(dimension(arch, "num_hidden_layers", 12))
        self.inner = int(dimension(arch, "intermediate_size", 4 * self.hidden))
        self.heads = int(dimension(arch, "num_attention_heads", 12))
        rows = int(dimension(arch, "vocab_size", 30522)) + int(dimension(arch, "max_position_embeddings", 512))
        shared = int(arch.get("num_hidden_groups", 1)) * int(arch.get("inner_group_num", 1))
        self.distinct = shared if backbone.family == "albert" else self.layers  # layers with weights of their own
        self.layer = 4 * self.hidden**2 + 2 * self.hidden * self.inner  # weights of a layer's six matrices
        self.parameters = self.layer * self.distinct + rows * self.hidden  # all but vectors


def steps(run: RunConfig, facts: DataFacts) -> int:
    """Count the optimiser steps of a run."""
    return schedules.timeline(run, facts.sizes["train"]).total


def operations(runs: Sequence[RunConfig], facts: DataFacts) -> float:
    """Count the floating-point operations of a pack: forward and backward passes, and evaluations.

    A frozen weight costs 2 operations a token forward and 2 backward, a trained one 2 more; the adapters' own products
    and the padding are within the error of the rest.
    """
    run = runs[0]
    shape, (mean, _) = Shape(run.backbone), facts.tokens(run)
    products, attention = 2.0 * shape.layer * shape.layers, 4.0 * shape.layers * shape.hidden * mean
    forward = products + attention
    backward = products + 2 * attention + (products if run.method.name == "full" else 0.0)
    total = steps(run, facts)
    evaluations = math.ceil(total / schedules.steps_between(run.trainer.eval_every, total))
    held_out = sum(facts.sizes.values()) - facts.sizes["train"]  # measured in the end, and after every level
    evaluated = evaluations * facts.sizes["select"] + (2 + len(run.schedule.levels)) * held_out
    return len(runs) * mean * (total * run.trainer.batch_size * (forward + backward) + evaluated * forward)


def trainable(run: RunConfig) -> int:
    """Count the weights one replica trains: low-rank factors on all six matrices, or the backbone, and the head.

    An estimate for PEFT's tuners, of which some have more factors than LoRA.
    """
    shape, method = Shape(run.backbone), run.method
    head = shape.hidden * (shape.hidden + max(1, len(run.task.labels)))
    if method.name == "full":
        return shape.parameters + head
    rank = next((getattr(method, name) for name in ("init_r", "r", "bottleneck") if hasattr(method, name)), 1)
    if method.name == "peft":
        given = (getattr(method, "options", None) or {}).get("r")
        rank = given if isinstance(given, int) else 8  # of most tuners; PEFT itself refuses what is no rank
    return head + shape.distinct * rank * (8 * shape.hidden + 2 * (shape.hidden + shape.inner))


def kept_bytes(runs: Sequence[RunConfig], length: int) -> int:
    """Count activations that the forward pass of one step on inputs of ``length`` tokens keeps for the backward pass.

    Of every layer: its input, queries, keys, values, context, the inputs of both LayerNorms, the second block's input,
    and the inner activations before and after their nonlinearity; with dropout one byte an element of each mask; where
    attention is written out (sora/backbones/attention.py), its probabilities before and after dropout.
    """
    run = runs[0]
    shape, size = Shape(run.backbone), _size(run)
    examples = len(runs) * run.trainer.batch_size * run.task.choices
    tokens, squares = examples * length, examples * shape.heads * length**2
    dropping = _dropout(run, "attention_probs_dropout_prob") > 0.0
    kept = tokens * (8 * shape.hidden + 2 * shape.inner) * size
    if _dropout(run, "hidden_dropout_prob") > 0.0:
        kept += tokens * 2 * shape.hidden
    if _written_out(run, dropping):
        kept += squares * (FLOAT + (size + 1 if dropping else size if size < FLOAT else 0))
    return shape.layers * kept


def peak_bytes(runs: Sequence[RunConfig], facts: DataFacts, *, cpu: bool = True) -> int:
    """Estimate the peak bytes of a pack on its longest batch, in training or evaluation; with ``cpu``, the process."""
    run = runs[0]
    shape, size, (_, length) = Shape(run.backbone), _size(run), facts.tokens(run)
    weights = shape.parameters * (FLOAT if run.method.name == "full" else size)
    rows = len(runs) * trainable(run) * ROW_COPIES * FLOAT
    training = kept_bytes(runs, length) + _working(runs, length, run.trainer.batch_size, dropping=True)
    evaluating = _working(runs, length, EVALUATION_BATCH, dropping=False)
    return int(weights + rows + ALLOCATOR * max(training, evaluating)) + (PROCESS_BYTES if cpu else 0)


def _working(runs: Sequence[RunConfig], length: int, batch: int, dropping: bool) -> float:
    """Estimate temporary bytes: the largest block's inputs and outputs, or attention's scores while computed."""
    run, shape = runs[0], Shape(runs[0].backbone)
    examples = len(runs) * batch * run.task.choices
    block = examples * length * (2 * shape.inner + 2 * shape.hidden) * _size(run)
    if not _written_out(run, dropping and _dropout(run, "attention_probs_dropout_prob") > 0.0):
        return block
    squares = 8 if run.backbone.family == "deberta-v2" else 3  # DeBERTa: two position terms of twice the length each
    return block + squares * examples * shape.heads * length**2 * FLOAT


def _written_out(run: RunConfig, dropping: bool) -> bool:
    """Return whether attention keeps its probabilities: no fused kernel takes the masks, nor DeBERTa's bias."""
    return dropping or run.precision == "bf16" or run.backbone.family == "deberta-v2"


def _dropout(run: RunConfig, name: str) -> float:
    return float(dimension(run.backbone.arch, name, 0.1)) if run.backbone.dropout is None else run.backbone.dropout


def _size(run: RunConfig) -> int:
    """Return the bytes of an activation."""
    return 2 if run.precision == "bf16" else FLOAT


def describe(runs: Sequence[RunConfig], facts: DataFacts) -> str:
    """Describe a job: ``15 runs x 20 steps, about 1.2e+13 FLOP, 3.1 GiB``."""
    run = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    return (
        f"{run} x {steps(runs[0], facts)} steps, about {operations(runs, facts):.1e} FLOP, "
        f"{gibibytes(peak_bytes(runs, facts))}"
    )


def gibibytes(size: float) -> str:
    """Write bytes as ``3.1 GiB``."""
    return f"{size / (1 << 30):.1f} GiB"
