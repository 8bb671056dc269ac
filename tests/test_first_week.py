"""tests/first_week.sh: from `pip install .` in an empty environment to a table from an own CSV."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_first_week_of_a_user(tmp_path: Path) -> None:
    script = Path(__file__).with_name("first_week.sh")
    done = subprocess.run(
        ["bash", str(script), sys.executable, str(tmp_path)],
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("first week: done\n")
