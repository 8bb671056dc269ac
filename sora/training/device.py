"""What a run trains on: the device, what it is slow at, and what a record says of the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.utils.deterministic as fill_memory

from sora.cluster.code_snapshot import commit
from sora.errors import UserError

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scikit-learn", "scipy", "hydra-core", "pyarrow")

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
THREADS_AT_IMPORT = torch.get_num_threads()
SAMPLE_S = 0.25  # how long the cores are watched


def choose_device(deterministic: bool, wanted: str = "auto") -> torch.device:
    """Return the device that ``device=`` names; ``auto`` is the first GPU, or the CPU.

    ``deterministic`` forbids kernels whose sums depend on timing, in this process until it is chosen anew. What that
    costs on a GPU has not been measured.

    Raises:
        UserError: ``wanted`` is cuda, and torch sees no GPU.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it in this mode
        # else one more launch for every new tensor, whose memory nothing here reads before it is written
        fill_memory.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(deterministic)
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device=cuda: {why_no_gpu()}; mend that, or set device=auto to train on the CPU")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def why_no_gpu() -> str:
    """Return why torch computes on no GPU here, as far as it can be seen."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return f"torch {torch.__version__} sees no GPU (CUDA_VISIBLE_DEVICES={visible!r})"
    return f"torch {torch.__version__} sees no GPU" + ("" if has_driver() else ", and no driver of NVIDIA is here")


def has_driver() -> bool:
    """Return whether a driver of NVIDIA is loaded, whatever torch can do with it."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def take_free_threads(device: torch.device) -> str:
    """Set torch's threads to the cores that are idle now, unless somebody gave a count; says which it is, for people.

    Two threads next to one busy process are slower than one: every parallel region waits for the slowest.
    A count is given by ``OMP_NUM_THREADS`` and its like, or by ``torch.set_num_threads``; it is never raised. On a GPU
    nothing is changed.
    """
    given = next((name for name in THREAD_VARIABLES if os.environ.get(name)), "")
    threads = torch.get_num_threads()
    if given or threads != THREADS_AT_IMPORT or device.type != "cpu" or threads == 1:
        why = f"{given}={os.environ[given]}" if given else ""
    else:
        idle = idle_cores()
        threads = max(1, min(threads, idle))
        torch.set_num_threads(threads)
        why = f"{idle} of {len(os.sched_getaffinity(0))} cores idle; OMP_NUM_THREADS sets another count"
    return f"{threads} thread{'' if threads == 1 else 's'}" + (f" ({why})" if why else "")


def idle_cores() -> int:
    """Count the cores open to this process that are idle now, rounded; waiting for a disk is idle."""
    busy, cores = psutil.cpu_percent(SAMPLE_S, percpu=True), os.sched_getaffinity(0)
    return round(len(cores) - sum(busy[core] / 100 for core in cores if core < len(busy)))


def slow(precision: str, device: torch.device) -> str:
    """Explain in one sentence why ``precision`` is slower than fp32 on ``device``; empty where it is not.

    A processor without AVX-512 has no kernels for products in bf16: oneDNN leaves them to plain loops.
    """
    if precision != "bf16" or device.type != "cpu" or bf16_kernels():
        return ""
    return (
        f"precision=bf16: this processor ({capability()}) has no fast products in bf16, so that training takes "
        "many times as long as in fp32; set precision=fp32, or use a GPU or a processor with AVX-512"
    )


def bf16_is_faster() -> bool:
    """Return whether this processor has matrix units for bf16 (AMX); without them fp32 was faster."""
    return bf16_kernels() and torch.cpu._is_amx_tile_supported()


def bf16_kernels() -> bool:
    """Return whether oneDNN multiplies in bf16 on this processor."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def capability() -> str:
    """Name the widest instructions that torch uses on this processor, such as ``AVX2``; they affect rounding."""
    return str(torch.backends.cpu.get_cpu_capability())


def peak_bytes(device: torch.device) -> int:
    """Measure the peak memory: what torch allocated on a GPU, the resident set of the process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name(device: torch.device) -> str:
    """Return what a record calls the device: the GPU's name, or ``cpu`` with what its sums are rounded by."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()} {capability()}"


def environment(device: torch.device) -> dict[str, Any]:
    """Return versions, device, threads and commit; no host name."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "git": commit(),
        "versions": {"python": platform.python_version()} | versions,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }
