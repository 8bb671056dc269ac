"""Write the files that the GLUE and SuperGLUE leaderboards take, and zip those of the best runs (torch-free).

GLUE: one table a test set, a header ``index<TAB>prediction``, one row an example in the order of the test file.
SuperGLUE: one JSON object a line, ``{"idx": ..., "label": ...}``; MultiRC nests answers in questions in a passage,
ReCoRD's label is the text of the entity. Names, words and counts are the task's (conf/task): ``submission``,
``submission_labels``, ``sizes`` and ``items``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sora.errors import UserError
from sora.files import write_bytes, zipped
from sora.runs import records
from sora.tasks import Examples, TaskConfig
from sora.tasks.metrics import predict
from sora.tasks.spec import known_tasks

NOT_IN = ("partial", "random_weights", "synthetic")  # flags of runs that are handed in nowhere


def benchmark_tasks(benchmark: str) -> list[TaskConfig]:
    """List the tasks of a leaderboard, those with a file to hand in."""
    return [task for task in known_tasks() if task.benchmark == benchmark and task.submission]


def diagnostics_of(task: TaskConfig) -> list[TaskConfig]:
    """List the diagnostic sets that a model of ``task`` is examined on."""
    return [each for each in known_tasks() if task.name in each.trained_on]


def file_of(task: TaskConfig, split: str) -> str:
    """Name the file with a split's predictions: the leaderboard's name, or ``<split>.tsv`` where there is none."""
    return task.submission.get(split, f"{split}.tsv")


def content(task: TaskConfig, examples: Examples, logits: ArrayLike) -> str:
    """Return the text of the file for one test set, from its logits [N, C]."""
    predictions = predict(task, logits, examples.groups)
    if _is_table(task):
        if task.regression:
            low, high = task.score_range or (-np.inf, np.inf)
            predictions = np.clip(np.nan_to_num(predictions), low, high)
        values = predictions if task.regression else [_word(task, each) for each in predictions.tolist()]
        table = pd.DataFrame({"index": examples.ids, "prediction": values})
        return table.to_csv(sep="\t", index=False, float_format="%.3f", lineterminator="\n")
    rows = pd.DataFrame(_rows(task, examples, predictions))
    return rows.to_json(orient="records", lines=True, force_ascii=False)


def count(path: Path, task: TaskConfig) -> int:
    """Count the predictions in a file: whole lines, for MultiRC answers. 0 where there is no such file."""
    if not path.is_file():
        return 0
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    if _is_table(task):
        return len(lines) - 1
    if task.scoring != "answers":
        return len(lines)
    return sum(len(question["answers"]) for line in lines for question in json.loads(line)["passage"]["questions"])


def _is_table(task: TaskConfig) -> bool:
    """Tell whether the file is a table: GLUE's, and that of a task of the user's own."""
    return task.benchmark != "superglue"


def _rows(task: TaskConfig, examples: Examples, predictions: np.ndarray) -> list[dict[str, Any]]:
    assert examples.idx is not None, f"{examples.source} has no official numbers"
    numbered = zip(examples.idx.tolist(), predictions.tolist(), strict=True)
    if task.scoring == "answers":
        rows = []
        for passage, inside in groupby(numbered, key=lambda each: each[0][0]):
            questions = [
                {"idx": question, "answers": [{"idx": idx[2], "label": label} for idx, label in answers]}
                for question, answers in groupby(inside, key=lambda each: each[0][1])
            ]
            rows.append({"idx": passage, "passage": {"questions": questions}})
        return rows
    if task.scoring == "candidates":
        assert examples.answers is not None, f"{examples.source} has no candidates"
        answered = zip(numbered, examples.answers, strict=True)
        return [{"idx": idx[1], "label": answer} for (idx, chosen), answer in answered if chosen]
    return [{"idx": idx[0], "label": _word(task, label)} for idx, label in numbered]


def _word(task: TaskConfig, label: int) -> str | int:
    """Return the leaderboard's word for a class; SuperGLUE writes a numbered one as a number."""
    words = task.submission_labels or task.labels
    numbers = task.benchmark == "superglue" and all(word.isdecimal() for word in words)
    return int(words[label]) if numbers else words[label]


