"""What a line of each SuperGLUE file holds: one small function a layout, from a row to its examples.

A task whose rows are one or two texts and a label needs no function: ``flat`` reads the keys under ``columns``.
The readings that the field does not share are named in the task's YAML.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable

from sora.tasks.rows import Example, Row, Span

PLACEHOLDER = "@placeholder"
COPA_QUESTIONS = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}  # as in jiant


def flat(row: Row) -> list[Example]:
    """One or two texts and a label; ``columns.group`` names the key of what belongs together (AX-g's pairs)."""
    columns = row.task.columns
    texts = tuple(row.text(columns[key]) for key in row.task.text_columns)
    group = row.integer(columns["group"]) if "group" in columns else None
    return [Example(texts, row.label(), (row.idx(),), group)]


def copa(row: Row) -> list[Example]:
    """A premise with its question, and two choices."""
    question = row.text("question")
    if question not in COPA_QUESTIONS:
        raise row.refuse(f"question is {question!r}, cause or effect expected")
    premise = f"{row.text('premise')} {COPA_QUESTIONS[question]}"
    return [Example((premise, row.text("choice1"), row.text("choice2")), row.label(), (row.idx(),))]


def multirc(row: Row) -> list[Example]:
    """A passage, questions on it, answers to each: one example an answer, grouped by question."""
    number, passage = row.idx(), row.inner("passage")
    text, examples = passage.text("text"), []
    for question in passage.each("questions"):
        asked, group = question.text("question"), question.idx("question")
        answers = question.each("answers")
        if not answers:
            raise question.refuse("no answers")
        for answer in answers:
            pair = (text, f"{asked} {answer.value('text', str)}")  # four official answers are empty
            examples.append(Example(pair, answer.label(), (number, group, answer.idx("answer")), group))
            answer.done()
        question.done()
    passage.done()
    if not examples:
        raise row.refuse("no questions")
    return examples


def record(row: Row) -> list[Example]:
    """A passage with marked entities and queries with a gap: one example a query and entity text.

    ``credit`` is that of filling the gap with the entity, the best over the gold answers.
    """
    number, passage = row.idx(), row.inner("passage")
    text = passage.text("text")
    entities = list(dict.fromkeys(_entity(entity, text) for entity in passage.each("entities")))
    passage.done()
    if not entities:
        raise row.refuse("passage.entities is empty, so no query can be answered")
    examples = []
    for query in row.each("qas"):
        gap, group = query.text("query"), query.idx("query")
        if PLACEHOLDER not in gap:
            raise query.refuse(f"query has no {PLACEHOLDER}")
        gold = [_entity(answer, text, named=True) for answer in query.each("answers")] if query.labelled else None
        query.done()
        for entity in entities:
            label = -1 if gold is None else int(entity in gold)
            credit = None if gold is None else best_credit(entity, gold)
            pair = (text, gap.replace(PLACEHOLDER, entity))
            examples.append(Example(pair, label, (number, group), group, credit, answer=entity))
    if not examples:
        raise row.refuse("no queries")
    return examples


def wic(row: Row) -> list[Example]:
    """A word in two sentences; characters ``start`` to ``end`` (excluded) of each."""
    texts = (row.text("sentence1"), row.text("sentence2"))
    spans: list[Span] = []
    for column, text in enumerate(texts):
        start, end = row.integer(f"start{column + 1}"), row.integer(f"end{column + 1}")
        if not 0 <= start < end <= len(text):
            raise row.refuse(
                f"characters {start} to {end} are not inside sentence{column + 1} ({len(text)} characters)"
            )
        marked = text[start:end]
        if marked != marked.strip() or _cuts_a_word(text, start, end):
            raise row.refuse(
                f"characters {start} to {end} of sentence{column + 1} are {marked!r}, a whole word expected"
            )
        spans.append((column, start, end))
    return [Example(texts, row.label(), (row.idx(),), spans=tuple(spans))]


def wsc(row: Row) -> list[Example]:
    """A text and in it a noun phrase and a pronoun, given by their words and the number of the first."""
    text, target = row.text("text"), row.inner("target")
    wrong = row.number in row.task.mismatched.get(row.split, [])
    spans = []
    for which in ("span1", "span2"):
        words, index = target.text(f"{which}_text"), target.integer(f"{which}_index")
        span = _words_at(text, words, index) or (_nearest(text, words, index) if wrong else None)
        if span is None:
            raise target.refuse(f"{which}_text is {words!r}, which is not the text from word {index} on")
        spans.append((0, *span))
    target.done()
    return [Example((text,), row.label(), (row.idx(),), spans=tuple(spans))]


LAYOUTS: dict[str, Callable[[Row], list[Example]]] = {
    "flat": flat,
    "copa": copa,
    "multirc": multirc,
    "record": record,
    "wic": wic,
    "wsc": wsc,
}


# -- spans ---------------------------------------------------------------------------------------------------


def _entity(row: Row, text: str, named: bool = False) -> str:
    """Characters ``start`` to ``end``, both included, of ``text``; a ``named`` one repeats them under ``text``."""
    start, end = row.integer("start"), row.integer("end")
    if not 0 <= start <= end < len(text):
        raise row.refuse(f"characters {start} to {end} are not inside the passage ({len(text)} characters)")
    found = text[start : end + 1]
    if named and row.text("text") != found:
        raise row.refuse(f"text is {row.values['text']!r}, but characters {start} to {end} are {found!r}")
    row.done()
    return found


def _cuts_a_word(text: str, start: int, end: int) -> bool:
    """Whether letters go on outside the span; the n't of a contraction may."""
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
