"""A user's own files as tasks: one meaning whatever the file. What is refused: test_own_refused.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from sora.config import DataConfig, RunConfig
from sora.errors import UserError
from sora.runs.run_id import run_id
from sora.tasks import load_test
from tests.hub_cache import fill
from tests.tasks.own_files import TEXTS, described, frame, loaded, write
from tests.typed import Command


def first_labels(run: RunConfig, count: int = 4) -> list[Any]:
    return loaded(run).splits["train"].labels[:count].tolist()


def name_of(run: RunConfig) -> str:
    return run_id(run, loaded(run).sha256, {})


KINDS = ["csv", "tsv", "csv-semicolons", "jsonl", "json", "parquet", "parquet-shards", "saved"]


def test_one_content_is_one_run_whatever_the_file(tmp_path: Path) -> None:
    names = set()
    for kind in KINDS:
        run = described(write(tmp_path / kind, kind, ["no", "yes"]))
        assert (run.task.labels, run.task.select_metric) == (["no", "yes"], "accuracy")
        assert run.task.metrics == ["accuracy", "f1_macro"]
        assert run.task.sizes == {"train": 24, "validation": 12}
        data = loaded(run)
        assert data.splits["train"].texts[0][:3] == [f"{text} train {i}" for i, text in enumerate(TEXTS[:3])], kind
        assert data.splits["train"].labels[:4].tolist() == [0, 1, 0, 1]
        assert str(tmp_path) not in json.dumps({name: each.source for name, each in data.splits.items()})
        names.add(run_id(run, data.sha256, {}))
    assert len(names) == 1


def test_a_folder_of_tables_is_read_as_its_files_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An open quote is text there too, NA and None are words, where pandas would swallow rows; each file is named."""
    files = {split: str(tmp_path / f"{split}.tsv") for split in ("train", "validation")}
    for split, path in files.items():
        rows = [
            f"{text} {split} {i}\tb\t{('None', 'one')[i % 2]}" for i, text in enumerate(["fine", '"open', "NA", "x"])
        ]
        Path(path).write_text("a\tb\ty\n" + "\n".join([*rows, '"NA" it was\tb\tNone']) + "\n", encoding="utf-8")
    alone, folder = described(files), described(str(tmp_path))
    assert folder.task.labels == alone.task.labels == ["None", "one"]
    assert loaded(folder).sha256 == loaded(alone).sha256
    assert folder.task.sizes == {"train": 5, "validation": 5}
    (tmp_path / "old_train.tsv").write_bytes((tmp_path / "train.tsv").read_bytes())
    capsys.readouterr()
    described(str(tmp_path))
    assert f"train is {tmp_path}/train.tsv with old_train.tsv, 10 rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([False, True], ["false", "true"]),
        ([1, 2], ["1", "2"]),
        ([-1, 0, 1], ["-1", "0", "1"]),
        ([10, 9], ["9", "10"]),
        (["None", "NA"], ["NA", "None"]),
    ],
)
def test_labels_mean_the_same_in_every_file(tmp_path: Path, values: list[Any], words: list[str]) -> None:
    """By their words: those of integers and booleans, and those that look like nothing."""
    expected = [words.index(json.dumps(values[i % len(values)]).strip('"')) for i in range(6)]
    for kind in ("tsv", "jsonl", "parquet"):
        run = described(write(tmp_path / kind, kind, values))
        assert run.task.labels == words
        assert first_labels(run, 6) == expected, kind


def test_the_order_of_given_labels_holds_in_every_file(tmp_path: Path) -> None:
    """labels [1, 0] with integers: the word 1 is class 0, also in a folder of numbered classes."""
    for kind in ("tsv", "saved", "jsonl"):
        run = described(write(tmp_path / kind, kind, [1, 0]), labels=[1, 0])
        assert first_labels(run) == [0, 1, 0, 1], kind
    rows = frame("train", [1, 0]).to_dict("records")
    types = Features({"a": Value("string"), "b": Value("string"), "y": ClassLabel(names=["bad", "good"])})
    numbered = str(tmp_path / "numbered")
    data = Dataset.from_list(rows, features=types)
    DatasetDict({"train": data, "validation": data}).save_to_disk(numbered)
    for labels in ([1, 0], ["good", "bad"]):
        assert first_labels(described(numbered, labels=labels)) == [0, 1, 0, 1]
    found = described(numbered)
    assert found.task.labels == ["bad", "good"]
    assert first_labels(found) == [1, 0, 1, 0]


