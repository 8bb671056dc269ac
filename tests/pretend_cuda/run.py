"""Run a script or, after ``-m``, a module on the pretend device: ``python -m tests.pretend_cuda.run WHAT WORDS...``."""

from __future__ import annotations

import runpy
import sys

from tests.pretend_cuda.device import load

if __name__ == "__main__":
    load()
    words = sys.argv[1:]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
