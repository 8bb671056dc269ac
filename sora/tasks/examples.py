"""The two containers that the rest of the program sees: labelled examples and a task's splits."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sora.tasks.spec import TaskConfig


@dataclass(frozen=True)
class Examples:
    """N examples of one official file, in an order that matters (training shuffles from it).

    ``ids`` are 0-based data rows of ``source``: a header line is not counted, a row that was skipped is. The
    test split has no labels: its ``labels`` are -1 (classes) or NaN (regression).
    """

    source: str  # "RTE/dev.tsv": the official file whose rows `ids` count
    ids: NDArray[np.int64]  # [N]
    texts: tuple[list[str], ...]  # one or two columns of N strings
    labels: NDArray[Any]  # int64 [N] class index, or float32 [N] target

    def __post_init__(self) -> None:
        lengths = {len(self.ids), len(self.labels), *(len(column) for column in self.texts)}
        if len(lengths) != 1:
            raise ValueError(f"{self.source}: columns of different lengths {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: NDArray[Any] | list[int]) -> Examples:
        """The examples at ``indices`` (positions, not ids), in that order."""
        index = np.asarray(indices, dtype=np.int64)
        texts = tuple([column[i] for i in index.tolist()] for column in self.texts)
        return Examples(self.source, self.ids[index], texts, self.labels[index])

    def digest(self) -> str:
        """sha256 (hex) of ids, texts and labels in their order; ``source`` is not part of it.

        Canonical bytes: a JSON header with the shape, then ids (little-endian int64), labels (little-endian
        int64 or float32), and for each text column the UTF-8 byte lengths (int64) followed by the bytes.
        Lengths come first, so moving a character from one text to the next cannot give the same bytes.
        """
        kind = "float32" if self.labels.dtype.kind == "f" else "int64"
        hasher = hashlib.sha256(json.dumps([len(self), len(self.texts), kind]).encode())
        hasher.update(self.ids.astype("<i8").tobytes())
        hasher.update(self.labels.astype("<f4" if kind == "float32" else "<i8").tobytes())
        for column in self.texts:
            encoded = [text.encode("utf-8") for text in column]
            hasher.update(np.fromiter(map(len, encoded), dtype="<i8", count=len(encoded)).tobytes())
            hasher.update(b"".join(encoded))
        return hasher.hexdigest()


@dataclass(frozen=True)
class TaskData:
    """A task under a protocol: what is trained on, selected on and reported on."""

    task: TaskConfig
    splits: dict[str, Examples]  # train, select, report, train_subset; report_mm for MNLI
    sizes: dict[str, int]  # examples of each of `splits`
    partial: dict[str, str]  # official split -> "67,349 expected, 2,000 found"; {} = complete
    sha256: str  # over the digests of all splits; part of the run id


def splits_digest(splits: dict[str, Examples]) -> str:
    """sha256 (hex) of the canonical JSON ``{split: digest}``."""
    digests = {name: examples.digest() for name, examples in splits.items()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