def test_a_class_that_a_data_set_names_is_one_without_a_row_too(tmp_path: Path) -> None:
    """Also one that no training row has, and where another split names fewer; as many as there are."""
    types = [
        Features({"a": Value("string"), "b": Value("string"), "y": ClassLabel(names=names)})
        for names in (["bad", "good", "mixed"], ["bad", "good"])
    ]
    train, held = (Dataset.from_list(frame("train", [1, 0]).to_dict("records"), features=each) for each in types)
    DatasetDict({"train": train, "validation": held}).save_to_disk(tmp_path / "named")
    run = described(str(tmp_path / "named"))
    assert run.task.labels == ["bad", "good", "mixed"]
    assert first_labels(run) == [1, 0, 1, 0]
    files = {}
    for split in ("train", "validation"):
        rows = pd.DataFrame({"a": f"{split} text", "b": "part", "y": [f"intent {i % 151}" for i in range(302)]})
        files[split] = str(tmp_path / f"{split}.csv")
        rows.to_csv(files[split], index=False)
    assert len(described(files).task.labels) == 151


def test_real_numbers_are_scores(tmp_path: Path) -> None:
    run = described(write(tmp_path / "real", "csv", [0.5, 2.0, 4.75]))
    assert (run.task.labels, run.task.metrics) == ([], ["pearson", "spearman"])
    assert first_labels(run, 3) == [0.5, 2.0, 4.75]
    run = described(write(tmp_path / "whole", "jsonl", [0, 3, 5]), score_range=[0, 5])  # given a range
    assert run.task.regression
    assert first_labels(run, 3) == [0.0, 3.0, 5.0]


@pytest.mark.parametrize(
    ("protocol", "report", "sizes"),
    [
        ("paper", "own/test", {"train": 24, "select": 12, "report": 10}),
        ("dev", "own/validation", {"train": 24, "select": 12, "report": 12}),
        ("holdout", "own/test", {"train": 22, "select": 2, "report": 10}),
    ],
)
def test_a_labelled_test_file_is_reported_on(tmp_path: Path, protocol: str, report: str, sizes: dict[str, int]) -> None:
    run = described(write(tmp_path, "csv", ["no", "yes"], ("train", "validation", "test")))
    data = loaded(run, protocol)
    assert data.splits["report"].source == report
    assert {name: data.sizes[name] for name in sizes} == sizes
    assert data.partial == {}
    if protocol == "holdout":  # validation may be left out
        alone = loaded(described({split: run.task.files[split] for split in ("train", "test")}), protocol)
        assert (alone.splits["select"].source, alone.splits["report"].source) == ("own/train", "own/test")


@pytest.mark.parametrize("values", [{"y": [""] * 10}, {"y": ["-1"] * 10}, {}], ids=["empty", "-1", "no column"])
def test_a_test_file_without_labels_is_predicted_alone(tmp_path: Path, values: dict[str, Any]) -> None:
    files = write(tmp_path, "csv", ["no", "yes"], ("train", "validation", "test"))
    frame("test", ["no"]).drop(columns="y").assign(**values).to_csv(tmp_path / "test.csv", index=False)
    run = described(files)
    data = loaded(run)
    assert data.splits["report"].source == "own/validation"
    assert (data.sizes["select"], data.sizes["report"]) == (6, 6)
    assert load_test(run.task, run.data)["test"].labels.tolist() == [-1] * 10


