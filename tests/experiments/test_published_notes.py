"""The two notes on published numbers (results/published) are what follows from the numbers they are about."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from experiments.published import FOLDER, SENTENCE
from tests.conftest import ROOT
from tests.experiments.published_notes import anomalies, dispersion, printable

CANNOT = "five runs on the authors' split cannot produce"


def test_which_standard_deviation_the_paper_prints_is_counted_from_its_cells() -> None:
    words = [row.split("|")[5].strip() for row in anomalies().splitlines() if "± " in row and row.startswith("|")]
    population, sample = (sum("yes" in each and name in each for each in words) for name in ("population", "sample"))
    either = sum("yes" in each for each in words)
    page = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    stated = f"its {either} cells that five runs can print, {population} fit the population SD and {sample} the sample"
    assert stated in page


def test_every_row_and_sentence_of_the_notes_is_computed_anew() -> None:
    assert (FOLDER / "anomalies.md").read_text(encoding="utf-8") == anomalies()
    assert (FOLDER / "dispersion.md").read_text(encoding="utf-8") == dispersion()


def test_what_the_notes_rest_on() -> None:
    """The findings, in words, so that a page that was written anew with other ones is seen."""
    assert "either print these as accuracies: AdaLoRA, MRPC 90.22 ± 0.40 (Table 1)." in anomalies()
    assert anomalies().startswith(f"# Published cells that {CANNOT}\n")
    assert f"anomalies.md lists cells that {CANNOT}." in SENTENCE
    assert "2 of the 4 printed maps cannot be told from cutting ranks at random: MRPC, QNLI." in dispersion()


@pytest.mark.parametrize(("items", "runs"), [(7, 2), (9, 3)])
def test_printable_against_every_possible_run(items: int, runs: int) -> None:
    """All tuples of right answers, exact and rounded: what some of them print is found, what none prints is not."""
    every = 100 * np.array(list(product(range(items + 1), repeat=runs))) / items
    for mean, sd in (
        (66.67, 11.11),
        (57.14, 0.0),
        (50.0, 7.14),
        (50.0, 10.1),
        (61.9, 6.73),
        (44.44, 9.07),
        (44.44, 9.5),
    ):
        expected = {
            name
            for values in (every, every.round(2))
            for name, less in (("population", 0), ("sample", 1))
            if (
                (np.abs(values.mean(axis=1) - mean) <= 0.005 + 1e-9)
                & (np.abs(values.std(axis=1, ddof=less) - sd) <= 0.005 + 1e-9)
            ).any()
        }
        assert set(printable(mean, sd, items, runs)) == expected
        means = np.abs(np.stack([every, every.round(2)]).mean(axis=2) - mean)
        assert bool(printable(mean, None, items, runs)) == bool((means <= 0.005 + 1e-9).any())
