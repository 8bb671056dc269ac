"""Ratios and table of the benchmark, by hand."""

import dataclasses

import pytest

from benchmark import report
from benchmark.cases import FLOOR, OURS, Case, Section, sections
from benchmark.measure import Result, turn_length


def result(label, seconds, *, replicas=1, steps=4, error=""):
    case = Case(label, "ours", "sora", "cola", replicas=replicas)
    return Result(case, steps=0 if error else steps, seconds=seconds, peak_bytes=3 * 2**20, error=error)


RESULTS = [
    result(FLOOR, [1.0, 2.0, 1.0]),
    result(OURS, [1.5, 2.0, 1.25]),
    result(f"{OURS}, pack of 5", [4.0, 5.0, 4.0], replicas=5),
    result("peft + Trainer (LoRA)", [4.0, 8.0, 5.0]),
    result("authors' recipe", [], error="MemoryError: no room"),
]


def whole(found, quick=False):
    provenance = {"device": "cpu x", "cores": 2, "threads": 2, "versions": {"torch": "2"}, "git": None}
    provenance |= {"started": "2026-01-01T00:00:00+00:00", "command": "python scripts/bench.py"}
    return {
        "quick": quick,
        "sections": found,
        "startup": {"python run.py --help": [1.5, 1.0, 2.0]},
        "provenance": provenance,
    }


def cells(table, label):
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in line.strip("|").split("|")[1:]]


def test_the_table_by_hand():
    table = report.markdown(whole([report.section(Section("one", "cpu", []), RESULTS)]))
    head = next(line for line in table.splitlines() if "peak MB" in line)
    assert head == "| | speed / Trainer | speed / ours solo | time / frozen | examples / s | ms / step | peak MB |"
    assert cells(table, OURS) == [
        "4.00 [2.67-4.00]",  # 4/1.5, 8/2, 5/1.25
        "–",
        "1.25 [1.00-1.50]",
        "21.3 [16.0-25.6]",  # 4 steps of 8 examples in 1.5, 2 and 1.25 s
        "375.0 [312.5-500.0]",
        "3",
    ]
    assert cells(table, f"{OURS}, pack of 5")[1] == "1.88 [1.56-2.00]", "5 * 1.5 / 4, 5 * 1.25 / 4, 5 * 2 / 5"
    assert cells(table, "peft + Trainer (LoRA)")[0] == "–"
    assert cells(table, "authors' recipe")[-1] == "MemoryError: no room"
    assert cells(table, "`python run.py --help`") == ["1.50 [1.00-2.00]"]


def test_what_was_not_measured_says_so():
    section = next(each for each in sections() if each.device == "cuda")
    table = report.markdown(whole([report.section(section, [])]))
    assert f"## {section.title} (GPU)\n\nNot measured.\n" in table
    assert "quick" not in table
    assert "quick run" in report.markdown(whole([], quick=True))


def test_every_section_can_be_compared():
    from benchmark.contestants import TRAIN

    titles = [section.title for section in sections()]
    assert len(set(titles)) == len(titles)
    for section in sections():
        labels = [case.label for case in section.cases]
        assert len(set(labels)) == len(labels)
        assert {case.kind for case in section.cases} <= set(TRAIN)
        assert len({(case.backbone, case.task, case.batch) for case in section.cases}) == 1
        if ", batch 8" in section.title and ":" not in section.title and "without" not in section.title:
            measured = [dataclasses.replace(result(label, [1.0])) for label in labels]
            table = report.markdown(whole([report.section(section, measured)]))
            assert all(column in table for column in report.REFERENCES), section.title


@pytest.mark.parametrize(
    ("values", "expected"), [([], "–"), ([2.0], "2.00 [2.00-2.00]"), ([1, 3, 2], "2.00 [1.00-3.00]")]
)
def test_spread(values, expected):
    assert report.spread(values) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [([], 2), ([0.1, 0.2], 5), ([0.02, 0.6], 5), ([0.001, 0.002], 50), ([3.0, 5.0], 2)],
    ids=["none", "fast one decides", "slow one decides", "most", "least"],
)
def test_a_turn_is_long_enough_for_the_fast_and_short_enough_for_the_slow(seconds, expected):
    assert turn_length(seconds) == expected
