"""Which printed cells are possible, against brute force and cases found by hand."""

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.anomalies import Fit, fits, note
from experiments.published import FOLDER


def printed(counts: tuple[int, ...], items: int, less: int) -> tuple[float, float]:
    values = [100 * count / items for count in counts]
    centre = sum(values) / len(values)
    sd = math.sqrt(sum((value - centre) ** 2 for value in values) / (len(values) - less))
    return round(centre, 2), round(sd, 2)


@settings(max_examples=40)
@given(st.lists(st.integers(128, 139), min_size=2, max_size=5), st.sampled_from([0, 1]))
def test_what_runs_print_is_never_called_impossible(counts: list[int], less: int) -> None:
    mean, sd = printed(tuple(counts), 139, less)
    assert Fit(139, len(counts), ("population", "sample")[less]) in fits(mean, sd, 139, len(counts))


def test_everything_possible_and_nothing_else_on_a_tiny_test_set() -> None:
    """Seven items, three runs: every printed pair near any of them, both answers, by brute force."""
    cases = list(itertools.combinations_with_replacement(range(8), 3))
    for less, name in ((0, "population"), (1, "sample")):
        true = {printed(case, 7, less) for case in cases}
        near = {(mean + step, sd) for mean, sd in true for step in (0.0, 0.05)} | {(m, s + 0.05) for m, s in true}
        for mean, sd in sorted(near):
            possible = any(abs(mean - m) < 1e-9 and abs(sd - s) < 1e-9 for m, s in true)
            found = Fit(7, 3, name) in fits(mean, sd, 7, 3)
            # Averages of rounded accuracies may print a hundredth beside the exact ones.
            assert found or not possible
            assert not found or any(abs(mean - m) < 0.0151 and abs(sd - s) < 0.0151 for m, s in true)


def test_cells_of_the_papers_tables() -> None:
    # 5 x 204 items: 91.98 would need 938.2 right answers; 90.22 is 920.2; both lie between whole numbers.
    assert fits(91.98, None, 204, 5) == fits(90.22, None, 204, 5) == []
    assert fits(85.32, 0.86, 139, 5) == [Fit(139, 5, "population")]
    assert fits(87.77, 1.56, 139, 5) == []
    assert fits(87.77, 1.56, 139, 3) == [Fit(139, 3, "population")]
    assert fits(87.36, 0.30, 139, 5) == fits(87.36, 0.30, 139, 3) == []
    assert Fit(277, 3, "population") in fits(87.36, 0.30, 277, 3)
    # 910 right answers in five runs fit the mean. But squared deviations of whole numbers that add up to 0 have an
    # even sum, and 2.12 would need one of 93.1 to 93.9.
    assert fits(89.22, None, 204, 5)
    assert fits(89.22, 2.12, 204, 5) == []


def test_the_committed_note_is_the_generated_one_and_says_what_was_found() -> None:
    text = (FOLDER / "anomalies.md").read_text(encoding="utf-8")
    assert text == note()
    assert "| 1 | SoRA r=8 | MRPC | 91.98 ± 1.16 | **no** |" in text
    assert "RTE | 85.32 ± 0.86 | yes, population SD |" in text
