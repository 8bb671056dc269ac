"""Protocols: which examples are trained on, selected on and reported on.

``paper``    the authors' split (src/processor.py of TsinghuaC3I/SoRA): a permutation of seed 42 halves the
             validation set, first half = select, rest = report; for SST-2, QNLI and QQP the first 1,000
             permuted training examples are select, the rest train, and the full validation set is report.
             The permuted order is kept, as there. MNLI's mismatched validation set is halved in the same
             way; its first half goes unused here, because the checkpoint is chosen on the matched half (the
             authors trained anew for the mismatched column).
``dev``      select = report = the full validation set: what many papers do, optimistic.
``holdout``  select = min(1,000, 10 %) of the training set, stratified; report = the full validation set.

SuperGLUE follows the same lists of src/processor.py: ReCoRD holds out training data, every other task halves its
validation set. A row of a file is what goes to one side or the other: the authors would deal out the single
answers to a question of MultiRC, or a passage's questions, of which exact match could then not be computed.

``train_subset`` (memorisation in the paper's Figure 2) is what the authors'
`train.shuffle(seed=42).select(range(1000))` gives: the `datasets` library permutes with numpy's default
generator.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sora.config import TaskConfig
from sora.errors import UserError
from sora.tasks.examples import Examples

SEED = 42  # of every split, whatever the run's seed
HELDOUT = 1000  # training examples set apart for selection
SUBSET = 1000  # training examples on which memorisation is measured
BINS = 10  # strata of a regression target

Indices = NDArray[np.int64]


def torch_randperm(n: int, seed: int) -> Indices:
    """``torch.randperm(n, generator=torch.Generator().manual_seed(seed))`` on a CPU, without torch; [n].

    A forward Fisher-Yates shuffle in which step i swaps place i with place i + (u mod (n - i)), where u is
    the next 32-bit output of mt19937 (64 bits from n = 2^32 / 20 on, which no task has). numpy's legacy RandomState
    seeds mt19937 with the same recurrence.
    """
    order = list(range(n))
    if n > 1:
        raw = np.random.RandomState(seed).randint(0, 2**32, size=n - 1, dtype=np.uint32).astype(np.int64)
        steps = np.arange(n - 1)
        for i, j in enumerate((steps + raw % (n - steps)).tolist()):
            order[i], order[j] = order[j], order[i]
    return np.asarray(order, dtype=np.int64)


def make_splits(task: TaskConfig, protocol: str, official: dict[str, Examples]) -> dict[str, Examples]:
    """train, select, report, train_subset (and report_mm) from the official splits that were read.

    Only ``dev`` may have an example in two of train, select and report, the last two; checked by assertion. Raises
    UserError for data too small to split.
    """
    train, validation = official["train"], official.get("validation")
    mismatched, test = official.get("validation_mm"), official.get("test")
    reported = test if test is not None and _is_labelled(test) else validation
    if reported is None or (validation is None and protocol in ("paper", "dev")):
        raise UserError(
            f"protocol={protocol}: task {task.name} has no validation split to select on; give one, or a labelled test "
            "split with protocol=holdout, which selects on part of the training split"
        )
    splits: dict[str, Examples] = {}
    if protocol == "paper" and validation is not None:
        if reported is not validation:
            splits = {"train": train, "select": validation, "report": reported}
        elif task.paper_split == "halve":
            first, rest = _halve(validation, "paper")
            splits = {"train": train, "select": first, "report": rest}
        else:
            heldout, found = HELDOUT, count_rows(train)
            if found <= HELDOUT and found < task.sizes.get("train", 0):  # partial data, allowed by data.allow_partial
                heldout = max(1, found // 10)
            _need(train, heldout + 1, "protocol=paper")
            order = torch_randperm(found, SEED)
            select, rest = take_rows(train, order[:heldout]), take_rows(train, order[heldout:])
            splits = {"train": rest, "select": select, "report": validation}
        if mismatched is not None:
            splits["report_mm"] = _halve(mismatched, "paper")[1]
    elif protocol == "dev" and validation is not None:
        splits = {"train": train, "select": validation, "report": validation}
    else:  # holdout
        _need(train, 2, "protocol=holdout")
        found = count_rows(train)
        strata = train.labels if found == len(train) else np.zeros(found, dtype=np.int64)  # a row of many labels: none
        chosen = stratified(strata, max(1, min(HELDOUT, found // 10)))
        kept = np.setdiff1d(np.arange(found), chosen)
        splits = {"train": take_rows(train, kept), "select": take_rows(train, chosen), "report": reported}
    if mismatched is not None:
        splits.setdefault("report_mm", mismatched)
    names = ("train", "select") if protocol == "dev" else ("train", "select", "report")
    rows = [{(splits[name].source, row) for row in splits[name].ids.tolist()} for name in names]
    assert len(set().union(*rows)) == sum(map(len, rows)), f"task {task.name}: an example is in two splits"
    splits["train_subset"] = _subset_of(splits["train"])
    return splits


def limited(splits: dict[str, Examples], limit: int) -> tuple[dict[str, Examples], dict[str, str]]:
    """The first ``limit`` examples of each split, and for each that is cut a sentence about it."""
    cut = {
        name: f"data.limit={limit} takes the first of {len(examples):,} examples"
        for name, examples in splits.items()
        if name != "train_subset" and len(examples) > limit
    }
    taken = {name: first(examples, limit) for name, examples in splits.items()}
    return taken | {"train_subset": _subset_of(taken["train"])}, cut


def first(examples: Examples, limit: int | None) -> Examples:
    """The first ``limit`` examples; None = all."""
    return examples if limit is None else examples.take(range(min(limit, len(examples))))


def _is_labelled(examples: Examples) -> bool:
    labels = examples.labels
    return not bool(np.isnan(labels).all() if labels.dtype.kind == "f" else (labels < 0).all())


def train_slice(train: Examples, rows: int) -> Examples:
    """``rows`` rows of the training file in the file's order, the same ones for every protocol and seed; 0 = all.

    They are the first ``rows`` of the permutation with seed 42. Raises UserError where the file has no more than that.
    """
    if not rows:
        return train
    _need(train, rows + 1, f"task.train_rows={rows}", "task.train_rows=0")
    return take_rows(train, np.sort(torch_randperm(count_rows(train), SEED)[:rows]))


def count_rows(examples: Examples) -> int:
    """Rows of the official file among ``examples``; a row may hold several of them."""
    return len(np.unique(examples.ids))


def take_rows(examples: Examples, rows: Indices) -> Examples:
    """The examples of the file rows at ``rows``, counted in order of their first example; a row stays together."""
    row = _row_of_each(examples)
    ends = np.cumsum(np.bincount(row))
    if len(ends) == len(examples):
        return examples.take(rows)
    order = np.argsort(row, kind="stable")
    parts = np.split(order, ends[:-1])
    return examples.take(np.concatenate([parts[each] for each in rows]))


def _row_of_each(examples: Examples) -> Indices:
    """For each example the place of its file row among the rows, in order of their first example: int64 [N]."""
    _, first, row = np.unique(examples.ids, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[row]


def _subset_of(train: Examples) -> Examples:
    """The examples on which memorisation is measured: SUBSET of them, in whole rows (at least one)."""
    found = count_rows(train)
    if found == len(train):
        return train.take(subset(found))
    rows = np.random.default_rng(SEED).permutation(found)
    examples = np.cumsum(np.bincount(_row_of_each(train))[rows])
    return take_rows(train, rows[: max(1, int(np.searchsorted(examples, SUBSET, side="right")))])


def subset(n: int) -> Indices:
    """Positions of the fixed training examples on which memorisation is measured: int64 [min(n, 1,000)]."""
    return np.random.default_rng(SEED).permutation(n)[:SUBSET]


def stratified(labels: NDArray[np.generic], size: int) -> Indices:
    """``size`` ascending positions whose labels are distributed as those of all: int64 [size].

    Strata are the classes, or ten bins of equal count for a real target. Each stratum gives its share rounded
    down; the remainder goes to the largest fractions (ties to the first stratum).
    """
    n = len(labels)
    if labels.dtype.kind == "f":
        rank = np.empty(n, dtype=np.int64)
        rank[np.argsort(labels, kind="stable")] = np.arange(n)
        strata = rank * BINS // n
    else:
        strata = labels.astype(np.int64)
    values, counts = np.unique(strata, return_counts=True)
    quota = counts * size // n
    fractions = counts * size % n
    quota[np.argsort(-fractions, kind="stable")[: size - int(quota.sum())]] += 1
    order = torch_randperm(n, SEED)
    chosen = [order[strata[order] == value][:count] for value, count in zip(values, quota, strict=True)]
    return np.sort(np.concatenate(chosen))


def _halve(examples: Examples, protocol: str) -> tuple[Examples, Examples]:
    _need(examples, 2, f"protocol={protocol}")
    found = count_rows(examples)
    order = torch_randperm(found, SEED)
    return take_rows(examples, order[: found // 2]), take_rows(examples, order[found // 2 :])


def _need(examples: Examples, least: int, key: str, instead: str = "protocol=dev") -> None:
    found = count_rows(examples)
    if found < least:
        raise UserError(
            f"{examples.source} has {found:,} examples, and {key} needs at least "
            f"{least:,}; use the complete data or {instead}"
        )
