"""scripts/merge_results.py: equal records count once, different ones stop everything."""

from __future__ import annotations

from copy import deepcopy

import pytest

from scripts.merge_results import main, merge
from sora.errors import UserError
from sora.runs import manifest as studies
from sora.runs import records
from tests.composing import arrays
from tests.composing import record as example

IDS = ("0123456789ab", "ba9876543210", "00000000000f")


def folder(path, *ids, change=lambda record: None):
    """A results folder with a record of each id."""
    for run_id in ids:
        record = deepcopy(example(run_id))
        change(record)
        records.write(path / "records" / "tiny" / "rte" / f"sora-s0-{run_id}.json", record, arrays())
    return path


def test_what_is_missing_comes_with_its_logits_and_can_be_found(tmp_path):
    one, two = folder(tmp_path / "one", *IDS[:2]), folder(tmp_path / "two", *IDS[1:])
    into = folder(tmp_path / "into", IDS[0])
    assert merge([one, two], into) == {"new": 2, "equal": 2}
    assert sorted(records.finished(into)) == sorted(IDS)
    for run_id in IDS:
        records.read_arrays(records.find(into, run_id))
    before = {path: path.read_bytes() for path in into.rglob("*.*")}
    assert merge([one, two], into) == {"new": 0, "equal": 4}
    assert {path: path.read_bytes() for path in into.rglob("*.*")} == before


def test_time_and_provenance_may_differ(tmp_path):
    def elsewhere(record):
        record["time"]["train_s"], record["provenance"]["device"] = 99.0, "another"

    one, two = folder(tmp_path / "one", IDS[0]), folder(tmp_path / "two", IDS[0], change=elsewhere)
    assert merge([one, two], tmp_path / "into") == {"new": 1, "equal": 1}


def test_keys_of_a_later_version_are_no_contradiction(tmp_path):
    def later(record):
        record["ranks_last"], record["flags"]["of later"] = dict(record["ranks"]), True

    one, two = folder(tmp_path / "one", IDS[0]), folder(tmp_path / "two", IDS[0], change=later)
    assert merge([one, two], tmp_path / "into") == {"new": 1, "equal": 1}


def _another_score(record):
    record["metrics"]["last"]["report"]["accuracy"] += 0.01


def _another_evaluation(record):
    record["history"][-1]["loss"] += 0.01


@pytest.mark.parametrize(("other", "where"), [(_another_score, "metrics"), (_another_evaluation, "history")])
def test_different_science_is_an_error_and_nothing_is_written(tmp_path, other, where):
    one, two = folder(tmp_path / "one", *IDS), folder(tmp_path / "two", IDS[1], change=other)
    into = tmp_path / "into"
    with pytest.raises(UserError, match=f"two/.* and .*one/.*: both are run {IDS[1]}, but differ in {where}"):
        main([str(one), str(two), "--into", str(into)])
    assert not into.exists()


def test_a_damaged_source_is_named_and_nothing_is_written(tmp_path):
    one = folder(tmp_path / "one", IDS[0])
    path = records.find(one, IDS[0]).with_suffix(".npz")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=rf"{path.name}"):
        merge([one], tmp_path / "into")
    assert not (tmp_path / "into").exists()
    with pytest.raises(UserError, match="no folder of results"):
        merge([tmp_path / "nowhere"], tmp_path / "into")


def manifest(path, tasks):
    """A sweep over RTE and CoLA of which one machine could name ``tasks``."""
    axes = {"method": ["sora"], "task": ["rte", "cola"], "seed": [0]}
    runs = [
        {
            "run_id": tasks[task],
            "axes": {"method": "sora", "task": task, "seed": 0},
            "record": f"records/tiny/{task}/sora-s0-{tasks[task]}.json",
            "command": f"python run.py task={task}",
        }
        for task in tasks
    ]
    studies.write(path, studies.make("sweep", axes, {}, runs))


def test_manifests_of_one_sweep_become_one(tmp_path):
    one, two, into = folder(tmp_path / "one", IDS[0]), folder(tmp_path / "two", IDS[1]), tmp_path / "into"
    manifest(one, {"rte": IDS[0], "cola": IDS[1]})
    manifest(two, {"cola": IDS[1]})
    merge([one, two], into)
    (whole,) = studies.read_all(into)
    assert [run["axes"]["task"] for run in whole["runs"]] == ["rte", "cola"]
    merge([two], one)  # the shorter one takes nothing away
    assert studies.read_all(one) == [whole]
    manifest(two, {"cola": IDS[2]})
    with pytest.raises(UserError, match=r"name different runs for .*cola.*; nothing was merged"):
        merge([one, two], tmp_path / "else")
    assert not (tmp_path / "else").exists()


def test_a_folder_without_results_and_a_damaged_manifest_are_told_before_anything_is_copied(tmp_path):
    one = folder(tmp_path / "one", IDS[0])
    with pytest.raises(UserError, match="neither records/ nor studies/"):
        merge([one / "records"], tmp_path / "into")
    (one / "studies").mkdir()
    (one / "studies" / "sweep-0123456789ab.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        merge([one], tmp_path / "into")
    assert not (tmp_path / "into").exists()
