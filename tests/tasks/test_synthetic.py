"""The synthetic tasks: their texts are pinned, labels balanced and not readable off a bag of words."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from sora.errors import UserError
from sora.tasks import synthetic
from sora.tasks.examples import Examples, splits_digest
from sora.tasks.metrics import Scored, pearson
from sora.tasks.spec import load_task

NAMES = ("synthetic_pair", "synthetic_single", "synthetic_graded")
# a change here is a change of the data: raise the task's version
DIGESTS = {
    "synthetic_pair": "d1a58ff5d938c420",
    "synthetic_single": "284a7168283a9c24",
    "synthetic_graded": "eaa96346129ca480",
}


@pytest.fixture(scope="module", params=NAMES)
def made(request: pytest.FixtureRequest) -> tuple[str, dict[str, Examples]]:
    return request.param, synthetic.generate(load_task(request.param))


def rows(examples: Examples) -> list[tuple[str, ...]]:
    return list(zip(*examples.texts, strict=True))


def test_texts_are_pinned(made: tuple[str, dict[str, Examples]]) -> None:
    name, splits = made
    assert splits_digest(splits)[:16] == DIGESTS[name]


def test_labels_are_balanced_and_no_text_occurs_twice(made: tuple[str, dict[str, Examples]]) -> None:
    everything = [row for examples in made[1].values() for row in rows(examples)]
    assert len(everything) == len(set(everything))
    for examples in made[1].values():
        counts = Counter(examples.labels.tolist())
        assert max(counts.values()) - min(counts.values()) <= 1
        first_half = examples.labels[: len(examples) // 2]  # the order must not follow the label
        assert abs(first_half.mean() - examples.labels.mean()) < 0.1 * max(1, examples.labels.max())


def test_a_bag_of_words_does_not_solve_it(made: tuple[str, dict[str, Examples]]) -> None:
    name, splits = made
    vectorizer = CountVectorizer()
    joined = {split: [" ".join(row) for row in rows(examples)] for split, examples in splits.items()}
    train = vectorizer.fit_transform(joined["train"])
    model = LogisticRegression(max_iter=2000).fit(train, splits["train"].labels.astype(int))
    predicted = model.predict(vectorizer.transform(joined["validation"]))
    gold = splits["validation"].labels
    if name == "synthetic_graded":
        assert pearson(Scored(predicted, gold, 2)) < 0.5
    else:
        assert np.mean(predicted == gold) < 0.75


def test_graded_labels_count_the_shared_slots() -> None:
    """Read the slots back from the words: a synonym set found in both texts, in the same role, is shared."""
    examples = synthetic.generate(load_task("synthetic_graded"))["validation"]
    actions, places, times = synthetic.SLOTS[1], synthetic.SLOTS[3], synthetic.SLOTS[4]

    def find(text: str, meanings: list[tuple[str, str]]) -> int:
        found = [i for i, words in enumerate(meanings) if any(f" {word} " in text for word in words)]
        assert len(found) == 1, text
        return found[0]

    def read(text: str) -> tuple[int, ...]:
        text = f" {text[0].lower()}{text[1:-1]} ".replace("on christmas", "on Christmas")
        action, place, time = find(text, actions), find(text, places), find(text, times)
        for word in (*places[place], *times[time]):
            text = text.replace(f" {word} ", " ")
        verb = next(word for word in actions[action] if f" {word} " in text)
        before, after = text.split(f" {verb} ")
        people = [find(f" {part} ", synthetic.PERSONS) for part in (before, after)]
        agent, patient = reversed(people) if " was " in f"{before} " else people
        return agent, action, patient, place, time

    for (first, second), label in zip(rows(examples), examples.labels, strict=True):
        assert sum(a == b for a, b in zip(read(first), read(second), strict=True)) == label, (first, second)


def test_more_examples_than_there_are_texts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(synthetic.GENERATORS, "pair", lambda rng, target: ("One.", "Text."))
    with pytest.raises(UserError, match=r"task\.sizes\.train=3000"):
        synthetic.generate(load_task("synthetic_pair"))
