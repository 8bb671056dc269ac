"""What trains together: model, method, optimiser and encoded data of R runs over one backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sora import methods, schedules
from sora.backbones import Backbone, Encoding, Head, load_backbone
from sora.backbones.token_cache import cache_folder
from sora.config import RunConfig
from sora.errors import UserError
from sora.methods import Method, Plan
from sora.methods.base import matrices_and_vectors
from sora.optim import PackOptimizer
from sora.training.seeds import derive, generator

if TYPE_CHECKING:
    from sora.tasks import Examples, TaskConfig, TaskData

FAR, NEAR = 10.0, 0.01  # mean and SD of scores beyond which task.standardize is called for


class PackModel(nn.Module):
    """Backbone with its adapters, and the stacked head: [R*b, t] tokens -> [R*b, C] logits in fp32.

    With K ``choices`` a batch holds [R*b*K, t] tokens, and the K scores of an example are its logits.
    """

    def __init__(self, backbone: Backbone, head: Head, choices: int = 1) -> None:
        super().__init__()
        self.backbone, self.head, self.choices = backbone, head, choices

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        hidden = self.backbone(batch)
        logits: Tensor = self.head(hidden, batch["attention_mask"], batch.get("spans"))
        return logits if self.choices == 1 else logits.view(-1, self.choices)


@dataclass(frozen=True)
class EncodedSplit:
    """Examples of a split with their tokens."""

    examples: Examples
    tokens: Encoding

    def batch(self, indices: np.ndarray, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
        """Return padded tokens [n, t] and labels [n] of the examples at ``indices`` [n]."""
        labels = torch.from_numpy(self.examples.labels[indices])
        tensors = self.tokens.collate(indices)
        if device.type == "cuda":  # pinned, so that the copy overlaps the previous step
            return (
                {key: value.pin_memory().to(device, non_blocking=True) for key, value in tensors.items()},
                labels.pin_memory().to(device, non_blocking=True),
            )
        return tensors, labels


@dataclass
class Pack:
    """Everything of a pack that lives as long as its training."""

    runs: Sequence[RunConfig]
    model: PackModel
    method: Method
    optimizer: PackOptimizer
    splits: dict[str, EncodedSplit]
    timeline: schedules.Timeline
    device: torch.device

    @property
    def replicas(self) -> int:
        return len(self.runs)

    @property
    def total_steps(self) -> int:
        return self.timeline.total

    @property
    def dropout_seeds(self) -> tuple[int, ...]:
        return tuple(derive(run.seed, "dropout") for run in self.runs)

    def adaptive_state(self) -> dict[str, Tensor]:
        """Return the buffers [R, ...] named in a module's ``ADAPTIVE``: state of the training other than weights."""
        return {
            f"{module_name}.{name}": getattr(module, name)
            for module_name, module in self.model.named_modules()
            for name in getattr(module, "ADAPTIVE", ())
        }

    def gates(self) -> Tensor | None:
        """Return the gates [R, G] that a proximal step may zero, matrix by matrix; None for a method without."""
        for group in self.optimizer.groups:
            if group.after_adam is not None:
                return self.optimizer.rows[:, group.columns]
        return None

    def thresholds(self, step: int) -> list[list[float]]:
        """Return xi at the 0-based ``step``, [groups][R]; nothing for groups without a proximal step."""
        return [
            [] if group.after_adam is None else group.after_adam.thresholds(self.timeline, step)
            for group in self.optimizer.groups
        ]


def build_pack(
    runs: Sequence[RunConfig],
    data: TaskData,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
    encode: bool = True,
) -> Pack:
    """Load the backbone, attach the method, initialise from the runs' seeds and encode the data.

    ``dtype`` float64 makes the whole model double, for the proofs in the tests. ``encode=False`` leaves the text
    alone: a dry run needs no tokenizer.
    """
    run = runs[0]
    trainer = run.trainer
    backbone = load_backbone(run.backbone, precision=run.precision)
    if backbone.unpacked and len(runs) > 1:
        raise UserError(
            f"backbone: {backbone.unpacked}, so {len(runs)} runs cannot be trained as one pack; train them one by one, "
            "as in -m seed=0,1,2 hydra.sweeper.max_pack=1"
        )
    backbone.to(device=device)
    if dtype == torch.float64:
        backbone.double()
    timeline = schedules.timeline(run, len(data.splits["train"]))
    method = methods.build(run.method)
    plan = Plan(runs, timeline)
    method.attach(backbone, plan, [generator(int(r.seeds.init or 0), "adapter") for r in runs])
    head = getattr(method, "make_head", Head)(
        backbone,
        outputs=run.task.head_outputs,
        spans=run.task.span_vectors,
        policy=run.head,
        generators=[generator(int(r.seeds.init or 0), "head") for r in runs],
        scale=target_scale(run.task, data.splits["train"]),
    )
    model = PackModel(backbone, head, run.task.choices).to(device=device)
    if dtype == torch.float64:
        model.double()
    of_head = {f"head.{name}": p for name, p in head.named_parameters() if p.requires_grad}
    groups = [*method.parameter_groups(), *matrices_and_vectors(("head", "head.bias"), of_head, plan)]
    for group in groups:
        if trainer.optimizer == "adamw_hf":
            group.variant = "adamw_hf"
    check_trainable(model, dtype)
    optimizer = PackOptimizer(groups, replicas=len(runs), clip=trainer.clip)
    splits = {}
    if encode:
        splits = {name: encode_split(backbone, examples, run) for name, examples in data.splits.items()}
    return Pack(runs, model, method, optimizer, splits, timeline, device)


