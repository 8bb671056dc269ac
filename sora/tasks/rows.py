"""A row of a JSON-lines file, read key by key, and the examples that a layout makes of it.

``Row`` is strict both ways: a key that is missing or of another type is an error, and so is a key that nobody
asked for, unless the task lists it under ``ignored_keys``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from sora.errors import UserError
from sora.tasks.spec import TaskConfig
from sora.tasks.tsv import REPAIR

_NOUNS = {str: "text", int: "an integer", dict: "an object", list: "a list"}
Span = tuple[int, int, int]  # text column, first character, end


@dataclass(frozen=True)
class Example:
    """One example of a row, in plain values; the fields are those of ``Examples``."""

    texts: tuple[str, ...]
    label: int
    idx: tuple[int, ...]
    group: int | None = None
    credit: tuple[float, float] | None = None
    spans: tuple[Span, ...] | None = None
    answer: str | None = None


@dataclass
class Row:
    """One JSON object of a file, read key by key.

    ``labelled`` is False in a test file, where asking for a label gives -1. ``numbers`` remembers the official
    numbers of the whole file, so that none occurs twice.
    """

    values: dict[str, Any]
    place: str  # file:line
    task: TaskConfig
    split: str
    number: int  # 0-based row of the file
    numbers: dict[tuple[str, int], str]
    way: str = ""  # to an object inside the line, such as passage.questions[2]
    asked: set[str] = field(default_factory=set)

    @property
    def labelled(self) -> bool:
        return not self.split.startswith("test")

    def refuse(self, what: str) -> UserError:
        """The error of this row, to be raised."""
        return UserError(f"{self.place}: {f'{self.way}: ' if self.way else ''}{what}; {REPAIR}")

    def value(self, key: str, kind: type) -> Any:
        """The value at ``key``, of that type (true is no integer)."""
        found = self._given(key)
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            raise self.refuse(f"{key} is {show(found)}, {_NOUNS[kind]} expected")
        return found

    def text(self, key: str) -> str:
        """A text that is not empty."""
        found: str = self.value(key, str)
        if not found.strip():
            raise self.refuse(f"{key} is empty")
        return found

    def integer(self, key: str) -> int:
        found: int = self.value(key, int)
        return found

    def idx(self, kind: str = "row") -> int:
        """The official number under ``idx``; within a file no two of a kind are equal."""
        found = self.integer("idx")
        if not 0 <= found < 2**63:
            raise self.refuse(f"idx is {found}, a number from 0 to 2^63 - 1 expected")
        if (kind, found) in self.numbers:
            raise self.refuse(f"idx {found} of this {kind} was given before, at {self.numbers[kind, found]}")
        self.numbers[kind, found] = self.place
        return found

    def label(self) -> int:
        """Class index of the label; -1 in a test file, which has none."""
        if not self.labelled:
            return -1
        found = self._given("label")
        word = json.dumps(found) if isinstance(found, bool | int) else found
        if word not in self.task.labels:
            raise self.refuse(f"label {show(found)} is not one of {', '.join(self.task.labels)}")
        return self.task.labels.index(word)

    def inner(self, key: str) -> Row:
        """The object at ``key``."""
        return self._inside(self.value(key, dict), key)

    def each(self, key: str) -> list[Row]:
        """The objects of the list at ``key``."""
        rows = []
        for position, values in enumerate(self.value(key, list)):
            if not isinstance(values, dict):
                raise self.refuse(f"{key}[{position}] is {show(values)}, an object expected")
            rows.append(self._inside(values, f"{key}[{position}]"))
        return rows

    def done(self) -> None:
        """Refuse keys that nobody asked for."""
        extra = sorted(set(self.values) - self.asked - set(self.task.ignored_keys))
        if extra:
            raise self.refuse(f"unexpected {'keys' if len(extra) > 1 else 'key'} {', '.join(map(repr, extra))}")

    def _given(self, key: str) -> Any:
        self.asked.add(key)
        if key not in self.values:
            raise self.refuse(f"no key {key!r} (there are {', '.join(sorted(self.values)) or 'none'})")
        return self.values[key]

    def _inside(self, values: dict[str, Any], way: str) -> Row:
        way = f"{self.way}.{way}" if self.way else way
        return Row(values, self.place, self.task, self.split, self.number, self.numbers, way)


def show(value: Any) -> str:
    """A JSON value, shortened for a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
