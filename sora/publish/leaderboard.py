"""The files that the GLUE and SuperGLUE leaderboards take, written from predictions and checked (torch-free).

GLUE: one table a test set, a header ``index<TAB>prediction``, one row an example in the order of the test file.
SuperGLUE: one JSON object a line, ``{"idx": ..., "label": ...}``; MultiRC nests answers in questions in a passage,
ReCoRD's label is the text of the entity. Names, words and counts are the task's (conf/task): ``submission``,
``submission_labels``, ``sizes`` and ``items``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sora.errors import UserError
from sora.tasks import Examples, TaskConfig, load_task
from sora.tasks.metrics import predict
from sora.tasks.spec import CONF
from sora.untrusted import parse_json

HEADER = "index\tprediction"
AGAIN = "write it again with predict=true"


def benchmark_tasks(benchmark: str) -> list[TaskConfig]:
    """The tasks of a leaderboard, those with a file to hand in."""
    tasks = (load_task(path.stem) for path in sorted(CONF.glob("*.yaml")))
    return [task for task in tasks if task.benchmark == benchmark and task.submission]


def diagnostics_of(task: TaskConfig) -> list[TaskConfig]:
    """The diagnostic sets that a model of ``task`` is examined on."""
    tasks = (load_task(path.stem) for path in sorted(CONF.glob("*.yaml")))
    return [each for each in tasks if task.name in each.trained_on]


def file_of(task: TaskConfig, split: str) -> str:
    """The name of the file with a split's predictions: the leaderboard's, or ``<split>.tsv`` where there is none."""
    return task.submission.get(split, f"{split}.tsv")


# -- writing -------------------------------------------------------------------------------------------------


def content(task: TaskConfig, examples: Examples, logits: ArrayLike) -> str:
    """The text of the file for one test set, from its logits [N, C]."""
    predictions = predict(task, logits, examples.groups)
    if _is_table(task):
        if task.regression:
            low, high = task.score_range or (-np.inf, np.inf)
            values = [f"{value:.3f}" for value in np.clip(np.nan_to_num(predictions), low, high)]
        else:
            values = [str(_word(task, each)) for each in predictions.tolist()]
        lines = [HEADER, *(f"{index}\t{value}" for index, value in zip(examples.ids, values, strict=True))]
    else:
        lines = [json.dumps(each, ensure_ascii=False) for each in _objects(task, examples, predictions)]
    return "\n".join(lines) + "\n"


def _is_table(task: TaskConfig) -> bool:
    """Whether the file is a table: GLUE's, and that of a task of the user's own."""
    return task.benchmark != "superglue"


def _objects(task: TaskConfig, examples: Examples, predictions: np.ndarray) -> Iterator[dict[str, Any]]:
    assert examples.idx is not None, f"{examples.source} has no official numbers"
    numbered = zip(examples.idx.tolist(), predictions.tolist(), strict=True)
    if task.scoring == "answers":
        for passage, inside in groupby(numbered, key=lambda each: each[0][0]):
            questions = [
                {"idx": question, "answers": [{"idx": idx[2], "label": label} for idx, label in answers]}
                for question, answers in groupby(inside, key=lambda each: each[0][1])
            ]
            yield {"idx": passage, "passage": {"questions": questions}}
    elif task.scoring == "candidates":
        assert examples.answers is not None, f"{examples.source} has no candidates"
        for (idx, chosen), answer in zip(numbered, examples.answers, strict=True):
            if chosen:
                yield {"idx": idx[1], "label": answer}
    else:
        for idx, label in numbered:
            yield {"idx": idx[0], "label": _word(task, label)}


def _word(task: TaskConfig, label: int) -> str | int:
    """The leaderboard's word for a class; a numbered one of SuperGLUE is a number."""
    return _words(task)[label]


def _words(task: TaskConfig) -> list[str | int]:
    words: list[str] = task.submission_labels or task.labels
    numbers = task.benchmark == "superglue" and all(word.isdecimal() for word in words)
    return [int(word) if numbers else word for word in words]


