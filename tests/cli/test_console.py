"""A program whose console closes trains on, and ends quietly."""

from __future__ import annotations

from pathlib import Path

from sora.runs import records
from tests.cluster.jobs import start
from tests.typed import SMALL


def test_a_training_whose_console_closes_goes_on(tmp_path: Path) -> None:
    """Standard output before anything was printed, as by ``| head``; standard error in the middle of the training."""
    process = start(tmp_path, *SMALL, "trainer.max_steps=2")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = ""
    while "training 1 run" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.stderr.close()
    assert process.wait() == 0
    assert "Traceback" not in said
    assert "Broken" not in said
    assert len(records.read_many(tmp_path / "results")) == 1
