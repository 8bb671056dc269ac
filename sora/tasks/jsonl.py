"""Reads the JSON-lines files of the official SuperGLUE download: one object a line, one line a row.
What a row holds is turned into examples by one function per layout (sora/tasks/layouts.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sora.errors import UserError
from sora.tasks.examples import Examples
from sora.tasks.layouts import LAYOUTS
from sora.tasks.rows import Example, Row, show
from sora.tasks.spec import TaskConfig
from sora.tasks.tsv import REPAIR
from sora.untrusted import parse_json


def read_jsonl(path: Path, task: TaskConfig, split: str, source: str) -> Examples:
    """One official file as examples, in the order of the file.

    Raises UserError with ``file:line`` for anything that is not as the task's layout describes it.
    """
    return examples_of(((f"{path}:{line}", values) for line, values in _objects(path)), task, split, source)


def examples_of(rows: Iterable[tuple[str, dict[str, Any]]], task: TaskConfig, split: str, source: str) -> Examples:
    """The examples of the rows of a file, each given with its place, for messages. Raises UserError."""
    numbers: dict[tuple[str, int], str] = {}
    ids: list[int] = []
    examples: list[Example] = []
    for number, (place, values) in enumerate(rows):
        row = Row(values, place, task, split, number, numbers)
        found = LAYOUTS[task.layout](row)
        row.done()
        examples += found
        ids += [number] * len(found)
    return assemble(task, source, ids, examples)


def assemble(task: TaskConfig, source: str, ids: list[int], examples: list[Example]) -> Examples:
    """The columns of ``Examples`` from examples one by one; ``ids`` are their file rows."""
    if task.spans == "marks":
        examples = [_with_marks(each) for each in examples]
    first = examples[0] if examples else Example(("",), -1, (0,))
    spans = task.spans == "vectors" and first.spans is not None
    graded = all(each.credit is not None for each in examples)
    return Examples(
        source,
        np.asarray(ids, dtype=np.int64),
        tuple([each.texts[column] for each in examples] for column in range(len(first.texts))),
        np.asarray([each.label for each in examples], dtype=np.int64),
        groups=None if first.group is None else np.asarray([each.group for each in examples], dtype=np.int64),
        credit=np.asarray([each.credit for each in examples], dtype=np.float64) if examples and graded else None,
        spans=np.asarray([each.spans for each in examples], dtype=np.int64) if spans else None,
        idx=np.asarray([each.idx for each in examples], dtype=np.int64),
        answers=None if first.answer is None else [str(each.answer) for each in examples],
    )


MARKS = "*#"  # around the first and the second span, as T5 prepares WSC


def _with_marks(example: Example) -> Example:
    """The example with signs around its spans instead of their places."""
    texts = list(example.texts)
    signs = []
    for (column, start, end), sign in zip(example.spans or (), MARKS, strict=False):
        signs += [(column, start, 1, f"{sign} "), (column, end, 0, f" {sign}")]
    for column, place, _, sign in sorted(signs, reverse=True):  # from the end, so that places stay true
        texts[column] = texts[column][:place] + sign + texts[column][place:]
    return Example(tuple(texts), example.label, example.idx)


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(1-based line number, object) of each line; a blank line is fine at the end of the file, and only there."""
    blank = 0
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); check data.dir and the file's permissions"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise UserError(f"{path}:{blank}: blank line between rows; {REPAIR}")
        try:
            values = parse_json(line.decode("utf-8-sig" if number == 1 else "utf-8"), _unique)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}:{number}: not valid UTF-8; {REPAIR}") from error
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not JSON ({error.msg}, column {error.colno}); {REPAIR}") from error
        except KeyError as error:
            raise UserError(f"{path}:{number}: the key {error} occurs twice; {REPAIR}") from error
        except ValueError as error:
            raise UserError(f"{path}:{number}: not JSON ({error}); {REPAIR}") from error
        if not isinstance(values, dict):
            raise UserError(f"{path}:{number}: {show(values)}, an object expected; {REPAIR}")
        yield number, values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ; the standard reader would keep the last and drop the rest."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise KeyError(key)
        values[key] = value
    return values
