"""What the values of a label column mean: words become class indices, numbers become targets.

A value is matched by its word, whatever its type: the integer 1, the text "1" and the class that a `datasets` folder
names "1" are one label, and its index is its place among ``task.labels``. Nothing is guessed: what could mean two
things is refused.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sora.coercion import show
from sora.errors import UserError
from sora.tasks.tables import Table

MANY = 1000  # different words in a label column: more are no classes; CLINC150 has 151
WHOLE = 10  # different whole numbers, if they do not count from 0: more may be scores
COMMA = re.compile(r"[+-]?\d+,\d+")  # a number with a decimal comma
SINGLE = float(np.finfo(np.float32).max)
YAML = ("yes", "on", "no", "off")  # words that a file in YAML means as true and false, unless they are quoted
GIVE = "give task.labels=[...] for classes, or task.score_range=[lowest,highest] for scores"


def word(value: Any) -> str:
    """How a label is written: true and false for a boolean, whatever its case; empty where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    text = str(value)
    return text.lower() if text.lower() in ("true", "false") else text


def words_of(table: Table, name: str, labels: Sequence[str] = ()) -> list[str]:
    """The word of each row of a column; of a column of numbered classes, their names, and none for a number of none.

    Where ``labels`` are given and are other words than the names, but the numbers 0, 1, ... themselves, the number is
    the word: so the hub numbers classes that the official files number too. Raises UserError for other names.
    """
    values = table.frame[name].tolist()
    names = table.classes.get(name)
    if names is None:
        return [word(value) for value in values]
    known = {each.lower(): each for each in labels}
    if labels and {word(each).lower() for each in names} != set(known):
        held = {word(names[v]).lower() for v in set(values) if isinstance(v, int) and 0 <= v < len(names)}
        if sorted(labels) == sorted(str(number) for number in range(len(names))):
            names = [str(number) for number in range(len(names))]
        elif not held <= set(known):
            raise UserError(
                f"{table.place}: its classes are {', '.join(names)}, those of the task {', '.join(labels)}; take the "
                "data set that the task names, or give all of them, as in "
                f"'task.labels=[{', '.join(dict.fromkeys((*labels, *names)))}]'"
            )
    spelled = [known.get(word(each).lower(), word(each)) for each in names]
    return [spelled[v] if isinstance(v, int) and 0 <= v < len(spelled) else "" for v in values]


def class_indices(table: Table, name: str, labels: Sequence[str]) -> NDArray[np.int64]:
    """Place of each row's label among ``labels``: int64 [N]. Raises UserError for a row whose label is none of them.

    A word that is no label still fits the only label of the same number: 1.0 is the 1 of a column with gaps.
    """
    words = words_of(table, name, labels)
    place = {label: index for index, label in enumerate(labels)}
    numbers = [_number(label) for label in labels]
    for each in set(words) - set(place):
        number = _number(each)
        if math.isfinite(number) and numbers.count(number) == 1:
            place[each] = numbers.index(number)
    for position, each in enumerate(words):
        if each not in place:
            found = f"label {show(each)} is not" if each.strip() else f"no label in column {name!r}, which must be"
            yaml = each.lower() in YAML and not {"true", "false"}.isdisjoint(labels)
            hint = " (YAML reads yes, no, on, off as true, false: write them as in ['no', 'yes'])" if yaml else ""
            raise table.refuse(position, f"{found} one of {', '.join(labels)}{hint}")
    return np.array([place[each] for each in words], dtype=np.int64)


def targets(table: Table, name: str, low: float, high: float) -> NDArray[np.float32]:
    """The column as real targets: float32 [N]. Raises UserError for what is not a number from ``low`` to ``high``."""
    values = table.frame[name].tolist()
    numbers = [math.nan if isinstance(value, bool) else _number(value) for value in values]
    for position, number in enumerate(numbers):
        if not low <= number <= high:
            bounds = f" from {low:g} to {high:g}" if math.isfinite(high - low) else ""
            raise table.refuse(position, f"score {show(values[position])} is not a number{bounds}")
        if abs(number) > SINGLE:
            raise table.refuse(position, f"score {show(values[position])} is too large for fp32")
    return np.array(numbers, dtype=np.float32)


