"""SuperGLUE from tables with the hub's columns: the examples of the official files, hash included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value, disable_progress_bars

from sora.config import DataConfig, ProtocolConfig
from sora.tasks import load, load_task, load_test
from tests.superglue import FOLDERS, download, numbered

CLASSES = {
    "boolq": ["False", "True"],
    "cb": ["entailment", "contradiction", "neutral"],
    "copa": ["choice1", "choice2"],
    "multirc": ["False", "True"],
    "rte_superglue": ["entailment", "not_entailment"],
    "wic": ["False", "True"],
    "wsc": ["False", "True"],
}
TEXT, NUMBER = Value("string"), Value("int32")


def unfolded(name: str, row: dict[str, Any]) -> list[dict[str, Any]]:
    """An official row as rows of the hub, as its loading script made them."""
    for key in ("version", "source"):
        row.pop(key, None)
    if name == "wsc":
        return [row | row.pop("target")]
    if name == "multirc":
        passage = row["passage"]
        return [
            {
                "paragraph": passage["text"],
                "question": question["question"],
                "answer": answer["text"],
                "idx": {"paragraph": row["idx"], "question": question["idx"], "answer": answer["idx"]},
                "label": answer.get("label"),
            }
            for question in passage["questions"]
            for answer in question["answers"]
        ]
    if name == "record":
        text = row["passage"]["text"]
        spans = [(each["start"], each["end"] + 1) for each in row["passage"]["entities"]]
        return [
            {
                "passage": text,
                "query": query["query"],
                "entity_spans": [{"text": text[a:b], "start": a, "end": b} for a, b in spans],
                "answers": sorted({each["text"] for each in query.get("answers", [])}),
                "idx": {"passage": row["idx"], "query": query["idx"]},
            }
            for query in row["qas"]
        ]
    return [row]


def table(name: str, rows: list[dict[str, Any]]) -> Dataset:
    types: dict[str, Any] = {key: TEXT if isinstance(value, str) else NUMBER for key, value in rows[0].items()}
    if name == "record":
        types["entity_spans"] = List({"text": TEXT, "start": NUMBER, "end": NUMBER})
        types["answers"] = List(TEXT)
    if isinstance(rows[0]["idx"], dict):
        types["idx"] = {key: NUMBER for key in reversed(rows[0]["idx"])}  # the order of its keys means nothing
    if name in CLASSES:
        types["label"] = ClassLabel(names=CLASSES[name])
        for row in rows:
            label = row.get("label")
            row["label"] = -1 if label is None else label if isinstance(label, int) else CLASSES[name].index(label)
    return Dataset.from_list(rows, features=Features(types))


def snapshot(folder: Path, name: str) -> Path:
    """The hub's parquet files of the rows that ``download`` writes."""
    disable_progress_bars()
    target = folder / load_task(name).hub_config
    target.mkdir(parents=True)
    for split, count in (("train", 12), ("validation", 6), ("test", 5)):
        official = [numbered(name, number, split != "test") for number in range(count)]
        rows = [each for row in official for each in unfolded(name, row)]
        table(name, rows).to_parquet(target / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize("name", FOLDERS)
def test_the_examples_of_the_official_files(name: str, tmp_path: Path) -> None:
    task, protocol = load_task(name), ProtocolConfig("paper")
    files = DataConfig(dir=str(download(tmp_path / "official", name)), allow_partial=True)
    hub = DataConfig(dir=str(snapshot(tmp_path / "hub", name)), allow_partial=True)
    first, second = load(task, protocol, files), load(task, protocol, hub)
    assert first.sha256 == second.sha256
    assert {key: each.source for key, each in first.splits.items()} == {
        key: each.source for key, each in second.splits.items()
    }
    test, same = load_test(task, files)["test"], load_test(task, hub)["test"]
    assert test.digest() == same.digest()
    assert test.idx is not None
    assert same.idx is not None
    assert test.idx.tolist() == same.idx.tolist()
    assert test.answers == same.answers
