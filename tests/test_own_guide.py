"""docs/own.md, as it is written: its command trains, predicts and says what the page shows."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from sora.runs import records
from tests.typed import called

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "own.md").read_text(encoding="utf-8")
TINY = (
    "backbone.weights=random",
    "backbone.arch.num_hidden_layers=1",
    "backbone.arch.hidden_size=32",
    "backbone.arch.num_attention_heads=2",
    "backbone.arch.intermediate_size=64",
    "trainer.max_steps=2",
    "trainer.batch_size=2",
)


def block(kind: str) -> str:
    return re.findall(rf"```{kind}\n(.*?)```", GUIDE, re.DOTALL)[0]


def rows(name: str, count: int, labelled: bool) -> str:
    lines = [f'"Scene {i} of {name}, he said ""well""",{("negative", "positive")[i % 2]}' for i in range(count)]
    kept = ["review,stars", *lines] if labelled else ["review", *(line.rpartition(",")[0] for line in lines)]
    return "\n".join(kept) + "\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, count, labelled in (("train", 40, True), ("dev", 20, True), ("test", 10, False)):
        (tmp_path / f"{name}.csv").write_text(rows(name, count, labelled), encoding="utf-8")
    return tmp_path


def test_the_command_of_the_guide_as_written(files: Path) -> None:
    words = shlex.split(block("bash").replace("\\\n", " "))
    assert words[:2] == ["python", "run.py"]
    done = called(files, *words[2:], *TINY)
    assert done.status == 0, done.err
    for line in block("text").strip().splitlines():
        assert line in done.err.splitlines()
    (record,) = records.read_many(files / "results")
    assert record["config"]["task"]["labels"] == ["negative", "positive"]
    assert record["data"]["sizes"] == {"train": 40, "select": 10, "report": 10, "train_subset": 40}
    assert str(files) not in json.dumps(record)
    predictions = (files / "runs" / record["run_id"] / "predictions" / "test.tsv").read_text().splitlines()
    assert predictions[0] == "index\tprediction"
    assert [line.split("\t")[0] for line in predictions[1:]] == [str(number) for number in range(10)]
    assert {line.split("\t")[1] for line in predictions[1:]} <= {"negative", "positive"}


def test_the_yaml_of_the_guide_is_the_same_run(files: Path) -> None:
    """Of at most 8 lines, in a folder of the user's own."""
    described = block("yaml")
    assert len(described.strip().splitlines()) <= 8
    assert yaml.safe_load(described)["name"] == "reviews"
    (files / "mine" / "task").mkdir(parents=True)
    (files / "mine" / "task" / "reviews.yaml").write_text(described, encoding="utf-8")
    dry = ("dry_run=true", "backbone=minilm-l6", *TINY)
    shell = [word for word in shlex.split(block("bash").replace("\\\n", " "))[2:] if not word.startswith("predict")]
    ids = []
    for words in (["--config-dir", "mine", "task=reviews", *dry], [*shell, *dry]):
        done = called(files, *dict.fromkeys(words))
        assert done.status == 0, done.err
        ids.append(json.loads(done.out.splitlines()[-1])["run_id"])
    assert len(set(ids)) == 1
