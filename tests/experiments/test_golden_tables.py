"""Every file of results/ is rebuilt from the records, and every number of its tables is the golden one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from tests.conftest import ROOT
from tests.experiments import golden


@pytest.fixture(scope="module")
def made_again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make tables`` writes without the instructions that an older processor lacks: sums round otherwise."""
    results = tmp_path_factory.mktemp("results")
    for name in ("records", "studies"):
        shutil.copytree(ROOT / "results" / name, results / name)
    older = {"OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX2 FMA3"}
    command = [sys.executable, "-m", "scripts.tables", "--results", str(results), "--strict"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | older, check=False)
    assert done.returncode == 0, done.stderr
    return results


def test_every_number_of_the_committed_tables_is_rebuilt(made_again: Path) -> None:
    expected = golden.read()
    assert len(expected) > 100
    assert golden.differences(golden.cells(made_again), expected) == []


def test_every_committed_file_is_rebuilt_to_the_byte(made_again: Path) -> None:
    locked = re.search(r"^matplotlib==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert locked is not None
    if locked[1] != matplotlib.__version__:
        pytest.skip(f"figures are drawn by matplotlib {locked[1]}, here is {matplotlib.__version__}")
    written = {path.relative_to(made_again): path.read_bytes() for path in made_again.rglob("*") if path.is_file()}
    assert len(written) > 20
    assert [name for name, content in written.items() if (ROOT / "results" / name).read_bytes() != content] == []


def test_a_number_that_moved_is_seen() -> None:
    place = ("t", "method=LoRA", "score")
    assert golden.differences({place: "80.000002"}, {place: "80.0"}) == []  # 1e-6 of the number
    assert golden.differences({place: "80.0002"}, {place: "80.0"}) != []
    assert golden.differences({place: "better"}, {place: "worse"}) != []
    assert golden.differences({}, {place: "80.0"}) != []
    assert golden.differences({place: "80.0"}, {}) != []
