"""Programs whose console closes end quietly, or train on; a user without a home gets no folder called ~."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sora.runs import records
from tests.cli.test_doctor import SMALL

ROOT = Path(__file__).parents[2]
TRAIN = (*SMALL, "task.sizes={train: 20, validation: 10}", "trainer.max_steps=2", "trainer.eval_every=2")


def started(folder: Path, *words: str, **options: object) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SORA_")}
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        text=True,
        **options,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize(
    "words", [("run.py", "--help"), ("run.py", "-m", "--dry-run", "seed=0,1,2"), ("scripts/status.py",)]
)
def test_a_listing_whose_reader_leaves_ends_quietly(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "results").mkdir()
    rest = [*words[1:], *(TRAIN if "-m" in words else ())]
    process = started(tmp_path, str(ROOT / words[0]), *rest, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait() == 0, said
    assert "Traceback" not in said
    assert "Broken" not in said


def test_a_training_whose_console_closes_goes_on(tmp_path: Path) -> None:
    process = started(tmp_path, str(ROOT / "run.py"), *TRAIN, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert process.wait() == 0
    assert len(records.read_many(tmp_path / "results")) == 2


@pytest.mark.skipif(os.getuid() != 0, reason="only root may start a process of another user")
def test_an_unknown_user_without_a_home_makes_no_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    code = (
        "import os, sys, sora.cli.main;"
        "os.setgid(54321); os.setuid(54321); os.environ.pop('HOME', 0); os.environ.pop('HF_HOME', 0);"
        "sys.argv = ['run.py', 'task=synthetic_pair']; sora.cli.main.entry()"
    )
    process = started(tmp_path, "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, said = process.communicate()
    assert (process.returncode, said.count("\n")) == (2, 1), said
    assert "error: HOME is not set and user 54321 has no home folder" in said
    assert list(tmp_path.iterdir()) == []