def labels_found(table: Table, name: str) -> list[str]:
    """The labels of a training split, in order: false before true, numbers by size, words by the alphabet.

    An empty list where the values are real numbers: a regression.

    Raises:
        UserError: one class alone, values of several types, two spellings of one label, numbers among words, or
            numbers that may be classes or scores.
    """
    counts = Counter(each for each in words_of(table, name) if each.strip())
    counts.update({word(each): 0 for each in table.classes.get(name, ()) if each.strip()})  # those that no row has
    numbers = {each: _number(each) for each in counts}
    start = f"{table.place}: column {name!r}"
    kinds = {_kind(value): value for value in table.frame[name].tolist() if value is not None}
    if len(kinds) > 1 or not kinds.keys() <= {"bool", "number", "str"}:
        raise UserError(
            f"{start} holds values such as {', '.join(map(show, kinds.values()))}; labels are all texts, all numbers "
            "or all true and false"
        )
    if name not in table.classes:
        _check_alike(start, counts, numbers)
    if all(map(math.isfinite, numbers.values())) and name not in table.classes:
        if any(not number.is_integer() for number in numbers.values()):
            return []
        counting = len(counts) <= WHOLE or set(numbers.values()) == set(range(len(counts)))
        if not counting or any(not each.lstrip("+-").isdecimal() for each in counts):
            shown = ", ".join(list(counts)[:3])
            raise UserError(f"{start} holds {len(counts)} whole numbers such as {shown}: classes or scores? {GIVE}")
    spellings: dict[Any, str] = {}
    for each in sorted(counts):
        key = numbers[each] if math.isfinite(numbers[each]) else " ".join(each.lower().split())
        if spellings.setdefault(key, each) != each:
            raise UserError(
                f"{start} has the labels {spellings[key]!r} and {each!r}, which may be one; write it one way"
            )
    if name not in table.classes and (len(counts) > MANY or len(counts) > max(WHOLE, counts.total() // 2)):
        many = f"{len(counts)} different labels in {counts.total()} rows"
        raise UserError(f"{start} has {many}; is it the label column? {GIVE}")
    if len(counts) < 2:
        raise UserError(f"{start} has one label, {next(iter(counts), '')!r}, in every row; a classifier needs two")
    return sorted(counts, key=lambda each: (numbers[each] if math.isfinite(numbers[each]) else math.inf, each))


def _check_alike(start: str, counts: Counter[str], numbers: dict[str, float]) -> None:
    """Refuse what makes classes of scores or of nothing: decimal commas, a word among numbers, pandas' nan."""
    if lost := next((each for each in counts if each.lower() == "nan"), None):
        raise UserError(
            f"{start} holds {lost!r} in {counts[lost]} rows, as pandas writes a missing value; leave them out, or "
            f"{GIVE}"
        )
    numeric = [each for each in counts if math.isfinite(numbers[each]) or COMMA.fullmatch(each)]
    words = [each for each in counts if each not in numeric]
    if numeric and words:
        raise UserError(
            f"{start} holds numbers and words such as {show(numeric[0])}, {show(words[0])}; correct them, or {GIVE}"
        )
    if commas := [each for each in numeric if COMMA.fullmatch(each)]:
        raise UserError(f"{start} holds numbers with a comma such as {commas[0]!r}; write a point, or {GIVE}")


def _kind(value: Any) -> str:
    """The type of a label as JSON has it."""
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def _number(value: Any) -> float:
    """The number that a value is or spells; NaN where it is none."""
    try:
        plain = not isinstance(value, str) or (value.strip() == value and "_" not in value)
        return float(value) if plain else math.nan
    except (TypeError, ValueError):
        return math.nan
    except OverflowError:  # an integer of hundreds of digits
        return math.inf
