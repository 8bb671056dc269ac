r"""Reads the tab-separated files of the official GLUE download.

The format has no quoting at all: a `"` is text, and a reader with CSV rules merges thousands of rows. Columns
are found by header name, since MNLI's train and validation files differ in their number of columns; CoLA's
train and validation files have no header and are read by position. A byte-order mark (MRPC) and Windows line
ends are dropped. Texts are kept as they are otherwise, trailing spaces included: that is what published
models were trained on.

Where an official file has broken rows (QQP), the rule of the `glue` loading script of the `datasets` library
is followed, because the official counts are those of that script: a row with too few columns is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np

from sora.errors import UserError
from sora.tasks.examples import Examples
from sora.tasks.spec import TaskConfig

REPAIR = "repair that line or download the official file again"


def read_tsv(path: Path, task: TaskConfig, split: str, source: str) -> Examples:
    """One official file as examples, in the order of the file.

    ``split`` is one of train, validation, validation_mm, test, test_mm; the two last are read without labels.
    Raises UserError with ``file:line`` for a malformed row, an unknown label, an empty text or a score that
    is not a number inside ``task.score_range``.
    """
    labelled = not split.startswith("test")
    columns = {**task.columns, **(task.test_columns if not labelled else {})}
    names = [columns[key] for key in task.text_columns] + ([columns["label"]] if labelled else [])
    rows = _rows(path)
    if split in task.headerless:
        head = list(islice(rows, 1))
        row = head[0][1] if head else []
        positions, width, skipped_lines = _by_position(names, row, path), len(row), 1
        rows = chain(head, rows)
    else:
        _, header = next(rows, (1, []))
        positions, width, skipped_lines = _by_name(names, header, path), len(header), 2

    class_of = {label: index for index, label in enumerate(task.labels)}
    texts: tuple[list[str], ...] = tuple([] for _ in task.text_columns)
    ids: list[int] = []
    labels: list[float] = []
    blank = 0  # number of the first blank line since the last row
    for number, row in rows:
        if len(row) != width or blank:
            if len(row) < width and task.short_rows == "skip":
                continue
            if row == [""]:
                blank = blank or number  # fine at the end of the file, and only there
                continue
            if blank:
                raise UserError(f"{path}:{blank}: blank line between rows; {REPAIR}")
            raise UserError(f"{path}:{number}: {len(row)} columns where {width} are expected; {REPAIR}")
        for column, position in zip(texts, positions, strict=False):
            text = row[position]
            if not text.strip() and task.empty_text == "refuse":
                raise UserError(f"{path}:{number}: empty text in column {position + 1}; {REPAIR}")
            column.append(text)
        if labelled:
            value = row[positions[-1]]
            if task.regression:
                labels.append(_score(value, task, path, number))
            elif value in class_of:
                labels.append(class_of[value])
            else:
                known = ", ".join(task.labels)
                raise UserError(f"{path}:{number}: label {value!r} is not one of {known}; {REPAIR}")
        ids.append(number - skipped_lines)

    dtype = np.float32 if task.regression else np.int64
    if labelled:
        targets = np.asarray(labels, dtype=dtype)
    else:
        targets = np.full(len(ids), np.nan if task.regression else -1, dtype=dtype)
    return Examples(source, np.asarray(ids, dtype=np.int64), texts, targets)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(1-based line number, columns) of each line; utf-8-sig drops a byte-order mark if there is one."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                yield number, line.rstrip("\n").split("\t")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{_undecodable_line(path)}: not valid UTF-8; {REPAIR}") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); check data.dir and the file's permissions"
        ) from error


def _undecodable_line(path: Path) -> int:
    """The first line that is not UTF-8 (the decoder works on blocks, and does not say)."""
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            return number
    return 1


def _by_name(names: list[str], header: list[str], path: Path) -> list[int]:
    """Positions of the named columns in the header line."""
    missing = [name for name in names if name not in header]
    if missing:
        raise UserError(
            f"{path}:1: no column {', '.join(map(repr, missing))} in the header, which has "
            f"{', '.join(map(repr, header)) or 'nothing'}; take the file of the official GLUE download"
        )
    return [header.index(name) for name in names]


def _by_position(names: list[str], first: list[str], path: Path) -> list[int]:
    """Positions given as decimal numbers, checked against the first row."""
    if not all(name.isdecimal() for name in names):
        raise UserError(f"{path} has no header, so task.columns must hold column numbers, not {names}")
    positions = [int(name) for name in names]
    if first and max(positions) >= len(first):
        raise UserError(
            f"{path}:1: {len(first)} columns where at least {max(positions) + 1} are expected; "
            "take the file of the official GLUE download"
        )
    return positions


def _score(value: str, task: TaskConfig, path: Path, number: int) -> float:
    """A regression target, finite and inside ``task.score_range``."""
    low, high = task.score_range or (-math.inf, math.inf)
    try:
        score = float(value)
    except ValueError:
        score = math.nan
    if not (math.isfinite(score) and low <= score <= high):
        raise UserError(f"{path}:{number}: score {value!r} is not a number from {low:g} to {high:g}; {REPAIR}")
    return score
