"""A disk that is full or read-only, as a real file system that real processes write to."""

from __future__ import annotations

import os
import subprocess

import pytest

from scripts import chaos
from tests.faults.small import SMALL


@pytest.fixture
def disk(tmp_path):
    """A file system of its own; ``disk("size=64k")`` mounts it or changes it. Skips where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = []

    def mount(options):
        words = ["mount", "-t", "tmpfs", "-o", ",".join(["remount"] * bool(mounted) + [options]), "tmpfs", str(place)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0 and not mounted:
            pytest.skip(f"no small disk to be had here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        mounted.append(True)
        return place

    if os.getuid() != 0:
        pytest.skip("no small disk to be had here: mounting needs root")
    yield mount
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


def sentence(folder):
    """The one error that the last command printed."""
    lines = (folder / "output.txt").read_text().splitlines()
    assert not any("Traceback" in line for line in lines)
    (line,) = [line for line in lines if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    ("what", "room", "said"),
    [
        ("runs", "size=96k", "it goes on from the checkpoint before"),
        ("results", "size=8k", r"cannot be written \(No space left on device\)"),
    ],
    ids=["checkpoint", "record"],
)
def test_a_full_disk_is_one_sentence_and_with_room_again_nothing_is_lost(what, room, said, disk, undisturbed, tmp_path):
    place = disk(room)
    command = (*SMALL, f"paths.{what}={place}")
    assert chaos.run(tmp_path, command) == 2
    assert said.replace("\\", "") in sentence(tmp_path)
    assert str(place) in sentence(tmp_path)
    assert not list(place.rglob("*.tmp")), "half a file is of no use"
    disk("size=64m")
    assert chaos.run(tmp_path, command) == 0, (tmp_path / "output.txt").read_text()
    results = tmp_path if what == "runs" else tmp_path / "elsewhere"
    if what == "results":
        (results / "results").parent.mkdir(exist_ok=True)
        (results / "results").symlink_to(place)
    assert chaos.left(results) == chaos.left(undisturbed)


def test_a_read_only_results_folder_is_told_before_anything_is_trained(disk, tmp_path):
    place = disk("size=64k")
    disk("size=64k,ro")
    assert chaos.run(tmp_path, (*SMALL, f"paths.results={place}")) == 2
    assert "cannot be written (Read-only file system); set paths.results to a folder that can" in sentence(tmp_path)
    assert not list(tmp_path.glob("runs/*/metrics.jsonl"))
