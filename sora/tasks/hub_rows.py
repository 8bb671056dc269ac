"""Rows of SuperGLUE's tables on the hub, turned back into those of the official files.

The hub's copy numbers the classes, unfolds MultiRC into answers and ReCoRD into queries, and lifts WSC's spans out of
``target``. Rows that are put together again go through the layouts of the official files, so that both sources give
the same examples, and refuse the same mistakes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from sora.tasks.spec import TaskConfig

Values = dict[str, Any]


def official_rows(task: TaskConfig, rows: list[Values], names: list[str] | None, labelled: bool) -> Iterator[Values]:
    """Rows as the official file has them. ``names``: what the numbers of the hub's classes stand for, where it says."""
    for row in rows:
        number = row.pop("label", None)
        if labelled and number is not None:
            row["label"] = _official_label(task, number, names)
    yield from FOLDED.get(task.layout, iter)(rows)


def _official_label(task: TaskConfig, number: Any, names: list[str] | None) -> Any:
    """The label as the official file writes it; a number that stands for nothing is kept, and refused later."""
    words = [name.lower() for name in names or []]
    if set(words) != set(task.labels):  # COPA's choices, MultiRC's answers: the number is the label
        words = task.labels
    if not isinstance(number, int) or not 0 <= number < len(words):
        return number
    word = words[number]
    return json.loads(word) if word in ("true", "false") or word.isdecimal() else word


def _wsc(rows: list[Values]) -> Iterator[Values]:
    for row in rows:
        target = {key: row.pop(key) for key in list(row) if key.startswith("span")}
        yield row | {"target": target}


def _multirc(rows: list[Values]) -> Iterator[Values]:
    for number, inside in groupby(rows, key=lambda row: row["idx"]["paragraph"]):
        passage: Values = {"questions": []}
        for question, answers in groupby(inside, key=lambda row: row["idx"]["question"]):
            listed = list(answers)
            passage["text"] = listed[0]["paragraph"]
            folded = [
                {"text": each["answer"], "idx": each["idx"]["answer"]}
                | ({"label": each["label"]} if "label" in each else {})
                for each in listed
            ]
            asked = {"question": listed[0]["question"], "idx": question, "answers": folded}
            passage["questions"].append(asked)
        yield {"idx": number, "passage": passage}


def _record(rows: list[Values]) -> Iterator[Values]:
    for number, inside in groupby(rows, key=lambda row: row["idx"]["passage"]):
        queries = list(inside)
        text, spans = queries[0]["passage"], _listed(queries[0]["entity_spans"])
        entities = [{"start": each["start"], "end": each["start"] + len(each["text"]) - 1} for each in spans]
        places = {each["text"]: each["start"] for each in reversed(spans)}
        asked = []
        for query in queries:
            gold = []
            for answer in query["answers"] or []:
                start = places.get(answer, text.find(answer))
                gold.append({"start": start, "end": start + len(answer) - 1, "text": answer})
            known = {"answers": gold} if query["answers"] else {}
            asked.append({"query": query["query"], "idx": query["idx"]["query"]} | known)
        yield {"idx": number, "passage": {"text": text, "entities": entities}, "qas": asked}


def _listed(spans: Any) -> list[Values]:
    """A list of objects, which older versions of `datasets` stored as an object of lists."""
    if isinstance(spans, dict):
        return [dict(zip(spans, values, strict=True)) for values in zip(*spans.values(), strict=True)]
    return list(spans)


FOLDED: dict[str, Callable[[list[Values]], Iterator[Values]]] = {"wsc": _wsc, "multirc": _multirc, "record": _record}
COLUMNS = {  # that putting the rows together needs; the others are checked with the rows
    "multirc": ("paragraph", "question", "answer", "idx"),
    "record": ("passage", "query", "entity_spans", "answers", "idx"),
}
