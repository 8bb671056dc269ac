"""From a table to examples: one or two texts and a label, or one of SuperGLUE's formats.

Each format is a small function over flat rows, those of SuperGLUE's data set on the hub. Two official files are nested;
``UNFOLD`` makes flat rows of theirs. The readings that the field does not share are named in the task's YAML.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from sora.coercion import show
from sora.config import TaskConfig
from sora.tasks.examples import Examples
from sora.tasks.labels import class_indices, targets
from sora.tasks.tables import Table, Unfold, unlike

PLACEHOLDER = "@placeholder"
COPA_QUESTIONS = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}  # as in jiant
LEVELS = ("paragraph", "passage", "question", "query", "answer")  # of nested official numbers, from the outside in
MARKS = "*#"  # around the first and the second span, as T5 prepares WSC
Row = dict[str, Any]
Span = tuple[int, int, int]  # text column, first character, end


# -- texts and a label -----------------------------------------------------------------------------------------


def flat(table: Table, task: TaskConfig, columns: dict[str, str], source: str, labelled: bool) -> Examples:
    """One example a row: its texts and, with ``labelled``, its label; -1 or NaN otherwise.

    ``columns``: text_a, text_b, label, and where there are any id (row of the official file), group, idx -> name there.
    Raises UserError with the place of a row whose text is empty or no text, or whose label is none of the task's.
    """
    table.need([name for key, name in columns.items() if labelled or key != "label"])
    keep = task.empty_text == "keep"
    texts = tuple(_values(table, columns[key], str, keep) for key in task.text_columns)
    if not labelled:
        labels: Any = np.full(len(table.frame), *((math.nan, np.float32) if task.regression else (-1, np.int64)))
    elif task.regression:
        low, high = task.score_range or (-math.inf, math.inf)
        labels = targets(table, columns["label"], low, high)
    else:
        labels = class_indices(table, columns["label"], task.labels)
    numbers = {
        key: np.array(_values(table, columns[key], int), dtype=np.int64)
        for key in ("id", "group", "idx")
        if key in columns
    }
    if "idx" in numbers:
        _check_unique(table, [(number,) for number in numbers["idx"].tolist()])
    return Examples(
        source,
        numbers.get("id", np.asarray(table.frame.index, dtype=np.int64)),
        texts,
        labels,
        groups=numbers.get("group"),
        idx=numbers["idx"][:, None] if "idx" in numbers else None,
    )


_NOUNS = {str: "text", int: "an integer", dict: "an object", list: "a list"}


def _values(table: Table, name: str, kind: type[Any], may_be_empty: bool = False) -> list[Any]:
    """A column, checked."""
    _check_values(table, name, kind, may_be_empty, " (task.empty_text=keep takes such rows)")
    values: list[Any] = table.frame[name].tolist()
    return values


def _check_values(table: Table, name: str, kind: type[Any], may_be_empty: bool, instead: str = "") -> None:
    """Raise UserError for a value that is missing or of another type, or an empty text, where ``instead`` is a way."""
    for position, value in enumerate(table.frame[name].tolist()):
        if type(value) is not kind or (kind is int and not -(2**63) <= value < 2**63):
            found = "missing" if value is None else show(value)
            raise table.refuse(position, f"{name} is {found}, {_NOUNS[kind]} expected")
        if kind is str and not may_be_empty and not value.strip():
            raise table.refuse(position, f"{name} is empty{instead}")


def _check_unique(table: Table, numbers: Sequence[tuple[int, ...]]) -> None:
    """Refuse a number that two rows, questions or answers share; ``numbers``: of each row, the outermost first."""
    owners: dict[tuple[int, int], Any] = {}
    for position, path in enumerate(numbers):
        for level, number in enumerate(path):
            if type(number) is not int or not 0 <= number < 2**63:
                raise table.refuse(position, f"idx is {show(number)}, a number from 0 to 2^63 - 1 expected")
            owner = path[:level] if level < len(path) - 1 else position
            if owners.setdefault((level, number), owner) != owner:
                raise table.refuse(position, f"idx {number} was given before")


# -- SuperGLUE -------------------------------------------------------------------------------------------------


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


def copa(row: Row, label: int) -> list[Example]:
    """A premise with its question, and two choices."""
    if row["question"] not in COPA_QUESTIONS:
        raise ValueError(f"question is {row['question']!r}, cause or effect expected")
    premise = f"{row['premise']} {COPA_QUESTIONS[row['question']]}"
    return [Example((premise, row["choice1"], row["choice2"]), label, (row["idx"],))]


def multirc(row: Row, label: int) -> list[Example]:
    """An answer to a question on a passage; examples are grouped by question."""
    idx = tuple(row["idx"][key] for key in ("paragraph", "question", "answer"))
    pair = (row["paragraph"], f"{row['question']} {row['answer']}")
    return [Example(pair, label, idx, idx[1])]


def record(row: Row, label: int) -> list[Example]:
    """A query with a gap on a passage with marked entities: one example an entity text.

    ``credit`` is that of filling the gap with the entity, the best over the gold answers.
    """
    idx = (row["idx"]["passage"], row["idx"]["query"])
    if PLACEHOLDER not in row["query"]:
        raise ValueError(f"query has no {PLACEHOLDER}")
    entities = list(dict.fromkeys(span["text"] for span in _listed(row["entity_spans"])))
    if not entities:
        raise ValueError("no entity is marked, so the query cannot be answered")
    gold, examples = row["answers"], []
    for entity in entities:
        pair = (row["passage"], row["query"].replace(PLACEHOLDER, entity))
        right, credit = (-1, None) if gold is None else (int(entity in gold), best_credit(entity, gold))
        examples.append(Example(pair, right, idx, idx[1], credit, answer=entity))
    return examples


def wic(row: Row, label: int) -> list[Example]:
    """A word in two sentences; characters ``start`` to ``end`` (excluded) of each."""
    spans: list[Span] = []
    for column in (0, 1):
        name = f"sentence{column + 1}"
        text, start, end = row[name], row[f"start{column + 1}"], row[f"end{column + 1}"]
        marked = text[start:end]
        if not 0 <= start < end <= len(text) or marked != marked.strip() or _cuts_a_word(text, start, end):
            raise ValueError(f"characters {start} to {end} of {name} are {marked!r}, a whole word expected")
        spans.append((column, start, end))
    return [Example((row["sentence1"], row["sentence2"]), label, (row["idx"],), spans=tuple(spans))]


def wsc(row: Row, label: int) -> list[Example]:
    """A text and in it a noun phrase and a pronoun, given by their words and the number of the first."""
    text, spans = row["text"], []
    for which in ("span1", "span2"):
        words, index = row[f"{which}_text"], row[f"{which}_index"]
        span = _words_at(text, words, index) or (_nearest(text, words, index) if row["mismatched"] else None)
        if span is None:
            raise ValueError(f"{which}_text is {words!r}, which is not the text from word {index} on")
        spans.append((0, *span))
    return [Example((text,), label, (row["idx"],), spans=tuple(spans))]


@dataclass(frozen=True)
class Format:
    """What a flat row of a layout holds other than ``label``, and the function that makes examples of it."""

    examples: Callable[[Row, int], list[Example]]
    columns: Mapping[str, type | None]  # None: of several types
    empty: tuple[str, ...] = ()  # texts that may be empty


WIC = {"sentence1": str, "sentence2": str, "start1": int, "end1": int, "start2": int, "end2": int, "idx": int}
WSC = {"text": str, "span1_text": str, "span1_index": int, "span2_text": str, "span2_index": int, "idx": int}
FORMATS = {
    "copa": Format(copa, {"premise": str, "question": str, "choice1": str, "choice2": str, "idx": int}),
    # four official answers are empty
    "multirc": Format(multirc, {"paragraph": str, "question": str, "answer": str, "idx": dict}, ("answer",)),
    "record": Format(record, {"passage": str, "query": str, "entity_spans": None, "answers": list, "idx": dict}),
    "wic": Format(wic, WIC),
    "wsc": Format(wsc, WSC),
}


def examples_of(table: Table, task: TaskConfig, columns: dict[str, str], split: str, source: str) -> Examples:
    """The examples of an official split. Raises UserError with the place of a row that is not as described.

    ``ids`` count the rows of the official file, of which a passage is one.
    """
    labelled = not split.startswith("test")
    if task.layout == "flat":
        return flat(table, task, columns, source, labelled)
    form = FORMATS[task.layout]
    label = ["label"] if labelled and task.layout != "record" else []  # whose right entities are its answers
    kinds = {name: kind for name, kind in form.columns.items() if labelled or name != "answers"}
    table.need([*kinds, *label])
    for name, kind in kinds.items():
        if kind is not None:
            _check_values(table, name, kind, name in form.empty)
    rows: list[Row] = table.frame.to_dict("records")
    numbers = [_numbers(row) for row in rows]
    _check_unique(table, numbers)
    labels = class_indices(table, "label", task.labels).tolist() if label else [-1] * len(rows)
    file_rows = [0, *accumulate(int(one[:1] != other[:1]) for one, other in pairwise(numbers))]
    ids: list[int] = []
    examples: list[Example] = []
    for position, row in enumerate(rows):
        number = file_rows[position]
        row["mismatched"] = number in task.mismatched.get(split, [])
        if not labelled:
            row["answers"] = None
        try:
            made = form.examples(row, labels[position])
        except (ValueError, KeyError, TypeError) as error:
            raise table.refuse(position, unlike(error)) from error
        examples += made
        ids += [number] * len(made)
    return _assemble(task, source, ids, examples)


def _numbers(row: Row) -> tuple[int, ...]:
    """The official numbers of a row, from the outside in."""
    idx = row["idx"]
    return tuple(idx[name] for name in LEVELS if name in idx) if isinstance(idx, dict) else (idx,)


def _assemble(task: TaskConfig, source: str, ids: list[int], examples: list[Example]) -> Examples:
    """The columns of ``Examples`` from examples one by one; ``ids`` are their file rows."""
    if task.spans == "marks":
        examples = [_with_marks(each) for each in examples]

    def array(name: str, kind: type[Any]) -> Any:
        """A column, or None where the examples have no such value."""
        values = [getattr(each, name) for each in examples]
        return None if not values or values[0] is None else np.asarray(values, dtype=kind)

    answers = [each.answer for each in examples if each.answer is not None]
    return Examples(
        source,
        np.asarray(ids, dtype=np.int64),
        tuple(map(list, zip(*(each.texts for each in examples), strict=True))),
        np.asarray([each.label for each in examples], dtype=np.int64),
        groups=array("group", np.int64),
        credit=array("credit", np.float64),
        spans=array("spans", np.int64) if task.spans == "vectors" else None,
        idx=array("idx", np.int64),
        answers=answers or None,
    )


def _with_marks(example: Example) -> Example:
    """The example with signs around its spans instead of their places."""
    texts = list(example.texts)
    signs = []
    for (column, start, end), sign in zip(example.spans or (), MARKS, strict=False):
        signs += [(column, start, 1, f"{sign} "), (column, end, 0, f" {sign}")]
    for column, place, _, sign in sorted(signs, reverse=True):  # from the end, so that places stay true
        texts[column] = texts[column][:place] + sign + texts[column][place:]
    return replace(example, texts=tuple(texts), spans=None)


# -- nested official files -------------------------------------------------------------------------------------


def _unfold_multirc(row: Row) -> Iterator[Row]:
    passage = row["passage"]
    for asked in passage["questions"]:
        for answer in asked["answers"]:
            numbers = {"paragraph": row["idx"], "question": asked["idx"], "answer": answer["idx"]}
            texts = {"paragraph": passage["text"], "question": asked["question"], "answer": answer["text"]}
            yield texts | {"idx": numbers} | {key: answer[key] for key in ("label",) if key in answer}


def _unfold_record(row: Row) -> Iterator[Row]:
    text = row["passage"]["text"]
    spans = [_span(each, text) for each in row["passage"]["entities"]]
    for asked in row["qas"]:
        numbers = {"passage": row["idx"], "query": asked["idx"]}
        answers = [_span(each, text)["text"] for each in asked["answers"]] if "answers" in asked else None
        yield {"passage": text, "query": asked["query"], "entity_spans": spans, "answers": answers, "idx": numbers}


def _unfold_wsc(row: Row) -> Iterator[Row]:
    yield row | row["target"]


UNFOLD: dict[str, Unfold] = {"multirc": _unfold_multirc, "record": _unfold_record, "wsc": _unfold_wsc}


def _listed(spans: Any) -> list[Row]:
    """A list of objects, which older versions of `datasets` stored as an object of lists."""
    if isinstance(spans, dict):
        return [dict(zip(spans, values, strict=True)) for values in zip(*spans.values(), strict=True)]
    return list(spans)


# -- spans ---------------------------------------------------------------------------------------------------


def _span(given: Row, text: str) -> Row:
    """A span of ReCoRD: characters ``start`` to ``end``, both included, of ``text``, which an answer repeats."""
    start, end = given["start"], given["end"]
    found = text[start : end + 1]
    if not 0 <= start <= end < len(text) or given.get("text", found) != found:
        raise ValueError(f"characters {start} to {end} of the passage are {found!r}, {given.get('text')!r} expected")
    return {"text": found, "start": start, "end": end + 1}


def _cuts_a_word(text: str, start: int, end: int) -> bool:
    """Return whether letters go on outside the span; the n't of a contraction may."""
    left = text[start - 1 : start].isalnum() and text[start].isalnum()
    right = text[end : end + 1].isalnum() and text[end - 1].isalnum() and not text.startswith("n't", end)
    return left or right


