"""What the training loop knows of a method: this class and nothing else; and what methods share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sora.optim import ParameterGroup

if TYPE_CHECKING:
    from sora.backbones import Backbone, Head
    from sora.config import RunConfig
    from sora.schedules import Timeline


@dataclass(frozen=True)
class Plan:
    """The arguments of ``attach``: the runs of the pack, one a replica, and how long they train.

    The runs differ only in what the method declares packable; everything else may be read from ``runs[0]``.
    """

    runs: Sequence[RunConfig]
    timeline: Timeline

    @property
    def total_steps(self) -> int:
        return self.timeline.total

    @property
    def replicas(self) -> int:
        return len(self.runs)

    def learning_rates(self) -> list[float]:
        """Return peak learning rate of each replica."""
        return [float(run.trainer.learning_rate or 0.0) for run in self.runs]


@dataclass(frozen=True)
class Summary:
    """The size of one replica's adapter.

    ``ranks``: live rank of every adapted matrix, by its full module name. ``live``: exact count of the weights
    that remain when dead ranks are cut out, sum of r (in + out), without gates and head. ``authors_formula``:
    the same by the authors' code, which deducts 2 * hidden for every dead rank, whatever the matrix' shape.
    ``absent``: weights that are held, because a pack is one tensor, and stay zero from the first step on.
    """

    live: int
    authors_formula: int
    ranks: dict[str, int] = field(default_factory=dict)
    absent: int = 0


class Method(ABC):
    """A way of fine-tuning. Its trainable tensors have a leading axis R, save where it cannot be packed (R = 1).

    One verb more is a method's own choice: ``make_head``, with the arguments of :class:`sora.backbones.Head`, gives
    another head. Where that has ``solve(features, labels)``, it is called in place of the steps, with the features
    [N, d] that the head's ``pool`` gives.
    """

    plan: Plan

    def __init__(self, config: Any) -> None:
        self.config = config
        self.layers: dict[str, Any] = {}  # the adapted modules by their names in the encoder

    @abstractmethod
    def attach(self, backbone: Backbone, plan: Plan, generators: Sequence[torch.Generator]) -> None:
        """Insert trainable modules and freeze the rest. ``generators``: one CPU generator per replica."""

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """List what trains, and by which rule; without the head, whose groups the loop adds."""

    def penalty(self) -> Tensor | None:
        """Return [R], added to each replica's training loss, never to an evaluation loss; None for no penalty."""
        return None

    def after_step(self, step: int, alive: Tensor) -> None:
        """Change what is no parameter after update number ``step`` (0-based), before gradients are cleared.

        ``alive`` [R]: which replicas have not diverged; those that have must stay as they are.
        """
        return None

    def summary(self, replica: int) -> Summary:
        """Measure a replica's adapter with the weights it has now: unless a method knows better, all that trains."""
        tensors = [tensor for group in self.parameter_groups() for tensor in group.tensors.values()]
        count = sum(tensor.numel() // self.plan.replicas for tensor in tensors)
        return Summary(live=count, authors_formula=count)

    def no_data_ranks(self, replica: int, step: int, total: int | None = None) -> dict[str, int]:
        """Return ``Summary.ranks`` as ``step`` updates of stage 0 leave them if no gradient comes from the data.

        ``total``: in place of what the steps leave, the ``total`` ranks that the initial draw would keep longest.
        Computed from the seed, not from the present weights. Empty where nothing decides about ranks during training.
        """
        return {}

    @abstractmethod
    def export(self, replica: int, folder: Path, head: Head) -> None:
        """Write the standard artefact of a replica, with the weights it has now, into ``folder``."""


def matrices_and_vectors(
    names: tuple[str, str], tensors: Mapping[str, nn.Parameter], plan: Plan, *, stacked: bool = True
) -> list[ParameterGroup]:
    """Group tensors by rule: matrices with the weight decay of the runs, vectors (biases, norms) without.

    ``names`` of both groups. ``stacked``: the tensors have the leading axis R.
    """
    lr, decay, least = plan.learning_rates(), plan.runs[0].trainer.weight_decay, 3 if stacked else 2
    matrices = {name: p for name, p in tensors.items() if p.ndim >= least}
    vectors = {name: p for name, p in tensors.items() if p.ndim < least}
    return [
        ParameterGroup(names[0], matrices, lr=lr, weight_decay=decay, stacked=stacked),
        ParameterGroup(names[1], vectors, lr=lr, stacked=stacked),
    ]


def per_replica(x: Tensor, replicas: int) -> Tensor:
    """View [R*b, ..., d], replica-major, as [R, n, d]. Raises ValueError where the batch is none of ``replicas``."""
    if x.shape[0] % replicas:
        raise ValueError(f"a batch of {x.shape[0]} rows does not split over {replicas} replicas")
    return x.reshape(replicas, -1, x.shape[-1])
