"""The coverage that docs/statistics.md states, simulated anew with other random numbers."""

import re

import pytest

from scripts import coverage
from sora.errors import UserError
from tests.conftest import ROOT

ROW = re.compile(r"\| (.+?) \| .+? \| (\d+) \| (.+?) \| (.+?) \| (.+?) \|")


def stated() -> dict[tuple[str, int], tuple[float, ...]]:
    text = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    block = text.partition(coverage.BEGIN)[2].partition(coverage.END)[0]
    rows = ROW.findall(block)
    return {(name, int(seeds)): tuple(map(float, values)) for name, seeds, *values in rows if seeds.isdigit()}


def test_the_document_states_every_regime():
    assert stated().keys() == {(regime.name, seeds) for regime in coverage.REGIMES for seeds in coverage.SEEDS}


@pytest.mark.parametrize(("index", "seeds"), [(0, 3), (0, 5), (2, 5), (3, 3)])
def test_the_stated_coverage_is_found_again(index: int, seeds: int):
    regime, repeats = coverage.REGIMES[index], 250
    found = coverage.simulate(regime, seeds, repeats, seed=7)
    for mine, theirs in zip(found, stated()[regime.name, seeds], strict=True):
        error = 2 * (max(theirs * (1 - theirs), 0.01) / repeats) ** 0.5
        assert mine == pytest.approx(theirs, abs=2 * error)  # four standard errors


def test_a_file_without_marks_is_left_alone(tmp_path):
    file = tmp_path / "x.md"
    file.write_text("nothing here", encoding="utf-8")
    with pytest.raises(UserError, match="coverage: begin"):
        coverage.main(["--repeats", "1", "--write", str(file)])
    assert file.read_text(encoding="utf-8") == "nothing here"
