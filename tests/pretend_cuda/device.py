"""A pretend CUDA device for a CPU build of torch: ``load()`` it before torch is imported.

``shim.cpp`` is compiled once for each version of torch (a C++ compiler, the headers in torch's wheel; a minute at
most). From then on ``cuda:0`` works in every part of torch, with real data and the CPU's kernels, so that numbers can
be compared with the CPU's; FakeTensorMode works for it too.
"""

from __future__ import annotations

import ctypes
import fcntl
import getpass
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("shim.cpp")
MEMORY = 80 << 30  # bytes that the device says it has


def compiler() -> str | None:
    """The C++ compiler, from CXX or by its usual names."""
    names = [os.environ.get("CXX", ""), "g++", "c++", "clang++"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


def build() -> Path:
    """The compiled shim. Raises RuntimeError, with the compiler's words, where it cannot be built."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    torch = Path(spec.origin).parent
    key = SOURCE.read_bytes() + (torch / "version.py").read_bytes()
    folder = Path(tempfile.gettempdir()) / f"sora-pretend-cuda-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{hashlib.sha256(key).hexdigest()[:16]}.so"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes compile it once
        if not library.exists():
            _compile(library, torch)
    return library


def _compile(library: Path, torch: Path) -> None:
    partial = library.with_suffix(f".{os.getpid()}")
    include = torch / "include"
    words = [
        *(str(compiler()), "-O1", "-std=c++20", "-shared", "-fPIC", str(SOURCE), f"-I{include}"),
        *(f"-I{include}/torch/csrc/api/include", f"-L{torch}/lib", "-lc10", "-ltorch_cpu"),
        *(f"-Wl,-rpath,{torch}/lib", "-o", str(partial)),
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the pretend device cannot be built: {done.stderr.strip()[-2000:]}")
    partial.replace(library)


class Device:
    """What a test asks the device."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def forget_waits(self) -> None:
        self.library.pretend_forget_waits()

    def waits(self) -> dict[str, int]:
        """What made the host wait since ``forget_waits``, and how often."""
        buffer = ctypes.create_string_buffer(1 << 16)
        self.library.pretend_waits(buffer, len(buffer))
        lines = (line.rsplit("\t", 1) for line in buffer.value.decode().splitlines())
        return {why: int(times) for why, times in lines}

    def limit(self, size: int | None) -> None:
        """Have ``size`` bytes, or None for as many as the machine has."""
        self.library.pretend_limit(2**63 - 1 if size is None else size)

    @property
    def held(self) -> int:
        """Bytes that are allocated now."""
        return int(self.library.pretend_held())

    @property
    def peak(self) -> int:
        return int(self.library.pretend_peak())


def load() -> Device:
    """Load the device and torch. Raises RuntimeError where torch is there already or the shim cannot be built."""
    if "torch" in sys.modules:
        raise RuntimeError("the pretend device must be loaded before torch is imported")
    library = ctypes.CDLL(str(build()), mode=ctypes.RTLD_GLOBAL)
    library.pretend_held.restype = library.pretend_peak.restype = ctypes.c_int64
    library.pretend_limit.argtypes = [ctypes.c_int64]
    library.pretend_waits.argtypes = [ctypes.c_char_p, ctypes.c_int64]
    import torch

    properties = types.SimpleNamespace(total_memory=MEMORY, name="pretend", major=9, minor=0, multi_processor_count=132)
    for name, value in {  # torch.cuda asks C functions that a CPU build lacks
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "get_device_name": lambda device=None: "pretend",
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (9, 0),
        "mem_get_info": lambda device=None: (MEMORY - library.pretend_held(), MEMORY),
        "max_memory_allocated": lambda device=None: library.pretend_peak(),
        "memory_allocated": lambda device=None: library.pretend_held(),
        "reset_peak_memory_stats": lambda device=None: library.pretend_forget_peak(),
        "is_bf16_supported": lambda including_emulation=True: True,
        "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda state, device=None: None,
        "manual_seed_all": lambda seed: None,
        "manual_seed": lambda seed: None,
        "is_current_stream_capturing": lambda: False,
        "_is_in_bad_fork": lambda: False,
    }.items():
        setattr(torch.cuda, name, value)
    torch.version.cuda = "pretend"  # type: ignore[assignment]
    return Device(library)
