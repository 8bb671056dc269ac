"""Texts to tokens beyond pairs: only the passage is cut, choices share their premise, spans are found again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sora.backbones.head import span_means
from sora.backbones.tokenizer import encode
from sora.errors import UserError
from tests.backbones.folders import SPECIAL, word_tokenizer

WORDS = [*SPECIAL, "p0", "p1", "p2", "p3", "p4", "p5", "q0", "q1", "q2", "q3"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer(WORDS)


def words(encoding, row: int) -> str:
    ids = encoding.ids[encoding.starts[row] : encoding.starts[row + 1]]
    return " ".join(WORDS[i] for i in ids)


def test_only_the_passage_is_cut(tokenizer) -> None:
    texts = (["p0 p1 p2 p3 p4 p5", "p0", "p0 p1 p2 p3"], ["q0 q1 q2", "q0 q1 q2 q3", "q0"])
    found = encode(tokenizer, texts, 8, True, truncate="text_a")
    assert [words(found, row) for row in range(3)] == [
        "[CLS] p0 p1 [SEP] q0 q1 q2 [SEP]",
        "[CLS] p0 [SEP] q0 q1 q2 q3 [SEP]",
        "[CLS] p0 p1 p2 p3 [SEP] q0 [SEP]",
    ]
    assert found.truncated == 1
    longest = encode(tokenizer, texts, 7, True)
    assert words(longest, 0) == "[CLS] p0 p1 [SEP] q0 q1 [SEP]"
    assert longest.truncated == 3


def test_a_question_that_leaves_no_room_is_named(tokenizer) -> None:
    with pytest.raises(UserError, match=r"max_length=7: .* has 4 tokens in example 1, and 3 .* above 7"):
        encode(tokenizer, (["p0", "p0"], ["q0", "q0 q1 q2 q3"]), 7, False, truncate="text_a")


def test_choices_are_read_with_their_premise(tokenizer) -> None:
    texts = (["p0 p1", "p2"], ["q0", "q1"], ["q2 q3", "q3"])
    found = encode(tokenizer, texts, 16, True, choices=2)
    assert [words(found, row) for row in range(4)] == [
        "[CLS] p0 p1 [SEP] q0 [SEP]",
        "[CLS] p0 p1 [SEP] q2 q3 [SEP]",
        "[CLS] p2 [SEP] q1 [SEP]",
        "[CLS] p2 [SEP] q3 [SEP]",
    ]
    assert found.lengths.tolist() == [7, 5]
    assert found.counts.tolist() == [13, 10]
    batch = found.collate(np.array([1, 0]))
    assert batch["input_ids"].shape == (4, 7)
    assert batch["input_ids"][2, :6].tolist() == found.ids[found.starts[0] : found.starts[1]].tolist()
    cut = encode(tokenizer, texts, 6, False, choices=2)
    assert cut.truncated == 1  # one choice of the first example


def test_spans_are_found_among_the_tokens(tokenizer) -> None:
    texts = (["p0 p1 p2", "p3"], ["q0 q1", "q2 q3"])
    spans = np.array([[[0, 3, 8], [1, 0, 2]], [[0, 0, 2], [1, 3, 5]]])  # p1 p2, q0; p3, q3
    found = encode(tokenizer, texts, 16, False, spans=spans)
    assert found.spans is not None
    assert found.spans.tolist() == [[[2, 4], [5, 6]], [[1, 2], [4, 5]]]
    assert found.collate(np.array([1]))["spans"].tolist() == [[[1, 2], [4, 5]]]
    with pytest.raises(UserError, match="max_length=5 cuts off a marked span of example 0"):
        encode(tokenizer, texts, 5, False, spans=spans)


def test_span_vectors_are_means_and_padding_does_not_matter() -> None:
    hidden = torch.randn(3, 6, 4, dtype=torch.float64)
    spans = torch.tensor([[[0, 1], [2, 5]], [[1, 3], [1, 3]], [[4, 6], [0, 6]]])
    expected = [[hidden[i, a:b].mean(0) for a, b in each] for i, each in enumerate(spans.tolist())]
    torch.testing.assert_close(span_means(hidden, spans), torch.stack([torch.cat(each) for each in expected]))
    longer = torch.cat([hidden, torch.full((3, 2, 4), 1e9, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(span_means(longer, spans), span_means(hidden, spans))
