"""A SuperGLUE download in small: a few rows of every task in the official layout, and runs on a tiny encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sora.config import RunConfig
from tests.composing import runs
from tests.tasks.test_jsonl import row

FOLDERS = {
    "boolq": "BoolQ",
    "cb": "CB",
    "copa": "COPA",
    "multirc": "MultiRC",
    "record": "ReCoRD",
    "rte_superglue": "RTE",
    "wic": "WiC",
    "wsc": "WSC",
}
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