# -- the zip of the best runs --------------------------------------------------------------------------------


def collect(
    benchmark: str, results: Path, runs: Path, out: Path, only: Mapping[str, str | None], incomplete: bool = False
) -> None:
    """Zip the predictions of each task's best run, the one with the highest select metric.

    ``only``: names that backbone, method and protocol must have; None = any.

    Raises:
        UserError: a file is missing (unless ``incomplete``) or is of a part of the test set; the runs are of several
            protocols, whose select metrics cannot be compared, or of several backbones, which is no one system.
    """
    asked = [
        record
        for record in records.read_many(results / "records")
        if all(name in (None, record["config"][group]["name"]) for group, name in only.items())
    ]
    candidates = [record for record in asked if not any(record["flags"][flag] for flag in NOT_IN)]
    if len(candidates) < len(asked):
        print(f"left out: {len(asked) - len(candidates)} runs on partial or generated data, or of random weights")
    files: dict[str, Path] = {}
    missing: list[str] = []
    backbones: set[str] = set()
    tasks = benchmark_tasks(benchmark)
    for task in tasks:
        models = [each.name for each in tasks if each.name in (task.trained_on or [task.name])]
        best = _best_run(models, candidates, runs)
        for split, name in task.submission.items():
            if best is None or not (path := runs / best["run_id"] / "predictions" / name).is_file():
                missing.append(name)
                continue
            found, expected = count(path, task), task.items.get(split, task.sizes[split])
            if found != expected:
                raise UserError(
                    f"{path}: {found:,} predictions, and {expected:,} are expected; give predict=true again, with "
                    "the complete test file"
                )
            files[name] = path
            backbones.add(best["config"]["backbone"]["name"])
            print(f"{name:14} {found:>7,} predictions  {_described(best)}")
    if len(backbones) > 1:
        raise UserError(
            f"the best runs are of the backbones {' and '.join(sorted(backbones))}, and a leaderboard ranks one "
            f"system; choose one, such as --backbone {min(backbones)}"
        )
    if missing:
        print(f"missing: {', '.join(missing)}")
    if not files or (missing and not incomplete):
        raise UserError(
            f"the leaderboard of {benchmark} refuses a zip without {missing[0]}, which no run in {runs} that counts "
            "has; train its task with predict=true, or write what there is with --incomplete"
        )
    write_bytes(out, zipped({name: path.read_bytes() for name, path in files.items()}))
    print(out)


def _best_run(tasks: Sequence[str], candidates: Sequence[dict[str, Any]], runs: Path) -> dict[str, Any] | None:
    """Find the record of these tasks with predictions and the highest select metric; ties to the smallest run id."""
    fitting = [
        record
        for record in candidates
        if record["config"]["task"]["name"] in tasks
        and (runs / record["run_id"] / "predictions" / "scores.json").is_file()
        and record["status"] == "ok"
    ]
    protocols = sorted({record["config"]["protocol"]["name"] for record in fitting})
    if len(protocols) > 1:
        raise UserError(
            f"{tasks[0]}: its runs were selected by the protocols {' and '.join(protocols)}, whose scores cannot be "
            f"compared; choose one, such as --protocol {protocols[0]}"
        )
    return min(fitting, key=lambda record: (-_selected(record), record["run_id"]), default=None)


def _selected(record: dict[str, Any]) -> float:
    """Return the select metric of the weights that predicted; -inf where the task had another one at that time."""
    config = record["config"]["task"]
    value: float | None = record["metrics"]["selected"]["select"].get(config["select_metric"])
    return float("-inf") if value is None else value


def _described(record: dict[str, Any]) -> str:
    config = record["config"]
    return (
        f"{config['backbone']['name']} {config['method']['name']} seed {config['seed']} run {record['run_id']}, "
        f"protocol {config['protocol']['name']}, select {config['task']['select_metric']} {_selected(record):.4f}"
    )
