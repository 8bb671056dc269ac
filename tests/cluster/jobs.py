"""Commands in processes of their own, for what a call in this process cannot show."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[2]
T = TypeVar("T")


def environment(code: Path = ROOT) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SORA_DATA", "HF_"))}
    paths = {"PYTHONPATH": str(code), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return kept | paths | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def start(folder: Path, *words: str, code: Path = ROOT, **variables: str) -> subprocess.Popen[str]:
    """The command ``python run.py <words>`` in ``folder``; ``variables`` of its environment."""
    return subprocess.Popen(
        [sys.executable, str(code / "run.py"), *words],
        cwd=folder,
        env=environment(code) | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(folder: Path, *words: str, code: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """``start``, and its end."""
    process = start(folder, *words, code=code, **variables)
    out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess(shlex.join(words), process.returncode, out, err)


def wait_for(what: Callable[[], T | None], seconds: float = 240) -> T:
    """The first true answer of ``what``."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.2)
    return answer
