"""Whether a pack fits into memory, before it starts, and what to do when it did not (torch-free but for a GPU)."""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sora import estimate

if TYPE_CHECKING:
    import torch

    from sora.training.runner import Job

T = TypeVar("T")
USABLE = 0.9  # share of the memory a pack may count on: others need some, and an estimate is an estimate
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def capacity(device: torch.device) -> int:
    """Bytes a pack may use: of the GPU, or of the machine and the control group this process runs in.

    All there is, not what happens to be free: a run that is continued must be split as it was.
    """
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory * USABLE)
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, CGROUP_LIMITS):
        text = path.read_text().strip() if path.is_file() else "max"
        limits += [int(text)] if text.isdigit() else []
    return int(min(limits) * USABLE)


def parts(members: Sequence[T], count: int) -> list[list[T]]:
    """``members`` in ``count`` parts of almost equal size, in their order."""
    bounds = [len(members) * i // count for i in range(count + 1)]
    return [list(members[a:b]) for a, b in itertools.pairwise(bounds)]


def fitting(jobs: Sequence[Job], facts: estimate.DataFacts, device: torch.device) -> list[list[Job]]:
    """The jobs in as few packs as are expected to fit, said aloud where that is more than one."""
    room, cpu = capacity(device), device.type == "cpu"

    def needs(members: Sequence[Job]) -> int:
        return estimate.peak_bytes([job.run for job in members], facts, cpu=cpu)

    packs = [list(jobs)]
    while len(packs) < len(jobs) and max(map(needs, packs)) > room:
        packs = parts(jobs, len(packs) + 1)
    if len(packs) > 1:
        say_split(
            f"{len(jobs)} runs together would need about {estimate.gibibytes(needs(jobs))}, "
            f"and {estimate.gibibytes(room)} can be used",
            packs,
        )
    return packs


def say_split(reason: str, packs: Sequence[Sequence[Job]]) -> None:
    """Tell on standard error that a pack is split, and how."""
    sizes = " + ".join(str(len(pack)) for pack in packs)
    print(f"{reason}: split into packs of {sizes} runs", file=sys.stderr, flush=True)


def release(device: torch.device) -> None:
    """Give back what a pack that is over still holds, to the system too: the next one needs it in other pieces."""
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)  # glibc keeps freed memory in its heap otherwise
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