def _words_at(text: str, words: str, index: int) -> tuple[int, int] | None:
    """Characters of ``words`` in ``text`` if they start at its word ``index``.

    The official files differ from their texts in case, in line breaks, and in punctuation around the words.
    """
    places = [match.start() for match in re.finditer(r"\S+", text)]
    if not 0 <= index < len(places):
        return None
    bare = words.strip(string.punctuation + string.whitespace) or words.strip()
    pattern = r"\W*?(" + r"\s+".join(map(re.escape, bare.split())) + r")(?!\w)"
    match = re.compile(pattern, re.IGNORECASE).match(text, places[index])
    return (match.start(1), match.end(1)) if match else None


def _nearest(text: str, words: str, index: int) -> tuple[int, int] | None:
    """For a row known to be wrong: the occurrence nearest to word ``index``, else as many words from there on."""
    places = [(match.start(), match.end()) for match in re.finditer(r"\S+", text)]
    near = sorted(range(len(places)), key=lambda place: abs(place - index))
    found = next((span for place in near if (span := _words_at(text, words, place))), None)
    last = index + len(words.split()) - 1
    if found or not 0 <= index <= last < len(places):
        return found
    return places[index][0], places[last][1]


# -- ReCoRD's credit -----------------------------------------------------------------------------------------

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """As the official evaluation of ReCoRD (that of SQuAD 1.1): lower case, no punctuation, articles, double spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(prediction: str, gold: str) -> float:
    """F1 of the words both have in common, counted as often as they occur; 0 where there are none."""
    predicted, wanted = normalised(prediction).split(), normalised(gold).split()
    common = sum((Counter(predicted) & Counter(wanted)).values())
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def best_credit(prediction: str, gold: list[str]) -> tuple[float, float]:
    """Token F1 and exact match of ``prediction``, each the highest over the ``gold`` aliases; 0 without any."""
    matches = (float(normalised(prediction) == normalised(each)) for each in gold)
    return max((token_f1(prediction, each) for each in gold), default=0.0), max(matches, default=0.0)
