"""kill -9 at random moments, then the same command: the record of the undisturbed run. scripts/chaos.py has more."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from scripts import chaos
from tests.faults.small import SMALL


@pytest.mark.parametrize("phase", chaos.PHASES)
def test_the_end_is_that_of_the_undisturbed_run(phase, undisturbed, tmp_path):
    expected, spans = chaos.left(undisturbed), chaos.spans(undisturbed)
    (kill,) = chaos.moments({each: spans[each] if each == phase else [] for each in spans}, 1, random.Random(3))
    # A record of another member of the pack is the hardest place: the pack has to come together again.
    if phase == "record":
        kill = chaos.Kill(phase, 1, 0.0)
    assert chaos.disturbed(tmp_path, SMALL, kill), "the command was over before the kill"
    assert chaos.left(tmp_path) == expected
    assert len(expected) == 2
    assert metrics(tmp_path) == metrics(undisturbed)


def metrics(folder: Path) -> dict[str, bytes]:
    """metrics.jsonl of each run."""
    return {path.parent.name: path.read_bytes() for path in folder.glob("runs/*/metrics.jsonl")}
