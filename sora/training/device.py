"""What a run trains on: the device, what it is slow at, and what a record says of the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
from typing import Any

import torch
import torch.utils.deterministic as fill_memory

from sora.snapshot import commit

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scikit-learn", "scipy", "hydra-core", "pyarrow")


def choose_device(deterministic: bool) -> torch.device:
    """The first GPU, or the CPU.

    ``deterministic`` forbids kernels whose sums depend on timing, in this process until it is chosen anew. What that
    costs on a GPU has not been measured.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it in this mode
        # else one more launch for every new tensor, whose memory nothing here reads before it is written
        fill_memory.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(deterministic)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def slow(precision: str, device: torch.device) -> str:
    """Why ``precision`` is slower than fp32 on ``device``, as one sentence; empty where it is not.

    A processor without AVX-512 has no kernels for products in bf16: oneDNN leaves them to plain loops.
    """
    if precision != "bf16" or device.type != "cpu" or bf16_kernels():
        return ""
    return (
        f"precision=bf16: this processor ({capability()}) has no fast products in bf16, so that training takes "
        "many times as long as in fp32; set precision=fp32, or use a GPU or a processor with AVX-512"
    )


def bf16_kernels() -> bool:
    """Whether oneDNN multiplies in bf16 on this processor."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def capability() -> str:
    """The widest instructions that torch uses on this processor, such as ``AVX2``; sums are rounded by it."""
    return str(torch.backends.cpu.get_cpu_capability())


def peak_bytes(device: torch.device) -> int:
    """Highest memory so far: what torch allocated on a GPU, the resident set of the process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def device_name(device: torch.device) -> str:
    """What a record calls the device: the GPU's name, or ``cpu`` with what its sums are rounded by."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()} {capability()}"


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device, threads and commit; no host name."""
    installed = {distribution.metadata["Name"] for distribution in importlib.metadata.distributions()}
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES if name in installed}
    return {
        "git": commit(),
        "versions": {"python": platform.python_version()} | versions,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }
