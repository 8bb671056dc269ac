"""The three protocols, against torch and `datasets` themselves, and the digests of what they give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from sora.config import TaskConfig
from sora.errors import UserError
from sora.tasks.examples import Examples, splits_digest
from sora.tasks.splits import make_splits, stratified, torch_randperm, train_slice

HALVE = TaskConfig("toy", columns={"text_a": "a"}, labels=["0", "1"], paper_split="halve")
HELDOUT = replace(HALVE, paper_split="heldout")


def examples(source: str, size: int, classes: int = 2) -> Examples:
    rng = np.random.default_rng(size)
    texts = [f"{source} {i}" for i in range(size)]
    return Examples(source, np.arange(size), (texts,), rng.integers(0, classes, size))


def official(train: int, validation: int, mismatched: int = 0) -> dict[str, Examples]:
    made = {"train": examples("train.tsv", train), "validation": examples("dev.tsv", validation)}
    if mismatched:
        made["validation_mm"] = examples("dev_mm.tsv", mismatched)
    return made


def permuted(size: int) -> list[int]:
    """What the authors' code draws: torch's permutation of seed 42."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(42)).tolist()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 277, 67349])
def test_randperm_is_that_of_torch(size: int) -> None:
    assert torch_randperm(size, 42).tolist() == permuted(size)


@settings(max_examples=40)
@given(size=st.integers(0, 400), seed=st.integers(0, 2**32 - 1))
def test_randperm_is_that_of_torch_for_any_seed(size: int, seed: int) -> None:
    expected = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    assert torch_randperm(size, seed).tolist() == expected.tolist()


@pytest.mark.parametrize("size", [277, 408, 9])
def test_paper_halves_the_validation_set(size: int) -> None:
    given_data = official(50, size)
    splits = make_splits(HALVE, "paper", given_data)
    order = permuted(size)
    assert splits["select"].ids.tolist() == order[: size // 2]
    assert splits["report"].ids.tolist() == order[size // 2 :]
    assert splits["report"].texts[0][0] == f"dev.tsv {order[size // 2]}"
    assert splits["train"] is given_data["train"]


def test_paper_sets_a_thousand_training_examples_apart() -> None:
    given_data = official(3500, 60)
    splits = make_splits(HELDOUT, "paper", given_data)
    order = permuted(3500)
    assert splits["select"].ids.tolist() == order[:1000]
    assert splits["train"].ids.tolist() == order[1000:]
    assert splits["report"] is given_data["validation"]


@pytest.mark.parametrize(("protocol", "mismatched"), [("paper", permuted(31)[15:]), ("dev", None), ("holdout", None)])
def test_the_mismatched_set_is_split_as_the_matched_one(protocol: str, mismatched: list[int] | None) -> None:
    splits = make_splits(HALVE, protocol, official(50, 20, 31))
    assert splits["report_mm"].ids.tolist() == (mismatched or list(range(31)))
    if protocol != "paper":
        assert splits["report"].ids.tolist() == list(range(20))
    if protocol == "dev":
        assert splits["select"] is splits["report"]
        assert len(splits["train"]) == 50


@pytest.mark.parametrize(("size", "held"), [(2, 1), (95, 9), (10_000, 1000), (12_345, 1000)])
def test_holdout_selects_on_a_tenth_of_train(size: int, held: int) -> None:
    splits = make_splits(HALVE, "holdout", official(size, 20))
    assert len(splits["select"]) == held
    everything = np.concatenate([splits["select"].ids, splits["train"].ids])
    assert sorted(everything.tolist()) == list(range(size))
    labels = np.concatenate([splits["select"].labels, splits["train"].labels])
    for each in np.unique(labels):  # every class has its share
        assert abs(np.sum(splits["select"].labels == each) - np.sum(labels == each) * held / size) < 1


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=5).filter(lambda counts: sum(counts) > 1),
    share=st.floats(0.01, 0.99),
)
def test_strata_keep_their_share(counts: list[int], share: float) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    size = max(1, int(share * len(labels)))
    chosen = stratified(labels, size)
    assert len(set(chosen.tolist())) == size
    for value, count in enumerate(counts):
        assert abs(np.sum(labels[chosen] == value) - count * size / len(labels)) < 1


def test_what_is_left_over_goes_to_the_largest_fractions() -> None:
    """Ten of 100: shares of 6.2, 2.3 and 1.5 are 6, 2 and 2; of equal fractions the first class gets it."""
    labels = np.repeat([0, 1, 2], [62, 23, 15])
    assert np.bincount(labels[stratified(labels, 10)]).tolist() == [6, 2, 2]
    equal = np.repeat([0, 1, 2], [35, 35, 30])
    assert np.bincount(equal[stratified(equal, 10)]).tolist() == [4, 3, 3]


def test_strata_of_a_real_target_are_its_tenths() -> None:
    labels = np.random.default_rng(1).permutation(np.linspace(0, 5, 1000, dtype=np.float32))
    chosen = np.sort(labels[stratified(labels, 100)])
    assert np.histogram(chosen, bins=10, range=(0, 5))[0].tolist() == [10] * 10


@settings(max_examples=25)
@given(
    protocol=st.sampled_from(["paper", "holdout"]),
    train=st.integers(1001, 2500),
    validation=st.integers(2, 300),
    mismatched=st.integers(2, 50) | st.just(0),
    task=st.sampled_from([HALVE, HELDOUT]),
)
def test_no_example_is_in_two_splits(
    protocol: str, train: int, validation: int, mismatched: int, task: TaskConfig
) -> None:
    splits = make_splits(task, protocol, official(train, validation, mismatched))
    rows = [(splits[name].source, i) for name in ("train", "select", "report") for i in splits[name].ids.tolist()]
    assert len(rows) == len(set(rows)) == train + validation
    assert set(splits["train_subset"].ids.tolist()) <= set(splits["train"].ids.tolist())


@pytest.mark.parametrize("size", [5, 1000, 2490])
def test_train_subset_is_what_datasets_gives(size: int) -> None:
    splits = make_splits(HALVE, "paper", official(size, 20))
    kept = min(size, 1000)
    expected = Dataset.from_dict({"id": list(range(size))}).shuffle(seed=42).select(range(kept))["id"]
    assert splits["train_subset"].ids.tolist() == list(expected)