def is_whole(path: Path, task: TaskConfig, examples: Examples) -> bool:
    """Whether the file has as many whole lines as :func:`content` writes for these examples, however few they are."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    lines = len(examples) + _is_table(task)
    if task.scoring == "answers" and examples.idx is not None:
        lines = len(np.unique(examples.idx[:, 0]))
    elif task.scoring == "candidates" and examples.groups is not None:
        lines = len(np.unique(examples.groups))
    return text.endswith("\n") and text.count("\n") == lines


# -- checking ------------------------------------------------------------------------------------------------


def task_of(name: str) -> tuple[TaskConfig, str]:
    """The task and the split whose file has that name. Raises UserError when no leaderboard knows it."""
    names: dict[str, tuple[TaskConfig, str]] = {}
    for benchmark in ("glue", "superglue"):
        for task in benchmark_tasks(benchmark):
            names |= {file: (task, split) for split, file in task.submission.items()}
    if name not in names:
        raise UserError(f"{name}: no leaderboard takes a file of that name; they are {', '.join(sorted(names))}")
    return names[name]


def check(path: Path) -> int:
    """Check a file against what the leaderboard expects; returns the number of predictions.

    Raises UserError with ``file:line`` for a wrong header, number, word or order, and for a wrong count.
    """
    task, split = task_of(path.name)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {AGAIN}") from error
    if lines.pop() != "":
        raise UserError(f"{path}:{len(lines) + 1}: no line end; {AGAIN}")
    found = _check_table(task, path, lines) if task.benchmark == "glue" else _check_objects(task, path, lines)
    expected = task.items.get(split, task.sizes[split])
    if found != expected:
        raise UserError(
            f"{path}: {found:,} predictions, and {expected:,} are expected; use the complete test file and {AGAIN}"
        )
    return found


def _check_table(task: TaskConfig, path: Path, lines: list[str]) -> int:
    if lines[:1] != [HEADER]:
        raise UserError(f"{path}:1: header {lines[0] if lines else ''!r}, {HEADER!r} expected; {AGAIN}")
    for number, line in enumerate(lines[1:], 2):
        index, _, value = line.partition("\t")
        if index != str(number - 2):
            raise UserError(f"{path}:{number}: index {index!r}, {number - 2} expected; {AGAIN}")
        if task.regression:
            low, high = task.score_range
            if not _is_number(value) or not low <= float(value) <= high:
                raise UserError(f"{path}:{number}: {value!r} is no score from {low:g} to {high:g}; {AGAIN}")
        elif value not in _words(task):
            raise UserError(f"{path}:{number}: {value!r} is not one of {', '.join(map(str, _words(task)))}; {AGAIN}")
    return len(lines) - 1


def _check_objects(task: TaskConfig, path: Path, lines: list[str]) -> int:
    answers = questions = 0
    for number, line in enumerate(lines, 1):
        place = f"{path}:{number}"
        try:
            values = parse_json(line)
        except ValueError as error:
            raise UserError(f"{place}: not JSON ({error}); {AGAIN}") from error
        keys = ["idx", "passage"] if task.scoring == "answers" else ["idx", "label"]
        _expect(place, values, keys, number - 1)
        if task.scoring != "answers":
            _check_label(task, place, values["label"])
            continue
        for question in _listed(place, values["passage"], "questions"):
            _expect(place, question, ["idx", "answers"], questions)
            questions += 1
            for answer in _listed(place, question, "answers"):
                _expect(place, answer, ["idx", "label"], answers)
                _check_label(task, place, answer["label"])
                answers += 1
    return answers if task.scoring == "answers" else len(lines)


def _expect(place: str, values: Any, keys: list[str], idx: int) -> None:
    if not isinstance(values, dict) or sorted(values) != sorted(keys):
        raise UserError(f"{place}: an object with {' and '.join(keys)} expected; {AGAIN}")
    if values["idx"] != idx:
        raise UserError(f"{place}: idx {values['idx']!r}, {idx} expected: every one, in order; {AGAIN}")


def _listed(place: str, values: Any, key: str) -> list[Any]:
    listed = values.get(key) if isinstance(values, dict) else None
    if not isinstance(listed, list):
        raise UserError(f"{place}: a list of {key} expected; {AGAIN}")
    return listed


def _check_label(task: TaskConfig, place: str, label: Any) -> None:
    if task.scoring == "candidates":
        if not isinstance(label, str) or not label.strip():
            raise UserError(f"{place}: label {label!r}, the text of an entity expected; {AGAIN}")
    elif isinstance(label, bool) or label not in _words(task):
        raise UserError(f"{place}: label {label!r} is not one of {', '.join(map(repr, _words(task)))}; {AGAIN}")


def _is_number(value: str) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except ValueError:
        return False
