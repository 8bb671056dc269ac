"""The two containers that the rest of the program sees: labelled examples and a task's splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sora.config import TaskConfig


@dataclass(frozen=True)
class Examples:
    """N examples of one official file, in an order that matters (training shuffles from it).

    ``ids`` are 0-based data rows of ``source``: a header line is not counted, a row that was skipped is. A row
    may hold several examples (the answers to the questions on one passage). The test split has no labels: its
    ``labels`` are -1 (classes) or NaN (regression).

    ``groups``, ``credit`` and ``spans`` belong to tasks whose ``scoring`` or ``spans`` ask for them. ``idx`` and
    ``answers`` are what a submission must repeat; they decide no number.
    """

    source: str  # "RTE/dev.tsv": the official file whose rows `ids` count
    ids: NDArray[np.int64]  # [N]
    texts: tuple[list[str], ...]  # columns of N strings: a text, a pair, or a text and its K choices
    labels: NDArray[Any]  # int64 [N] class index, or float32 [N] target
    groups: NDArray[np.int64] | None = None  # [N] number of the question that an example belongs to
    credit: NDArray[np.float64] | None = None  # [N, 2] token F1 and exact match of answering with this candidate
    spans: NDArray[np.int64] | None = None  # [N, S, 3] text column, first character, end of each marked span
    idx: NDArray[np.int64] | None = None  # [N, k] the official numbers of row, question, answer
    answers: list[str] | None = None  # N candidates as they stand in the text

    def __post_init__(self) -> None:
        optional = [each for each in (*self._arrays().values(), self.idx, self.answers) if each is not None]
        lengths = {len(each) for each in (self.ids, self.labels, *self.texts, *optional)}
        assert len(lengths) == 1, f"{self.source}: columns of different lengths {sorted(lengths)}"

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: NDArray[Any] | Sequence[int]) -> Examples:
        """The examples at ``indices`` (positions, not ids), in that order."""
        index = np.asarray(indices, dtype=np.int64)
        arrays: dict[str, Any] = {"ids": self.ids, "labels": self.labels, "idx": self.idx, **self._arrays()}
        taken: dict[str, Any] = {name: array[index] for name, array in arrays.items() if array is not None}
        return replace(
            self,
            texts=tuple([column[i] for i in index.tolist()] for column in self.texts),
            answers=None if self.answers is None else [self.answers[i] for i in index.tolist()],
            **taken,
        )

    def where(self, position: int) -> str:
        """How a person finds the example at ``position``."""
        return f"{self.source}, row {self.ids[position]} (from 0)"

    @property
    def gold(self) -> dict[str, NDArray[Any]]:
        """What predictions are scored against: ``labels`` and, where there are any, ``groups`` and ``credit``."""
        return {"labels": self.labels} | {k: v for k, v in self._arrays().items() if k != "spans"}

    def _arrays(self) -> dict[str, NDArray[Any]]:
        """The optional arrays that decide numbers, those there are."""
        named = {"groups": self.groups, "credit": self.credit, "spans": self.spans}
        return {name: array for name, array in named.items() if array is not None}

    def digest(self) -> str:
        """sha256 (hex) of ids, texts, labels, groups, credit and spans in their order; ``source`` is not part of it.

        Canonical bytes: a JSON header with the shape, then ids (little-endian int64), labels (little-endian
        int64 or float32), for each text column the UTF-8 byte lengths (int64) followed by the bytes, and the
        optional arrays there are (little-endian int64 or float64), which the header lists with their shapes.
        Lengths come first, so moving a character from one text to the next cannot give the same bytes.
        """
        kind = "float32" if self.labels.dtype.kind == "f" else "int64"
        extra = [[name, list(array.shape)] for name, array in self._arrays().items()]
        header = [len(self), len(self.texts), kind, *extra]
        hasher = hashlib.sha256(json.dumps(header).encode())
        hasher.update(self.ids.astype("<i8").tobytes())
        hasher.update(self.labels.astype("<f4" if kind == "float32" else "<i8").tobytes())
        for column in self.texts:
            encoded = [text.encode("utf-8") for text in column]
            hasher.update(np.fromiter(map(len, encoded), dtype="<i8", count=len(encoded)).tobytes())
            hasher.update(b"".join(encoded))
        for array in self._arrays().values():
            hasher.update(np.ascontiguousarray(array, dtype="<f8" if array.dtype.kind == "f" else "<i8").tobytes())
        return hasher.hexdigest()


@dataclass(frozen=True)
class TaskData:
    """A task under a protocol: what is trained on, selected on and reported on."""

    task: TaskConfig
    splits: dict[str, Examples]  # train, select, report, train_subset; report_mm for MNLI
    sizes: dict[str, int]  # examples of each of `splits`
    partial: dict[str, str]  # official split -> "67,349 expected, 2,000 found"; {} = complete
    sha256: str  # over the digests of all splits; part of the run id
    notes: Sequence[str] = ()  # what a person must know of the rows


def splits_digest(splits: dict[str, Examples]) -> str:
    """sha256 (hex) of the canonical JSON ``{split: digest}``."""
    digests = {name: examples.digest() for name, examples in splits.items()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
