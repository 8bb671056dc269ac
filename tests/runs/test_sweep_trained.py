"""A sweep through the command a user types: a pack leaves the records of its single commands."""

import shlex

import numpy as np
import pytest

from sora.runs import manifest as studies
from sora.runs import records
from tests.typed import SMALL, called

WORDS = (*SMALL, "method=sora", "method.r=4", "method.threshold=2e-2", "trainer.learning_rate=1e-2", "precision=fp32")
SWEEP = ("-m", "seed=0,1", *WORDS)


def test_a_sweep_leaves_the_records_of_single_commands(tmp_path):
    swept = called(tmp_path, *SWEEP)
    assert swept.status == 0, swept.err
    assert "study sweep: 2 runs, none finished; 1 job to do" in swept.err
    (manifest,) = studies.read_all(tmp_path / "results")
    found = [tmp_path / "results" / run["record"] for run in manifest["runs"]]
    first, second = (records.read(path) for path in found)
    assert first["pack"]["size"] == second["pack"]["size"] == 2
    assert first["ranks"] != second["ranks"], "the runs would be alike whatever the pack does"

    alone = tmp_path / "alone"
    alone.mkdir()
    single = called(alone, *shlex.split(manifest["runs"][1]["command"])[2:])
    assert single.status == 0, single.err
    path = alone / "results" / manifest["runs"][1]["record"]
    solo, packed = records.science(records.read(path)), records.science(second)
    for changed in ("pack", "data"):  # the company; the hash of the logits, compared below
        del solo[changed], packed[changed]
    assert solo["history"][-1].pop("loss") == pytest.approx(packed["history"][-1].pop("loss"), abs=1e-5)
    for part in ("history", "metrics"):  # a metric jumps where two examples change places
        assert numbers(solo.pop(part)) == pytest.approx(numbers(packed.pop(part)), abs=2e-3)
    assert solo == packed, "the ranks among them"
    packed_arrays = records.read_arrays(found[1])
    for name, array in records.read_arrays(path).items():
        np.testing.assert_allclose(array, packed_arrays[name], atol=1e-3 if array.dtype == np.float16 else 1e-5)

    again = called(tmp_path, *SWEEP)
    assert again.status == 0
    assert again.err.startswith("study sweep: 2 runs, 2 of them finished; 0 jobs to do")
    assert again.out == ""


def numbers(value: object) -> list[float]:
    """All numbers in nested lists and dictionaries, in their order."""
    if isinstance(value, dict):
        return [each for key in sorted(value) for each in numbers(value[key])]
    if isinstance(value, list):
        return [each for item in value for each in numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []
