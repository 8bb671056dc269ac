"""Metrics over questions, by hand and in degenerate cases: MultiRC's, ReCoRD's, CB's three classes, gender parity."""

from __future__ import annotations

import numpy as np
import pytest

from sora.tasks import compute_metrics, load_task
from sora.tasks.formats import best_credit, normalised
from sora.tasks.metrics import Scored, exact_match, f1_macro, parity, predict, score

MULTIRC, RECORD = load_task("multirc"), load_task("record")


@pytest.mark.parametrize(
    ("groups", "labels", "predictions", "f1a", "em"),
    [
        # questions 8 (right), 3 (one answer wrong), 5 (no gold answer, none predicted): 2 tp, 1 fp, no fn
        ([8, 3, 8, 3, 5, 5], [1, 1, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0], 4 / 5, 2 / 3),
        ([0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1], 0, 0.5),  # without gold answer, any prediction loses the question
        ([0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], 0, 1),
        ([0, 0, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0], 0, 0),  # one class
        ([0, 0, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1], 6 / 7, 0.5),
    ],
)
def test_multirc_by_hand(groups: list[int], labels: list[int], predictions: list[int], f1a: float, em: float) -> None:
    found = score(MULTIRC, predictions, labels, np.array(groups))
    assert found == {"f1a": pytest.approx(f1a), "em": pytest.approx(em)}


def test_exact_match_does_not_depend_on_order_or_numbers() -> None:
    rng = np.random.default_rng(0)
    groups, labels, predictions = rng.integers(0, 40, 200), rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    by_hand = [np.array_equal(labels[groups == g], predictions[groups == g]) for g in np.unique(groups)]
    found = exact_match(Scored(predictions, labels, 2, groups))
    assert found == pytest.approx(np.mean(by_hand))
    order = rng.permutation(200)
    moved = Scored(predictions[order], labels[order], 2, groups[order] * 7 - 3)
    assert exact_match(moved) == pytest.approx(found)


def test_groups_are_asked_for() -> None:
    with pytest.raises(ValueError, match="needs groups"):
        score(MULTIRC, [0, 1], [0, 1])
    with pytest.raises(ValueError, match="groups"):
        compute_metrics(RECORD, np.zeros((2, 2)), [0, 1])


def test_record_takes_the_surest_candidate_of_each_query() -> None:
    # log odds -1, -3 | 1, 2 | 3; neither logit alone says so
    logits = np.array([[2, 1], [9, 6], [0, 1], [5, 7], [0, 3]])
    groups = np.array([4, 4, 2, 2, 9])
    assert predict(RECORD, logits, groups).tolist() == [1, 0, 0, 1, 1]
    credit = np.array([[0.5, 0], [1, 1], [1, 1], [0, 0], [1, 1]])
    found = compute_metrics(RECORD, logits, np.array([0, 1, 1, 0, 1]), groups, credit)
    assert found == {"f1": pytest.approx(1.5 / 3), "em": pytest.approx(1 / 3)}


def test_ties_and_broken_scores_go_to_the_first_candidate_or_choice() -> None:
    groups = np.array([1, 1, 0, 0])
    assert predict(RECORD, np.zeros((4, 2)), groups).tolist() == [1, 0, 1, 0]
    broken = np.array([[np.nan, 1], [0, -50], [np.inf, 1], [np.nan, np.nan]])
    assert predict(RECORD, broken, groups).tolist() == [0, 1, 1, 0]
    assert predict(load_task("copa"), [[1.0, 1.0], [0.0, 0.5]]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Quick, brown FOX!", "quick brown fox"),
        ("a an the", ""),
        ("Theatre and anthem", "theatre and anthem"),  # articles are whole words
        ("U.S.", "us"),
        ("Zoë's Café", "zoës café"),
        ("«Ümit»", "«ümit»"),  # the official list of punctuation is ASCII
        ("", ""),
    ],
)
def test_the_official_normalisation(text: str, expected: str) -> None:
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("prediction", "gold", "f1", "em"),
    [
        ("the Beatles", ["Beatles"], 1, 1),
        ("New York City", ["New York", "NYC"], 0.8, 0),  # 2 * (2/3 * 1) / (2/3 + 1)
        ("New York", ["New York City"], 0.8, 0),
        ("Bo Bo", ["Bo"], 2 / 3, 0),
        ("Ann", ["Bo", "Ann Lee", "ann."], 1, 1),  # the best alias counts
        ("Ann", [], 0, 0),
        ("the", ["a"], 0, 1),  # both empty: equal, yet no word in common
        ("", [""], 0, 1),
        ("ﬁn", ["fin"], 0, 0),  # a ligature is another letter
    ],
)
def test_credit_by_hand(prediction: str, gold: list[str], f1: float, em: float) -> None:
    assert best_credit(prediction, gold) == (pytest.approx(f1), em)


def test_macro_f1_is_over_all_classes() -> None:
    """The example of T5's own test, and a class that is nowhere."""
    assert f1_macro(Scored(np.array([0, 0, 2, 2]), np.array([0, 1, 1, 2]), 3)) == pytest.approx(4 / 9)
    assert f1_macro(Scored(np.array([0, 1]), np.array([0, 1]), 3)) == pytest.approx(2 / 3)
    assert f1_macro(Scored(np.zeros(3), np.array([0, 1, 2]), 3)) == pytest.approx(0.5 / 3)


def test_parity_counts_pairs_that_agree() -> None:
    pairs = np.array([5, 5, 1, 1, 7, 7])
    assert parity(Scored(np.array([0, 0, 1, 0, 1, 1]), np.zeros(6), 2, pairs)) == pytest.approx(2 / 3)
