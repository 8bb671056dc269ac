"""What a person is told of a pack: what its runs differ in, and what the method has."""

import dataclasses
from pathlib import Path

import pytest

from sora.training.job import differences
from tests import tiny


def test_only_what_differs_beside_the_seed_is_told() -> None:
    plain = tiny.runs(seeds=[0, 1])
    assert differences(plain) == ["", ""]
    apart = [dataclasses.replace(plain[0], seeds=dataclasses.replace(plain[0].seeds, init=1234567)), plain[0]]
    assert differences(apart) == [" seeds.init 1234567", " seeds.init 0"]
    other = dataclasses.replace(plain[1], method=dataclasses.replace(plain[1].method, threshold=1e-5))
    assert differences([plain[0], other]) == [" threshold 0.001", " threshold 1e-05"]


@pytest.mark.parametrize(("method", "shown"), [("sora", True), ("bitfit", False), ("full", False)])
def test_live_ranks_are_told_of_methods_that_have_them(
    method: str, shown: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.train(tiny.runs(method={"name": method}, trainer={"max_steps": 2, "eval_every": 2}), tmp_path)
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("step 2 of 2: "))
    assert ("live_ranks" in line) is shown
    assert "nan" not in line
