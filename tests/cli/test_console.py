"""Programs whose console closes end quietly, or train on."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sora.runs import records
from tests.cluster.jobs import start
from tests.typed import SMALL


def closed(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert process.stdout is not None
    process.stdout.close()
    return process


def test_a_listing_whose_reader_leaves_ends_quietly(tmp_path: Path) -> None:
    process = closed(start(tmp_path, "--help"))
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait() == 0, said
    assert "Traceback" not in said
    assert "Broken" not in said


def test_a_training_whose_console_closes_goes_on(tmp_path: Path) -> None:
    process = closed(start(tmp_path, *SMALL, "trainer.max_steps=2"))
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait() == 0
    assert len(records.read_many(tmp_path / "results")) == 1
