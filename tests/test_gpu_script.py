"""``scripts/gpu.sh``: its steps in order, each within its time, and what they leave in one archive."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
PYTHON = """#!/usr/bin/env bash
echo "$@" >> {notes}
case "$*" in
*gpu_check*) mkdir -p "$(dirname "$3")" && echo '{{}}' > "$3" ;;
*bench.py*) echo 'no room' >&2; exit 3 ;;
*study.py*) sleep 30 ;;
esac
"""


def started(folder: Path, **variables: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What the script did with a Python that takes notes, fails in the benchmark and is slow in the study."""
    python, notes = folder / "python", folder / "notes"
    python.write_text(PYTHON.format(notes=notes))
    python.chmod(0o755)
    kept = {"PATH": os.environ["PATH"], "PY": str(python), "MINUTES": "1"}
    words = ["bash", str(ROOT / "scripts" / "gpu.sh"), str(folder / "out")]
    done = subprocess.run(words, env=kept | variables, capture_output=True, text=True, check=False)
    return done, notes.read_text().splitlines() if notes.exists() else []


def test_a_step_that_fails_stops_no_other(tmp_path: Path) -> None:
    done, notes = started(tmp_path, STEPS="tests check bench")
    assert [line.split()[0] for line in notes] == ["-m", "scripts/gpu_check.py", "scripts/bench.py"]
    assert "-m gpu tests" in notes[0]
    assert done.returncode == 1
    assert "failed with status 3:\nno room" in done.stdout
    with tarfile.open(tmp_path / "out" / "results.tgz") as archive:
        assert "results/bench/gpu_check.json" in archive.getnames()


def test_the_study_ends_with_the_time(tmp_path: Path) -> None:
    done, notes = started(tmp_path, STEPS="study", TASKS="rte", SEEDS="0", LONGEST="5")
    assert notes[0] == "scripts/study.py"
    assert "stopped after 5 s: what is finished stays" in done.stdout
    assert done.returncode == 0


def test_a_step_that_is_none_is_named(tmp_path: Path) -> None:
    done, _ = started(tmp_path, STEPS="trial")
    assert done.returncode == 2
    assert "error: STEPS: got trial, must be some of tests check bench study" in done.stderr
