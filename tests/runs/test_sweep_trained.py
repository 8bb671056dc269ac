"""A sweep through the command a user types: two packs leave the records of eight single commands."""

import shlex

import numpy as np
import pytest

from sora.runs import manifest as studies
from sora.runs import records
from sora.training.runner import run_pack
from tests import composing
from tests.typed import SMALL, called

COMMON = (
    "method=sora",
    *(word for word in SMALL if not word.startswith("task=")),
    "backbone.dropout=0",
    "precision=fp32",
    "method.r=4",
    "trainer.max_steps=20",
    "trainer.eval_every=1000",
    "trainer.learning_rate=1e-2",
)
SWEEP = ("task=synthetic_pair,synthetic_graded", "seed=0,1", "method.threshold=1e-3,2e-2")


def test_a_sweep_leaves_the_records_of_single_commands(tmp_path):
    swept = called(tmp_path, "-m", *SWEEP, *COMMON)
    assert swept.status == 0, swept.err
    assert "study sweep: 8 runs, none finished; 2 jobs to do" in swept.err
    (manifest,) = studies.read_all(tmp_path / "results")
    found = {run["run_id"]: records.read(tmp_path / "results" / run["record"]) for run in manifest["runs"]}
    assert len(found) == 8
    assert {record["pack"]["size"] for record in found.values()} == {4}
    assert len({record["pack"]["members"][0] for record in found.values()}) == 2
    ranks = {tuple(record["ranks"].values()) for record in found.values()}
    assert len(ranks) > 1, "no threshold killed a rank: the runs would be alike whatever the packs do"

    for entry in manifest["runs"][1::4]:
        alone = tmp_path / entry["run_id"]
        paths = [f"paths.{name}={alone}/{name}" for name in ("results", "runs")]
        single = composing.runs(alone, *shlex.split(entry["command"])[2:], *paths, backbone="minilm-l6")
        run_pack(single, entry["command"])
        path = alone / "results" / entry["record"]
        solo, packed = records.science(records.read(path)), records.science(found[entry["run_id"]])
        for changed in ("pack", "data"):  # the company; the hash of the logits, compared below
            del solo[changed], packed[changed]
        assert solo["history"][-1].pop("loss") == pytest.approx(packed["history"][-1].pop("loss"), abs=1e-5)
        for part in ("history", "metrics"):  # a metric jumps where two examples change places
            assert numbers(solo.pop(part)) == pytest.approx(numbers(packed.pop(part)), abs=2e-3)
        assert solo == packed
        other = records.read_arrays(tmp_path / "results" / entry["record"])
        for name, array in records.read_arrays(path).items():
            np.testing.assert_allclose(array, other[name], atol=1e-3 if array.dtype == np.float16 else 1e-5)

    again = called(tmp_path, "-m", *SWEEP, *COMMON)
    assert again.status == 0
    assert again.err.startswith("study sweep: 8 runs, 8 of them finished; 0 jobs to do")
    assert again.out == ""


def numbers(value: object) -> list[float]:
    """All numbers in nested lists and dictionaries, in their order."""
    if isinstance(value, dict):
        return [each for key in sorted(value) for each in numbers(value[key])]
    if isinstance(value, list):
        return [each for item in value for each in numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []
