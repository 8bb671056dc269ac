"""The CUDA path where there is no GPU: see ``checks.py``. Every group of checks runs in one process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.pretend_cuda, pytest.mark.slow]


@pytest.mark.parametrize(
    "names",
    [
        ("as_on_the_cpu", "no_waits", "mixed_devices"),
        ("resumed", "out_of_memory", "graphs", "launches"),
    ],
    ids=" ".join,
)
def test_on_the_pretend_device(names):
    if sys.platform != "linux":
        pytest.skip("the pretend device is built for Linux alone")
    from tests.pretend_cuda.device import build, compiler

    if compiler() is None:
        pytest.skip("no C++ compiler: CXX names one")
    build()
    words = [sys.executable, "-m", "tests.pretend_cuda.checks", *names]
    hidden = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=hidden, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith("FAIL")]
    assert done.returncode == 0, "\n".join([*failed, done.stderr[-3000:]])
    assert all(any(line.startswith(f"ok   {name}:") for line in lines) for name in names)
