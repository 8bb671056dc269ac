"""What the values of a label column mean: words become class indices, numbers become targets.

A value is matched by its word, whatever its type: the integer 1, the text "1" and the class that a `datasets` folder
names "1" are one label, and its index is its place among ``task.labels``. Nothing is guessed: what could mean two
things is refused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sora.errors import UserError
from sora.tasks.tables import Table, show

MANY = 150  # different words in a label column: more are no classes
WHOLE = 10  # different whole numbers, if they do not count from 0: more may be scores
GIVE = "give task.labels=[...] for classes, or task.score_range=[lowest,highest] for scores"


def word(value: Any) -> str:
    """How a label is written: true and false for a boolean, whatever its case; empty where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    text = (
        value if isinstance(value, str) else str(value) if isinstance(value, int | float | np.number) else show(value)
    )
    return text.lower() if text.lower() in ("true", "false") else text


def words_of(table: Table, name: str, labels: Sequence[str] = ()) -> list[str]:
    """The word of each row of a column; of a column of numbered classes, their names.

    Where ``labels`` are given and are other words than the names, but the numbers 0, 1, ... themselves, the number is
    the word: so the hub numbers classes that the official files number too. Raises UserError for other names.
    """
    values = table.frame[name].tolist()
    names = table.classes.get(name)
    if names is None:
        return [word(value) for value in values]
    if labels and {word(each).lower() for each in names} != {each.lower() for each in labels}:
        if sorted(labels) != sorted(str(number) for number in range(len(names))):
            raise UserError(
                f"{table.place}: its classes are {', '.join(names)}, those of the task {', '.join(labels)}; "
                "take the data set that the task names, or give task.labels"
            )
        names = [str(number) for number in range(len(names))]
    known = {each.lower(): each for each in labels}
    spelled = [known.get(word(each).lower(), word(each)) for each in names]
    return [spelled[v] if isinstance(v, int) and 0 <= v < len(spelled) else f"{word(v)}" for v in values]


def class_indices(table: Table, name: str, labels: Sequence[str], repair: str) -> NDArray[np.int64]:
    """Place of each row's label among ``labels``: int64 [N]. Raises UserError for a row whose label is none of them.

    A word that is no label still fits the only label of the same number: 1.0 is the 1 of a column with gaps.
    """
    place = {label: index for index, label in enumerate(labels)}
    by_number: dict[float, list[str]] = {}
    for label in labels:
        by_number.setdefault(_number(label), []).append(label)
    words = words_of(table, name, labels)
    for each in set(words) - set(place):
        same = by_number.get(_number(each), [])
        if len(same) == 1 and math.isfinite(_number(each)):
            place[each] = place[same[0]]
    for position, each in enumerate(words):
        if each not in place:
            value = table.frame[name].iloc[position]
            found = "no label, which must be" if value is None else f"label {show(value)} is not"
            raise table.refuse(position, f"{found} one of {', '.join(labels)}", repair)
    return np.array([place[each] for each in words], dtype=np.int64)


def targets(table: Table, name: str, low: float, high: float, repair: str) -> NDArray[np.float32]:
    """The column as real targets: float32 [N]. Raises UserError for what is not a number from ``low`` to ``high``."""
    values = table.frame[name].tolist()
    numbers = [math.nan if isinstance(value, bool) else _number(value) for value in values]
    for position, number in enumerate(numbers):
        if not (math.isfinite(number) and low <= number <= high):
            bounds = f" from {low:g} to {high:g}" if math.isfinite(high - low) else ""
            raise table.refuse(position, f"score {show(values[position])} is not a number{bounds}", repair)
    return np.array(numbers, dtype=np.float32)


def are_missing(table: Table, name: str) -> NDArray[np.bool_]:
    """Rows without a label: nothing there, or the -1 of numbered classes. [N]"""
    values, numbered = table.frame[name].tolist(), name in table.classes
    return np.array([not word(value).strip() or (numbered and value == -1) for value in values], dtype=bool)


def labels_found(table: Table, name: str) -> list[str]:
    """The labels of a training split, in order: false before true, numbers by size, words by the alphabet.

    An empty list where the values are real numbers: a regression.

    Raises:
        UserError: one class alone, values of several types, two spellings of one label, or
            numbers that may be classes or scores.
    """
    words = words_of(table, name)
    counts = Counter(words)
    _same_kind(table, name)
    numbers = {each: _number(each) for each in counts}
    say = f"{table.place}: column {name!r}"
    if all(map(math.isfinite, numbers.values())) and name not in table.classes:
        if any(not number.is_integer() for number in numbers.values()):
            return []
        if any(not each.lstrip("+-").isdecimal() for each in counts):
            raise UserError(f"{say} holds whole numbers such as {next(iter(counts))}: classes or scores? {GIVE}")
        if len(counts) > WHOLE and set(numbers.values()) != set(map(float, range(len(counts)))):
            raise UserError(f"{say} holds {len(counts)} different whole numbers: classes or scores? {GIVE}")
    spellings: dict[Any, str] = {}
    for each in sorted(counts):
        key = numbers[each] if math.isfinite(numbers[each]) else " ".join(each.lower().split())
        if key in spellings:
            raise UserError(f"{say} has the labels {spellings[key]!r} and {each!r}, which may be one; write it one way")
        spellings[key] = each
    if len(counts) > MANY or len(counts) > max(WHOLE, len(words) // 2):
        raise UserError(
            f"{say} has {len(counts)} different labels in {len(words)} rows; is it the label column? {GIVE}"
        )
    if len(counts) < 2:
        raise UserError(f"{say} has one label, {words[0]!r}, in every row; a classifier needs two" if words else say)
    return sorted(counts, key=lambda each: (numbers[each] if math.isfinite(numbers[each]) else math.inf, each))


def _same_kind(table: Table, name: str) -> None:
    kinds: dict[str, Any] = {}
    for value in table.frame[name].tolist():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        kinds.setdefault("number" if number else type(value).__name__, value)
    if len(kinds) > 1 or not kinds.keys() <= {"bool", "number", "str"}:
        shown = ", ".join(show(value) for value in kinds.values())
        raise UserError(
            f"{table.place}: column {name!r} holds values such as {shown}; labels are all texts, all numbers or all "
            "true and false"
        )


def _number(value: Any) -> float:
    """The number that a value is or spells; NaN where it is none."""
    try:
        plain = not isinstance(value, str) or (value.strip() == value and "_" not in value)
        return float(value) if plain else math.nan
    except (TypeError, ValueError):
        return math.nan
