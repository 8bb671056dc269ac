"""A SuperGLUE download in small: a few rows of every task in the official layout, and runs on a tiny encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sora.config import RunConfig
from sora.tasks import load_task
from tests.composing import runs

PASSAGE = "Ann met Bo in Rome. Bo was late."  # Ann 0-2, Bo 8-9, Rome 14-17, Bo 20-21
ROWS: dict[str, dict[str, Any]] = {
    "boolq": {"question": "is it so", "passage": "It is so.", "idx": 4, "label": True},
    "cb": {"premise": "It is so.", "hypothesis": "So it is.", "label": "neutral", "idx": 0},
    "copa": {
        "premise": "It rained.",
        "choice1": "It was wet.",
        "choice2": "It was dry.",
        "question": "effect",
        "label": 0,
        "idx": 0,
    },
    "multirc": {
        "idx": 7,
        "version": 1.1,
        "passage": {
            "text": "Ann met Bo.",
            "questions": [
                {
                    "question": "Who met?",
                    "idx": 3,
                    "answers": [{"text": "Ann", "idx": 5, "label": 1}, {"text": "", "idx": 6, "label": 0}],
                },
                {"question": "Whom?", "idx": 4, "answers": [{"text": "Bo", "idx": 7, "label": 1}]},
            ],
        },
    },
    "record": {
        "source": "Daily mail",
        "idx": 2,
        "passage": {
            "text": PASSAGE,
            "entities": [{"start": 0, "end": 2}, {"start": 8, "end": 9}, {"start": 20, "end": 21}],
        },
        "qas": [{"query": "@placeholder came late.", "idx": 9, "answers": [{"start": 8, "end": 9, "text": "Bo"}]}],
    },
    "wic": {
        "word": "bank",
        "sentence1": "The bank is closed.",
        "sentence2": "Two banks of a river.",
        "start1": 4,
        "end1": 8,
        "start2": 4,
        "end2": 9,
        "version": 1.1,
        "idx": 0,
        "label": False,
    },
    "wsc": {
        "text": "The old man saw Tim, so he left.",
        "target": {"span1_text": "the old man", "span1_index": 0, "span2_text": "He", "span2_index": 6},
        "idx": 0,
        "label": True,
    },
    "axg": {"premise": "She left.", "hypothesis": "It left.", "pair_id": 11, "label": "entailment", "idx": 0},
}


def row(name: str, **changes: Any) -> dict[str, Any]:
    """A valid row with some values replaced, keys such as passage.text reaching inside; ... removes a key."""
    values = json.loads(json.dumps(ROWS[name]))
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        node: Any = values
        for step in path:
            node = node[int(step) if step.isdecimal() else step]
        key: Any = int(last) if last.isdecimal() else last
        if value is ...:
            del node[key]
        else:
            node[key] = value
    return values


NAMES = ("boolq", "cb", "copa", "multirc", "record", "rte_superglue", "wic", "wsc")
FOLDERS = {name: load_task(name).folder for name in NAMES}
TINY = (
    "recipe=none",
    "backbone.weights=random",
    "backbone.arch.num_hidden_layers=1",
    "backbone.arch.hidden_size=32",
    "backbone.arch.num_attention_heads=2",
    "backbone.arch.intermediate_size=64",
    "backbone.arch.initializer_range=0.2",
    "trainer.batch_size=4",
    "data.allow_partial=true",
)


def numbered(name: str, number: int, labelled: bool) -> dict[str, Any]:
    """Row ``number`` of a task, its official numbers going on from the row before."""
    odd = number % 2
    if name == "multirc":
        values = row(name, idx=number)
        for place, question in enumerate(values["passage"]["questions"]):
            question["idx"] = 2 * number + place
            for within, answer in enumerate(question["answers"]):
                answer["idx"] = 3 * number + 2 * place + within
                answer["label"] = (answer["label"] + odd) % 2
                if not labelled:
                    del answer["label"]
        return values
    if name == "record":
        gold = [{"start": 0, "end": 2, "text": "Ann"}] if odd else [{"start": 8, "end": 9, "text": "Bo"}]
        values = row(name, idx=number, **{"qas.0.idx": number, "qas.0.answers": gold})
        if not labelled:
            del values["qas"][0]["answers"]
        return values
    source = "cb" if name == "rte_superglue" else name
    labels: dict[str, list[Any]] = {
        "boolq": [False, True],
        "cb": ["neutral", "entailment"],
        "copa": [0, 1],
        "rte_superglue": ["entailment", "not_entailment"],
        "wic": [False, True],
        "wsc": [False, True],
    }
    text = {"boolq": "passage", "copa": "premise", "cb": "premise"}.get(source)
    values = row(source, idx=number, label=labels[name][odd], **({text: f"It is {number}."} if text else {}))
    if not labelled:
        del values["label"]
    return values


def download(folder: Path, *names: str, rows: tuple[int, int, int] = (12, 6, 5)) -> Path:
    """The folders of the named tasks below ``folder``/superglue, with train, validation and test rows."""
    for name in names:
        target = folder / "superglue" / FOLDERS[name]
        target.mkdir(parents=True)
        for file, count in zip(("train", "val", "test"), rows, strict=True):
            lines = [json.dumps(numbered(name, number, file != "test")) for number in range(count)]
            (target / f"{file}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def tiny_runs(folder: Path, *overrides: str) -> list[RunConfig]:
    """The runs of a command on the tiny encoder, everything below ``folder``."""
    places = (f"data.dir={folder}", *(f"paths.{name}={folder}/{name}" for name in ("results", "runs", "cache")))
    return runs(folder, *TINY, *places, *overrides, backbone="minilm-l6")