def test_scores_of_minus_one_in_a_whole_test_file_are_none(tmp_path: Path) -> None:
    """As the hub has GLUE's STS-B: a constant, with which nothing correlates, would be reported on."""
    files = write(tmp_path, "jsonl", [0.5, 2.0, 4.75], ("train", "validation"))
    files["test"] = write(tmp_path, "jsonl", [-1.0], ("test",))["test"]
    run = described(files)
    assert loaded(run).splits["report"].source == "own/validation"
    assert np.isnan(load_test(run.task, run.data)["test"].labels).all()


def test_a_file_of_three_lines_is_a_task(typed: Command, tmp_path: Path) -> None:
    """In a folder for --config-dir, with official tasks in one sweep; the same as by keys alone."""
    files = write(tmp_path, "csv", ["no", "yes"])
    folder = tmp_path / "conf" / "task"
    folder.mkdir(parents=True)
    task = {"name": "reviews", "files": files | {"validation": "validation.csv"}, "text": ["a", "b"], "label": "y"}
    (folder / "reviews.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    done = typed("-m", "task=synthetic_pair,reviews", "seed=0,1", "++backbone.weights=random")
    assert done.status == 0, done.err
    named = [[(run.task.name, run.seed) for run in pack] for pack in done.packs]
    assert named == [[("synthetic_pair", 0), ("synthetic_pair", 1)], [("reviews", 0), ("reviews", 1)]]
    run = done.packs[1][0]
    assert (run.task.benchmark, run.task.labels) == ("own", ["no", "yes"])
    by_keys = described(files, name="reviews").task
    assert replace(run.task, files={}) == replace(by_keys, files={}, max_length=128)
    (manifest,) = (tmp_path / "results" / "studies").glob("*.json")
    planned = json.loads(manifest.read_text(encoding="utf-8"))
    assert planned["axes"]["task"] == ["synthetic_pair", "reviews"]  # as its records say
    alone = typed("task=synthetic_pair", "data.text=[a,b]", "data.files=x.csv")  # as the sweep's manifest lists it
    assert "data.files has no effect, task=synthetic_pair has files of its own" in alone.err


def test_a_data_set_of_the_hub_at_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In shards, from the hub's cache without a network, by its name alone."""
    write(tmp_path, "parquet-shards", ["no", "yes"])
    content = {f"data/{path.name}": path.read_bytes() for path in tmp_path.glob("*.parquet")}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    fill(tmp_path / "hub", "someone/reviews", "a" * 40, content, "dataset")
    run = described("someone/reviews", revision="a" * 40)
    assert run.task.sizes == {"train": 24, "validation": 12}
    assert name_of(run) == name_of(described(write(tmp_path, "csv", ["no", "yes"])))
    with pytest.raises(
        UserError, match=r"someone/others: no such file or folder here.* its cache lacks the repository"
    ):
        described("someone/others")


@pytest.mark.parametrize(
    ("header", "field", "first"),
    [
        ("a\tb\ty", '"It ""opened"" {}."', 'It "opened" 0.'),  # as pandas writes it
        ("a\tb\ty", '"It opened {}.', '"It opened 0.'),  # as GLUE has it
        ("a\tb\ty", '"It opened {}."', None),  # it may be either
        ('"a"\t"b"\t"y"', '"It opened {}."', "It opened 0."),
        ("a\tb\ty", '"It ""opened""\tx\tno\nand closed {}"', None),  # as CSV, two rows of three fields would be one
        ("a\tb\ty", '"It\topened {}"', "It\topened 0"),
    ],
)
def test_quoting_is_found(tmp_path: Path, header: str, field: str, first: str | None) -> None:
    """And data.quoting decides where it could be both."""
    lines = [header, *(f"{field.format(i)}\tit is\t{('no', 'yes')[i % 2]}" for i in range(6))]
    files = {split: str(tmp_path / f"{split}.tsv") for split in ("train", "validation")}
    for file in files.values():
        Path(file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    if first is not None:
        assert loaded(described(files)).splits["train"].texts[0][0] == first
        return
    with pytest.raises(UserError, match=r"train\.tsv:2: .*set data\.quoting=csv or data\.quoting=none"):
        described(files)
    for quoting in ("csv", "none"):
        text = loaded(described(files, quoting=quoting)).splits["train"].texts[0][0]
        assert text.startswith('"') == (quoting == "none")


def test_what_was_found_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How each file was read, and how many of its rows are in train too."""
    files = write(tmp_path, "tsv", ["no", "yes"], ("train", "validation", "test"))
    rows = pd.concat([frame("validation", ["no", "yes"]), frame("train", ["no", "yes"]).head(3)])
    rows.to_csv(files["validation"], index=False, sep="\t")
    described(files)
    train, validation, test = capsys.readouterr().err.splitlines()
    assert train == f"task own: train is {files['train']}, 24 rows, separated by tabs, quoted as CSV, classes no, yes"
    assert validation.endswith(
        "15 rows, separated by tabs, quoted as CSV; note: the texts of 3 of them are in train too"
    )
    assert test.endswith("10 rows, separated by tabs, quoted as CSV, labelled")
    frame("test", ["no"]).to_csv(files["test"], index=False, sep="\t")
    described(files)
    assert capsys.readouterr().err.splitlines()[2].endswith("labelled; note: every row has the label no")


def test_a_trial_takes_the_first_examples_of_each_split(tmp_path: Path) -> None:
    run = described(write(tmp_path, "csv", ["no", "yes"], ("train", "validation", "test")))
    full, cut = loaded(run), loaded(run, limit=5)
    assert cut.sizes == {"train": 5, "select": 5, "report": 5, "train_subset": 5}
    assert cut.splits["report"].texts[0] == full.splits["report"].texts[0][:5]
    assert sorted(cut.splits["train_subset"].texts[0]) == sorted(cut.splits["train"].texts[0])
    assert cut.partial == {
        "train": "data.limit=5 takes the first of 24 examples",
        "select": "data.limit=5 takes the first of 12 examples",
        "report": "data.limit=5 takes the first of 10 examples",
    }
    assert len(load_test(run.task, DataConfig(limit=5))["test"]) == 5
    assert cut.sha256 != full.sha256
    more = loaded(run, limit=1000)
    assert (more.sha256, more.partial) == (full.sha256, {})


def test_classes_that_are_left_without_rows_are_named(tmp_path: Path) -> None:
    """In a note, or refused where one is left to train on; and predict=true without a test file says what to add."""
    files = write(tmp_path, "csv", ["no", "yes"])
    rare = [f"r{i}" for i in range(10)]
    rows = pd.DataFrame({"a": [f"text {i}" for i in range(30)], "b": "part", "y": ["no", "yes"] * 10 + rare})
    rows.to_csv(files["train"], index=False)
    run, start = described(files), "no training row has the label r0"
    assert loaded(run).notes == []
    assert loaded(run, "holdout").notes == [f"{start} after protocol=holdout took some to select"]
    few = "or r1 or r2 or r3 or r4 and 5 more after data.limit=3 took the first"
    assert loaded(run, limit=3).notes[-1] == f"{start} {few}"
    halves = frame("validation", ["no", "yes"])[:2]
    halves.to_csv(files["validation"], index=False)
    held = {f"every row of {split} has the label {label}" for split in ("select", "report") for label in ("no", "yes")}
    run = described(files)
    assert len(held.intersection(loaded(run).notes)) == 2
    with pytest.raises(UserError, match=r"own: every row left to train on has the label no after data\.limit=1 took"):
        loaded(run, limit=1)
    with pytest.raises(UserError, match=r"own has no test split; leave predict out or add test: FILE to data\.files"):
        load_test(run.task, DataConfig())


def test_one_column_of_text(tmp_path: Path) -> None:
    run = described(write(tmp_path, "csv", ["no", "yes"]), text="a", metrics=["f1", "accuracy"])
    assert (run.task.text_columns, run.task.metrics, run.task.select_metric) == (["text_a"], ["f1", "accuracy"], "f1")
    assert len(loaded(run).splits["train"].texts) == 1
