"""Checkpoints belong to runs: the slice of one replica, written atomically, without pickling.

``<run>/checkpoint/step-00000500.safetensors`` holds the tensors and ``step-00000500.json``, written last, the rest:
the run's id, the members of its pack, the thread count, the history so far (NaN as a literal) and the sha256 of the
tensors. A pair whose hash does not fit is passed over. The newest two are kept.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sora.errors import UserError
from sora.files import as_user_error, replaced, write_text
from sora.training.logging.metrics import number

FORMAT = 1
KEEP = 2
SELECTED = "selected.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What one replica needs to go on. ``step`` updates have been made; ``meta`` is JSON."""

    step: int
    tensors: dict[str, Tensor]
    meta: dict[str, Any]


def save(run_dir: Path, run_id: str, step: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Write a checkpoint and drop those older than the newest two.

    Raises:
        UserError: the disk is full; what was written before stays.
    """
    folder = run_dir / "checkpoint"
    path = folder / f"step-{step:08d}.safetensors"
    head = {"format": FORMAT, "run_id": run_id, "step": step, "sha256": _write(path, tensors)}
    write_text(path.with_suffix(".json"), json.dumps(head | meta, default=number))
    for old in sorted(folder.glob("step-*.json"))[:-KEEP]:
        _remove(old)


def _write(path: Path, tensors: dict[str, Tensor]) -> str:
    """Replace a file of tensors; return its sha256. Raises UserError when the disk is full."""
    advice = (
        "make room or set paths.runs to another disk, then repeat the command: it goes on from the checkpoint before"
    )
    with as_user_error(path, "cannot be written", advice, (OSError, SafetensorError)), replaced(path) as partial:
        save_file(tensors, partial)
        with partial.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(head: Path) -> None:
    """Remove a checkpoint, given its JSON, which goes first: without it there is none."""
    head.unlink()
    head.with_suffix(".safetensors").unlink(missing_ok=True)


def steps(run_dir: Path) -> list[int]:
    """List the steps of a run's checkpoints, ascending, without reading them."""
    names = (path.stem.removeprefix("step-") for path in (run_dir / "checkpoint").glob("step-*.json"))
    return sorted(int(name) for name in names if re.fullmatch("[0-9]{8,}", name))


def load(run_dir: Path, run_id: str, step: int) -> Checkpoint | None:
    """Return the checkpoint at ``step``, or None where its files are damaged.

    Raises:
        UserError: it is a checkpoint of another run, or of a format this version does not know.
    """
    path = run_dir / "checkpoint" / f"step-{step:08d}.json"
    weights, meta = path.with_suffix(".safetensors"), _meta(path)
    if meta.get("step") != step:
        return None
    if (found := (meta.get("run_id"), meta.get("format"))) != (run_id, FORMAT):
        raise UserError(
            f"{path}: a checkpoint of run {found[0]} in format {found[1]}, not of {run_id} in format {FORMAT}; "
            "move that folder away, or set resume=never to start this run afresh"
        )
    try:
        with weights.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == meta.get("sha256")
        return Checkpoint(step, load_file(weights), meta) if whole else None
    except (OSError, SafetensorError):
        return None


def pack_members(run_dir: Path) -> list[str]:
    """Return the ids of the pack that wrote a run's newest checkpoint; [] where there is none, or it is damaged."""
    members = _newest(run_dir).get("members")
    return [str(name) for name in members] if isinstance(members, list) else []


def reached(run_dir: Path) -> tuple[int, bool]:
    """Return the step of a run's newest checkpoint, 0 without one, and whether an evaluation is due there."""
    newest = _newest(run_dir)
    return max(steps(run_dir), default=0), any(_due(newest))


def _due(meta: dict[str, Any]) -> tuple[bool, bool]:
    """Say whether the evaluation of that step is due, and whether levels of a schedule are."""
    return bool(meta.get("evaluation_due")), bool(meta.get("levels_due"))


def _newest(run_dir: Path) -> dict[str, Any]:
    path = max((run_dir / "checkpoint").glob("step-*.json"), default=None)
    return {} if path is None else _meta(path)


def _meta(path: Path) -> dict[str, Any]:
    """Read a checkpoint's JSON; {} where it is gone or damaged."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}


def newest_shared(run_dirs: dict[str, Path]) -> dict[str, Checkpoint]:
    """Load the newest checkpoints that all members of a pack have at one point, by run id; {} without any."""
    shared = set.intersection(*(set(steps(folder)) for folder in run_dirs.values()))
    for step in sorted(shared, reverse=True):
        found = {run_id: load(folder, run_id, step) for run_id, folder in run_dirs.items()}
        complete = {run_id: checkpoint for run_id, checkpoint in found.items() if checkpoint is not None}
        # Some may have been stopped in the evaluation of this step and others not: no pack goes on from both.
        alike = len({_due(checkpoint.meta) for checkpoint in complete.values()}) == 1
        if len(complete) == len(run_dirs) and alike:
            return complete
    return {}


def forget_after(run_dir: Path, step: int) -> None:
    """Remove the checkpoints beyond ``step``, from which a run went on.

    They were damaged, or their pack could not go on from them. Left there, they would be the newest two for good, and
    what is written now would be dropped at once.
    """
    for later in steps(run_dir):
        if later > step:
            _remove(run_dir / "checkpoint" / f"step-{later:08d}.json")


def keep_selected(run_dir: Path, tensors: dict[str, Tensor]) -> None:
    """Write the selected weights by name, dead ranks and gates included: what the exported adapter was cut from.

    ``<run>/checkpoint/selected.safetensors`` stays when the run is finished. Raises UserError when the disk is full.
    """
    _write(run_dir / "checkpoint" / SELECTED, tensors)


def discard(run_dir: Path) -> None:
    """Remove every checkpoint of a run (resume=never, or the run is finished)."""
    folder = run_dir / "checkpoint"
    for path in {*folder.glob("step-*"), *folder.glob("*.tmp")}:
        path.unlink()