@pytest.mark.parametrize(
    ("task", "protocol", "data", "says"),
    [
        (HALVE, "paper", official(50, 1), r"dev\.tsv has 1 examples"),
        (HELDOUT, "paper", official(1000, 20), r"train\.tsv has 1,000 examples.*1,001"),
        (HALVE, "holdout", official(1, 20), r"train\.tsv has 1 examples"),
    ],
)
def test_what_cannot_be_split_is_refused(task: TaskConfig, protocol: str, data: dict[str, Examples], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_splits(task, protocol, data)


@pytest.mark.parametrize("protocol", ["paper", "dev"])
def test_validation_rows_that_are_trained_on_are_an_error(protocol: str) -> None:
    with pytest.raises(AssertionError, match="task toy: an example is in two splits"):
        make_splits(HALVE, protocol, dict.fromkeys(("train", "validation"), examples("train.tsv", 50)))


def test_a_slice_of_the_training_rows_is_the_same_for_everybody() -> None:
    train = examples("train.tsv", 500)
    found = train_slice(train, 100)
    assert found.ids.tolist() == sorted(permuted(500)[:100])
    assert found.texts[0] == [f"train.tsv {i}" for i in found.ids]
    assert found.labels.tolist() == train.labels[found.ids].tolist()
    assert train_slice(train, 0) is train
    with pytest.raises(UserError, match=r"train\.tsv has 500 examples, and task\.train_rows=500 needs at least 501"):
        train_slice(train, 500)


def two(**changes: object) -> Examples:
    made = Examples("RTE/dev.tsv", np.array([4, 7]), (["ab", "c"], ["d", "e"]), np.array([0, 1]))
    return replace(made, **changes)


def test_digest_changes_with_any_content() -> None:
    changes: list[dict[str, object]] = [
        {},
        {"ids": np.array([4, 8])},
        {"ids": np.array([7, 4])},
        {"labels": np.array([1, 1])},
        {"labels": np.array([0, 1], dtype=np.float32)},
        {"texts": (["a", "bc"], ["d", "e"])},
        {"texts": (["ab", "c"], ["d", "é"])},
        {"texts": (["ab", "c"], ["d", "e\u0301"])},
        {"texts": (["d", "e"], ["ab", "c"])},
        {"texts": (["ab", "c"],)},
        {"groups": np.array([0, 1])},
        {"groups": np.array([0, 0])},
        {"spans": np.zeros((2, 1, 3), dtype=np.int64)},
        {"credit": np.zeros((2, 2))},
    ]
    assert len({two(**each).digest() for each in changes}) == len(changes)
    assert two(idx=np.zeros((2, 1), dtype=np.int64), answers=["x"] * 2).digest() == two().digest()


def test_digest_does_not_know_source_or_integer_width_but_the_order() -> None:
    assert two(source="elsewhere.tsv").digest() == two().digest()
    assert two(labels=np.array([0, 1], dtype=np.int8)).digest() == two().digest()
    assert two().take([1, 0]).digest() != two().digest()
    assert two().take([1, 0]).take([1, 0]).digest() == two().digest()
    first, second = two(), two().take([0])
    assert splits_digest({"a": first, "b": second}) == splits_digest({"b": second, "a": first})
    assert splits_digest({"a": first, "b": second}) != splits_digest({"a": second, "b": first})


def several(source: str, per_row: list[int]) -> Examples:
    """Rows of one, two, ... examples, as many as ``per_row`` says."""
    ids = np.repeat(np.arange(len(per_row)), per_row)
    return Examples(source, ids, ([f"{i}" for i in ids],), np.arange(len(ids)) % 2, groups=np.arange(len(ids)) // 2)


@pytest.mark.parametrize("protocol", ["paper", "holdout"])
def test_a_row_of_several_examples_stays_together(protocol: str) -> None:
    per_row = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
    given_data = {"train": several("train", per_row), "validation": several("dev", per_row[:9])}
    splits = make_splits(HALVE, protocol, given_data)
    for name, whole in (("train", given_data["train"]), ("report", given_data["validation"])):
        for each in set(splits[name].ids.tolist()):
            assert (splits[name].ids == each).sum() == (whole.ids == each).sum()
    if protocol == "paper":
        order = permuted(9)
        assert list(dict.fromkeys(splits["select"].ids.tolist())) == order[:4]
        assert list(dict.fromkeys(splits["report"].ids.tolist())) == order[4:]
    assert splits["train"].groups is not None
    assert splits["train"].groups.shape == splits["train"].ids.shape


def test_the_training_subset_is_whole_rows() -> None:
    """As many rows, in the order of numpy's permutation, as have a thousand examples together; one at least."""
    per_row = [300, 200, 600, 50, 900, 10] * 2
    train = several("train", per_row)
    chosen = make_splits(HALVE, "dev", {"train": train, "validation": several("dev", [2, 2])})["train_subset"]
    order = np.random.default_rng(42).permutation(len(per_row)).tolist()
    kept = max((order[:n] for n in range(len(order)) if sum(per_row[row] for row in order[:n]) <= 1000), key=len)
    assert list(dict.fromkeys(chosen.ids.tolist())) == kept
    assert all((chosen.ids == each).sum() == (train.ids == each).sum() for each in set(chosen.ids.tolist()))
    huge = several("train", [2000, 2000])
    splits = make_splits(HALVE, "dev", {"train": huge, "validation": several("dev", [2, 2])})
    assert len(splits["train_subset"]) == 2000


def test_a_partial_training_set_gives_a_tenth() -> None:
    task = replace(HELDOUT, sizes={"train": 5000})
    splits = make_splits(task, "paper", official(200, 30))
    assert (len(splits["train"]), len(splits["select"]), len(splits["report"])) == (180, 20, 30)
