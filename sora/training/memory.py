"""Whether a pack fits into memory, before it starts, and what to do when it did not. Torch only where it must be."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sora.errors import OutOfMemory, UserError
from sora.runs import estimate

if TYPE_CHECKING:
    import torch

    from sora.training.job import Job

T = TypeVar("T")
USABLE = 0.9  # share of the memory a pack may count on: others need some, and an estimate is an estimate
ONEDNN = ("could not create a primitive", "could not create a memory")  # what it says when it gets no memory
# the CPU allocator's words, the GPU driver's, and cuBLAS', cuDNN's, cuSOLVER's
NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
CGROUPS = {"0": ("/sys/fs/cgroup", "memory.max"), "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")}


def capacity(device: torch.device) -> int:
    """Return bytes a pack may use: of the GPU, or of the machine and the control group this process runs in.

    All there is, not what happens to be free: a run that is continued must be split as it was.
    """
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory * USABLE)
    return int(min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *group_limits()]) * USABLE)


def group_limits(membership: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return bytes that the control group of this process, and each group above it, may use, of either version."""
    limits = []
    for line in membership.read_text().splitlines() if membership.is_file() else []:
        number, names, group = line.split(":", 2)
        root, file = CGROUPS.get("memory" if "memory" in names.split(",") else number, ("", ""))
        place = Path(root) / group.strip("/")
        for folder in (place, *place.parents) if root else ():
            if folder == Path(root).parent:
                break
            text = (folder / file).read_text().strip() if (folder / file).is_file() else "max"
            limits += [int(text)] if text.isdigit() else []
    return limits


def parts(members: Sequence[T], count: int) -> list[list[T]]:
    """Split ``members`` into ``count`` parts of almost equal size, in their order."""
    bounds = [len(members) * i // count for i in range(count + 1)]
    return [list(members[a:b]) for a, b in itertools.pairwise(bounds)]


def fitting(jobs: Sequence[Job], facts: estimate.DataFacts, device: torch.device) -> list[list[Job]]:
    """Split the jobs into as few packs as are expected to fit; print the split where there is one."""
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


def halved(pack: list[Job], error: OutOfMemory) -> list[list[Job]]:
    """Return the halves of a pack that ran out of memory. Raises ``error`` where it is a single run."""
    if len(pack) == 1:
        raise error
    halves = parts(pack, 2)
    say_split(str(error).partition(";")[0], halves)
    return halves


@contextlib.contextmanager
def errors(replicas: int, batch_size: int, advice: str) -> Iterator[None]:
    """Turn "out of memory" into one sentence that ends with ``advice``."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # oneDNN has no exception of its own, and its words may mean something else, so they stay in the sentence.
        found = next((words for words in ONEDNN if words in str(error)), "")
        if found or lacking(error):
            words = f" (oneDNN: {found})" if found else ""
            raise OutOfMemory(
                f"out of memory with {replicas} x {batch_size} examples a step{words}; {advice}"
            ) from error
        if of_device(error):
            reason = " ".join(str(error).partition("\n")[0].split())
            raise UserError(
                f"the GPU failed ({reason}); the newest checkpoint stays: give the command again, and where that fails "
                "too, hide the GPU (CUDA_VISIBLE_DEVICES=)"
            ) from error
        raise


def lacking(error: Exception) -> bool:
    """Return whether an error says that the memory did not suffice."""
    import torch

    of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return of_memory or any(words in str(error) for words in NO_MEMORY)


def of_device(error: Exception) -> bool:
    """Return whether an error is the machine's: memory that it lacks, or a GPU that fails."""
    return lacking(error) or "CUDA error" in str(error)


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

        with contextlib.suppress(RuntimeError):  # of a GPU that failed, which its own sentence says
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
