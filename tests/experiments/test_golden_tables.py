"""Every number of results/tables, rebuilt from the records, equals the committed golden value."""

from __future__ import annotations

from pathlib import Path

from scripts import tables
from tests.conftest import ROOT
from tests.experiments import golden


def test_every_number_of_the_committed_tables_is_rebuilt(tmp_path: Path) -> None:
    for name in ("records", "studies"):
        (tmp_path / name).symlink_to(ROOT / "results" / name)
    assert tables.build(tmp_path) == []
    expected = golden.read()
    assert len(expected) > 5_000
    assert golden.differences(golden.cells(tmp_path), expected) == []


def test_a_number_that_moved_is_seen() -> None:
    place = ("t", "method=LoRA", "score")
    assert golden.differences({place: "80.000002"}, {place: "80.0"}) == []  # 1e-6 of the number
    assert golden.differences({place: "80.0002"}, {place: "80.0"}) != []
    assert golden.differences({place: "better"}, {place: "worse"}) != []
    assert golden.differences({}, {place: "80.0"}) != []
    assert golden.differences({place: "80.0"}, {}) != []