def notes_of(run: RunConfig, data: TaskData) -> list[str]:
    """Say what a person must know of the rows before they train: ``data.notes``, and scores on a scale of their own.

    A head starts near 0, and AdamW moves a weight by about the learning rate a step, however large the loss. The two
    limits are our choice: official scores lie well within them, prices or counts do not.
    """
    task, notes = run.task, list(data.notes)
    if run.method.TRAINS and task.regression and not task.standardize:
        targets = data.splits["train"].labels.astype(np.float64)
        mean, spread = float(targets.mean()), float(targets.std())
        if abs(mean) > FAR or not NEAR <= spread <= FAR:
            notes.append(
                f"scores have mean {mean:.4g} and SD {spread:.4g}; task.standardize=true trains on (score - mean) / SD "
                "and reports on your scale"
            )
    return notes


def target_scale(task: TaskConfig, train: Examples) -> tuple[float, float]:
    """Mean and population SD of the training targets where ``task.standardize`` asks for them, else (0, 1).

    Raises UserError where all targets are equal.
    """
    if not task.standardize:
        return 0.0, 1.0
    targets = train.labels.astype(np.float64)
    if np.ptp(targets) == 0.0:
        raise UserError(
            f"task.standardize: every training target of task={task.name} is {targets[0]:g}, so they have no SD; "
            "leave it false, or check the data"
        )
    return float(targets.mean()), float(targets.std())


def encode_split(backbone: Backbone, examples: Examples, run: RunConfig) -> EncodedSplit:
    """Tokenize a split as the run's task and length ask for."""
    task = run.task
    if run.method.name == "zero_shot":
        return EncodedSplit(examples, _encode_apart(backbone, examples, run))
    tokens = backbone.encode(
        examples.texts,
        int(run.trainer.max_length or task.max_length),
        cache_folder(run.paths.cache),
        choices=task.choices,
        truncate=task.truncate,
        spans=examples.spans,
        where=examples.where,
    )
    return EncodedSplit(examples, tokens)


def _encode_apart(backbone: Backbone, examples: Examples, run: RunConfig) -> Encoding:
    """Tokenize both texts of each example, each as a sequence of its own."""
    if len(examples.texts) != 2:
        raise UserError(f"method=zero_shot: compares two texts, but task={run.task.name} has {len(examples.texts)}")
    length = int(run.trainer.max_length or run.task.max_length)
    both = [text for pair in zip(*examples.texts, strict=True) for text in pair]
    tokens = backbone.encode((both,), length, cache_folder(run.paths.cache), where=examples.where)
    return replace(tokens, choices=2)


def check_trainable(model: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Raises AssertionError, which names them, when tensors that train are not of ``dtype``, whatever was loaded."""
    wrong = [f"{name} is {p.dtype}" for name, p in model.named_parameters() if p.requires_grad and p.dtype != dtype]
    if wrong:
        raise AssertionError(f"{len(wrong)} trainable tensors are not {dtype}: {wrong[0]}")


def differentiate(pack: Pack, batch: dict[str, Tensor], labels: Tensor) -> tuple[Tensor, Tensor | None]:
    """Compute losses [R] and penalty [R] or None of a batch, and leave the gradients of their sum to the optimiser."""
    pack.optimizer.zero_grad()
    losses = losses_of(pack.model(batch), labels, pack.replicas, pack.model.head.scale[1])
    penalty = pack.method.penalty()
    (losses if penalty is None else losses + penalty).sum().backward()
    return losses, penalty


def losses_of(logits: Tensor, labels: Tensor, replicas: int, unit: float = 1.0) -> Tensor:
    """Mean loss of each replica's examples, [R], from logits [R*b, C] and labels [R*b].

    Cross entropy for classes; squared error where the labels are real numbers (one output), in squares of ``unit``.
    """
    if labels.is_floating_point():
        each = F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype), reduction="none")
        each = each if unit == 1.0 else each / unit**2
    else:
        each = F.cross_entropy(logits, labels, reduction="none")
    return each.view(replicas, -1).mean(dim=1)
