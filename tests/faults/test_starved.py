"""A process that really gets no more memory: its pack is split, and every run comes to its record."""

from __future__ import annotations

import resource
from pathlib import Path

from scripts import chaos
from sora.runs import records
from sora.training.loop import Loop
from tests.faults.small import SMALL

ROOM = 300 * 2**20  # bytes: not enough for a step of two replicas, enough for one


def little_memory() -> None:
    """From the first training on, the process may have ``ROOM`` bytes more than it has by then."""
    whole = Loop.run

    def starved(loop: Loop) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        if soft == resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, hard))
        whole(loop)

    Loop.run = starved  # type: ignore[method-assign]


def test_a_pack_that_gets_no_memory_is_split_and_finishes(tmp_path):
    wide = [each for each in SMALL if not each.startswith(("seed=", "backbone.arch.hidden", "backbone.arch.inter"))]
    command = (*wide, "seed=[0,1]", "trainer.batch_size=110", "trainer.max_steps=2")
    assert chaos.run(tmp_path, command, prepare=little_memory) == 0, (tmp_path / "output.txt").read_text()
    said = (tmp_path / "output.txt").read_text()
    assert "out of memory with 2 x 110 examples a step" in said
    assert "split into packs of 1 + 1 runs" in said
    found = records.read_many(tmp_path / "results/records")
    assert sorted(record["config"]["seed"] for record in found) == [0, 1]
    assert {record["pack"]["size"] for record in found} == {1}
