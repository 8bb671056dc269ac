"""The state of a training beyond its weights, and what a checkpoint holds of one replica."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sora.training.checkpoint import Checkpoint
from sora.training.device import device_name

if TYPE_CHECKING:
    from sora.training.loop import Loop


@dataclass
class Progress:
    """Progress of a run, without its weights; JSON, and part of every checkpoint."""

    history: list[dict[str, Any]] = field(default_factory=list)
    levels: list[dict[str, Any]] = field(default_factory=list)
    best_step: int | None = None
    best_score: float | None = None
    diverged_at: int | None = None
    train_s: float = 0.0
    eval_s: float = 0.0
    examples: int = 0
    tokens: int = 0  # without padding
    padded_tokens: int = 0
    resumed_at: list[int] = field(default_factory=list)
    members_changed: bool = False  # resumed with other pack mates than it was saved with: equal, but not to the bit
    device_changed: bool = False  # resumed on another device than it was saved on: likewise
    fallbacks: list[str] = field(default_factory=list)  # what the device could not do as it was meant, and why


class Window:
    """Sums over some steps, on the device: loss, penalty and gradient norm before clipping, [R] each."""

    NAMES = ("loss", "penalty", "grad_norm")

    def __init__(self, replicas: int, device: torch.device) -> None:
        self.sums = torch.zeros(len(self.NAMES), replicas, dtype=torch.float64, device=device)
        self.count = 0

    def add(self, losses: Tensor, penalty: Tensor | None, norms: Tensor) -> None:
        extra = torch.zeros_like(losses) if penalty is None else penalty.detach()
        self.sums += torch.stack([losses, extra, norms]).to(self.sums.dtype)
        self.count += 1

    def take(self) -> dict[str, list[float]]:
        """Return means by name, one per replica, read from the device; the window starts anew."""
        means = (self.sums / max(1, self.count)).tolist()
        self.sums.zero_()
        self.count = 0
        return dict(zip(self.NAMES, means, strict=True))

    def state(self, replica: int) -> dict[str, Tensor]:
        return {"sums": self.sums[:, replica].cpu().clone(), "count": torch.tensor(self.count)}

    def load_state(self, replica: int, state: dict[str, Tensor]) -> None:
        self.sums[:, replica] = state["sums"].to(self.sums.device)
        self.count = int(state["count"])


def of(loop: Loop, replica: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a replica's checkpoint, and the rest of it, which is JSON."""
    tensors = loop.pack.optimizer.state(replica)
    tensors["best"] = loop.best[replica].detach().cpu().clone()
    if (select := loop.best_select[replica]) is not None:
        tensors["best_select"] = torch.from_numpy(select.copy())
    tensors["diverged"] = loop.diverged[replica].cpu().clone()
    tensors |= {f"adaptive.{k}": v[replica].cpu().clone() for k, v in loop.pack.adaptive_state().items()}
    tensors |= {f"window.{k}": v for k, v in loop.window.state(replica).items()}
    tensors |= {f"stretch.{k}": v for k, v in loop.stretch.state(replica).items()}
    tensors |= {f"level.{k}": v for k, v in loop.levels.state(replica).items()}
    return tensors, {
        "members": loop.run_ids,
        "device": device_name(loop.pack.device),
        "evaluation_due": loop.evaluation_due,
        "levels_due": loop.levels_due,
        "threads": torch.get_num_threads(),
        "progress": asdict(loop.progress[replica]),
    }


def restore(loop: Loop, replica: int, point: Checkpoint) -> None:
    """Load what :func:`of` returned, but for the levels. Raises KeyError and its like where it is of another model."""
    loop.pack.optimizer.load_state(replica, point.tensors)
    loop.best[replica] = point.tensors["best"]
    select = point.tensors.get("best_select")  # none in a checkpoint of an earlier version
    loop.best_select[replica] = None if select is None else select.numpy()
    for name, state in loop.pack.adaptive_state().items():
        state[replica] = point.tensors[f"adaptive.{name}"]
    loop.diverged[replica] = int(point.tensors["diverged"])
    loop.window.load_state(replica, prefixed(point.tensors, "window."))
    loop.stretch.load_state(replica, prefixed(point.tensors, "stretch."))
    loop.progress[replica] = progress = Progress(**point.meta["progress"])
    progress.resumed_at.append(point.step)
    progress.members_changed |= point.meta["members"] != loop.run_ids
    here = device_name(loop.pack.device)
    progress.device_changed |= point.meta.get("device", here) != here  # none in an earlier version's
    loop.step, loop.evaluation_due = point.step, point.meta["evaluation_due"]
    loop.levels_due = bool(point.meta.get("levels_due"))  # none in an earlier version's


def prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
