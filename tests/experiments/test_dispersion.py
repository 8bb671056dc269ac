"""The dispersion test against its formula, against chance itself, and the committed note."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from experiments.dispersion import dispersion, maps, note
from experiments.published import FOLDER


def test_the_statistic_by_hand() -> None:
    found = dispersion(np.array([1, 3, 2, 2]), r_max=4)  # mean 2: binomial variance 4 / 2 / 2 = 1; squares 1 + 1
    assert (found.kept, found.freedom) == (0.5, 3)
    assert found.ratio == pytest.approx(2 / 3)
    assert found.p == pytest.approx(stats.chi2(3).sf(2.0))


def test_ranks_cut_at_random_give_uniform_p_values() -> None:
    rng = np.random.default_rng(0)
    p = [dispersion(rng.binomial(8, 0.4, 72)).p for _ in range(2000)]
    assert stats.kstest(p, "uniform").statistic < 0.05


def test_ranks_that_follow_their_matrix_are_found() -> None:
    rng = np.random.default_rng(0)
    assert dispersion(rng.binomial(8, np.repeat([0.2, 0.6], 36))).p < 0.001


@pytest.mark.parametrize("rank", [0, 8])
def test_maps_without_a_cut_are_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="no dispersion to test"):
        dispersion(np.full(72, rank))


def test_the_committed_note_is_the_generated_one_and_says_what_was_found() -> None:
    text = (FOLDER / "dispersion.md").read_text(encoding="utf-8")
    assert text == note()
    assert {task: (len(values), int(values.sum())) for task, values in maps().items()} == {
        "qqp": (72, 548),
        "mnli": (72, 480),
        "mrpc": (72, 237),
        "qnli": (72, 77),
    }
    assert "2 of the 4 printed maps cannot be told from cutting ranks at random: MRPC, QNLI." in text
