"""A user's own files as tasks, through the command: one meaning whatever the file, one sentence for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    List,
    Value,
    disable_progress_bars,
    enable_progress_bars,
)

from sora.config import RunConfig
from sora.runs.run_id import run_id
from sora.tasks import TaskData, load, load_test
from tests.hub_cache import fill
from tests.typed import Command, Outcome

TEXTS = ["It was fine.", 'He said "hi".', "Tabs\tand, commas; stay.", "Un café."]
SIZES = {"train": 24, "validation": 12, "test": 10}


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    disable_progress_bars()
    yield
    enable_progress_bars()


def frame(split: str, labels: list[Any], **columns: Any) -> pd.DataFrame:
    """Rows of a split: a text, a second one, and labels in turn."""
    count = SIZES[split]
    values = {
        "a": [f"{TEXTS[i % 4]} {split} {i}" for i in range(count)],
        "b": [f"part {i}" for i in range(count)],
        "y": pd.Series([labels[i % len(labels)] for i in range(count)], dtype=object),
    }
    return pd.DataFrame(values | columns)


def write(folder: Path, kind: str, labels: list[Any], splits: tuple[str, ...] = ("train", "validation")) -> str:
    """Files of one kind with equal content; returns data.files."""
    named = {}
    for split in splits:
        rows, path = frame(split, labels), folder / f"{split}.{kind.split('-')[0]}"
        if kind == "csv":
            rows.to_csv(path, index=False)
        elif kind == "tsv":  # quoted where a field needs it, as pandas does
            rows.to_csv(path, index=False, sep="\t")
        elif kind == "csv-semicolons":
            path = path.with_suffix(".csv")
            rows.to_csv(path, index=False, sep=";", encoding="utf-8-sig")
        elif kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_dict("records")), encoding="utf-8")
        elif kind == "json":
            path.write_text(json.dumps(rows.to_dict("records"), indent=1), encoding="utf-8")
        elif kind == "parquet":
            Dataset.from_list(rows.to_dict("records")).to_parquet(path)
        elif kind == "parquet-shards":
            whole = Dataset.from_list(rows.to_dict("records"))
            for number in range(2):
                part = whole.shard(2, number, contiguous=True)
                part.to_parquet(folder / f"{split}-{number:05d}-of-00002.parquet")
            path = folder / f"{split}-*.parquet"
        elif kind == "saved":
            path = folder / split
            Dataset.from_list(rows.to_dict("records")).save_to_disk(path)
        named[split] = path
    return "data.files={" + ", ".join(f"{split}: {path}" for split, path in named.items()) + "}"


OWN = ("task=own", "data.text=[a,b]", "data.label=y")


def run_of(outcome: Outcome) -> RunConfig:
    assert outcome.status == 0, outcome.err
    ((run,),) = outcome.packs
    return run


def loaded(run: RunConfig) -> TaskData:
    return load(run.task, run.protocol, run.data)


def name_of(run: RunConfig) -> str:
    return run_id(run, loaded(run).sha256, {})


KINDS = ["csv", "tsv", "csv-semicolons", "jsonl", "json", "parquet", "parquet-shards", "saved"]


def test_one_content_is_one_run_whatever_the_file(typed: Command, tmp_path: Path) -> None:
    names = set()
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        run = run_of(typed(*OWN, write(tmp_path / kind, kind, ["no", "yes"])))
        assert (run.task.labels, run.task.metrics, run.task.select_metric) == (
            ["no", "yes"],
            ["accuracy", "f1_macro"],
            "accuracy",
        )
        assert run.task.sizes == {"train": 24, "validation": 12}
        data = loaded(run)
        assert data.splits["train"].texts[0][:3] == [f"{text} train {i}" for i, text in enumerate(TEXTS[:3])], kind
        assert data.splits["train"].labels[:4].tolist() == [0, 1, 0, 1]
        assert str(tmp_path) not in json.dumps({name: each.source for name, each in data.splits.items()})
        names.add(name_of(run))
    assert len(names) == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [([False, True], ["false", "true"]), ([1, 2], ["1", "2"]), ([-1, 0, 1], ["-1", "0", "1"]), ([10, 9], ["9", "10"])],
)
def test_labels_mean_the_same_in_every_file(
    typed: Command, tmp_path: Path, values: list[Any], words: list[str]
) -> None:
    """Integers and booleans by their words; labels 1 and 2 are classes too."""
    names = set()
    for kind in ("csv", "tsv", "jsonl", "parquet", "saved"):
        (tmp_path / kind).mkdir()
        run = run_of(typed(*OWN, write(tmp_path / kind, kind, values)))
        assert run.task.labels == words
        expected = [words.index(json.dumps(values[i % len(values)])) for i in range(6)]
        assert loaded(run).splits["train"].labels[:6].tolist() == expected, kind
        names.add(name_of(run))
    assert len(names) == 1


def test_the_order_of_given_labels_holds_in_every_file(typed: Command, tmp_path: Path) -> None:
    """labels [1, 0] with integers: the word 1 is class 0, also in a folder of numbered classes."""
    found = {}
    for kind in ("tsv", "saved", "parquet", "jsonl"):
        (tmp_path / kind).mkdir()
        run = run_of(typed(*OWN, write(tmp_path / kind, kind, [1, 0]), "task.labels=[1,0]"))
        found[kind] = loaded(run).splits["train"].labels[:4].tolist()
    rows = frame("train", [1, 0]).to_dict("records")
    classes = Features({"a": Value("string"), "b": Value("string"), "y": ClassLabel(names=["bad", "good"])})
    DatasetDict({split: Dataset.from_list(rows, features=classes) for split in ("train", "validation")}).save_to_disk(
        tmp_path / "numbered"
    )
    run = run_of(typed(*OWN, f"data.files={tmp_path}/numbered", "task.labels=[1,0]"))
    found["numbered"] = loaded(run).splits["train"].labels[:4].tolist()
    run = run_of(typed(*OWN, f"data.files={tmp_path}/numbered", "task.labels=[good,bad]"))
    found["names"] = loaded(run).splits["train"].labels[:4].tolist()
    assert found == {key: [0, 1, 0, 1] for key in found}
    run = run_of(typed(*OWN, f"data.files={tmp_path}/numbered"))
    assert run.task.labels == ["bad", "good"]
    assert loaded(run).splits["train"].labels[:4].tolist() == [1, 0, 1, 0]


def test_real_numbers_are_scores(typed: Command, tmp_path: Path) -> None:
    for kind in ("csv", "parquet"):
        (tmp_path / kind).mkdir()
        run = run_of(typed(*OWN, write(tmp_path / kind, kind, [0.5, 2.0, 4.75])))
        assert (run.task.labels, run.task.metrics) == ([], ["pearson", "spearman"])
        assert loaded(run).splits["train"].labels[:3].tolist() == [0.5, 2.0, 4.75]
    for kind in ("jsonl", "saved"):  # whole numbers are scores where their range is given
        (tmp_path / kind).mkdir()
        run = run_of(typed(*OWN, write(tmp_path / kind, kind, [0, 3, 5]), "task.score_range=[0,5]"))
        assert run.task.regression
        assert loaded(run).splits["train"].labels[:3].tolist() == [0.0, 3.0, 5.0]


@pytest.mark.parametrize(
    ("protocol", "report", "sizes"),
    [
        ("paper", "own/test", {"train": 24, "select": 12, "report": 10}),
        ("dev", "own/validation", {"train": 24, "select": 12, "report": 12}),
        ("holdout", "own/test", {"train": 22, "select": 2, "report": 10}),
    ],
)
def test_a_labelled_test_file_is_reported_on(
    typed: Command, tmp_path: Path, protocol: str, report: str, sizes: dict[str, int]
) -> None:
    files = write(tmp_path, "csv", ["no", "yes"], ("train", "validation", "test"))
    data = loaded(run_of(typed(*OWN, files, f"protocol={protocol}")))
    assert data.splits["report"].source == report
    assert {name: data.sizes[name] for name in sizes} == sizes
    assert data.partial == {}


def test_a_test_file_without_labels_is_predicted_alone(typed: Command, tmp_path: Path) -> None:
    for values in ({"y": [""] * 10}, {"y": ["-1"] * 10}, {}):
        files = write(tmp_path, "csv", ["no", "yes"], ("train", "validation", "test"))
        rows = frame("test", ["no"]).drop(columns="y").assign(**values)
        rows.to_csv(tmp_path / "test.csv", index=False)
        run = run_of(typed(*OWN, files))
        data = loaded(run)
        assert data.splits["report"].source == "own/validation"
        assert (data.sizes["select"], data.sizes["report"]) == (6, 6)
        assert load_test(run.task, run.data)["test"].labels.tolist() == [-1] * 10


def test_train_and_a_labelled_test_alone(typed: Command, tmp_path: Path) -> None:
    files = write(tmp_path, "csv", ["no", "yes"], ("train", "test"))
    data = loaded(run_of(typed(*OWN, files, "protocol=holdout")))
    assert (data.splits["select"].source, data.splits["report"].source) == ("own/train", "own/test")


def test_a_file_of_three_lines_is_a_task(typed: Command, tmp_path: Path) -> None:
    """In a folder for --config-dir, beside official tasks in one sweep; the name is part of the run, paths are not."""
    files = write(tmp_path, "csv", ["no", "yes"])
    folder = tmp_path / "conf" / "task"
    folder.mkdir(parents=True)
    named = {"train": str(tmp_path / "train.csv"), "validation": "validation.csv"}
    described = {"name": "reviews", "files": named, "text": ["a", "b"], "label": "y"}
    (folder / "reviews.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    run = run_of(typed("task=reviews"))
    assert (run.task.name, run.task.benchmark, run.task.labels) == ("reviews", "own", ["no", "yes"])
    shell = run_of(typed(*OWN, files, "task.name=reviews"))
    assert name_of(run) == name_of(shell)
    assert name_of(run) != name_of(run_of(typed(*OWN, files)))


def test_own_and_official_tasks_in_one_sweep(typed: Command, tmp_path: Path) -> None:
    files = write(tmp_path, "csv", ["no", "yes"])
    done = typed("-m", "task=synthetic_pair,own", "seed=0,1", *OWN[1:], files, "++backbone.weights=random")
    assert done.status == 0, done.err
    assert [[(run.task.name, run.seed) for run in pack] for pack in done.packs] == [
        [("synthetic_pair", 0), ("synthetic_pair", 1)],
        [("own", 0), ("own", 1)],
    ]
    typed(
        "-m", "task=own", "task.name=reviews", "seed=0,1", *OWN[1:], files, "++backbone.weights=random", "study.name=r"
    )
    (manifest,) = (tmp_path / "results" / "studies").glob("r-*.json")
    planned = json.loads(manifest.read_text(encoding="utf-8"))
    assert planned["axes"]["task"] == ["reviews"]  # as its records say
    assert {each["axes"]["task"] for each in planned["runs"]} == {"reviews"}
    typed_alone = typed("task=synthetic_pair", *OWN[1:], files)  # as the sweep's manifest lists it
    assert "note: data.files has no effect, task=synthetic_pair has files of its own" in typed_alone.err
    assert "data.files: is read by task=own, and task=rte has files of its own; add task=own" in typed(files).err


def test_a_data_set_of_the_hub_at_a_revision(typed: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In shards, from the hub's cache without a network, by its name alone."""
    write(tmp_path, "parquet-shards", ["no", "yes"])
    content = {f"data/{path.name}": path.read_bytes() for path in tmp_path.glob("*.parquet")}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    fill(tmp_path / "hub", "someone/reviews", "a" * 40, content, "dataset")
    run = run_of(typed(*OWN, "data.files=someone/reviews", f"task.revision={'a' * 40}"))
    assert run.task.sizes == {"train": 24, "validation": 12}
    csv = run_of(typed(*OWN, write(tmp_path, "csv", ["no", "yes"])))
    assert name_of(run) == name_of(csv)
    missing = typed(*OWN, "data.files=someone/others")
    assert missing.err.startswith("error: data.files=someone/others: no such file or folder here, and on the hub: ")
    assert "its cache lacks the repository" in missing.err


def test_quoting_is_found_and_told(typed: Command, tmp_path: Path) -> None:
    """A .tsv of pandas is quoted, one of GLUE is not, and data.quoting decides where it could be both."""
    files = write(tmp_path, "tsv", ["no", "yes"])
    done = typed(*OWN, files)
    assert "separated by tabs, quoted as CSV" in done.err
    rows = ["a\tb\ty", *(f'"It opened {i}.\tso "it is\t{("no", "yes")[i % 2]}' for i in range(6))]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    done = typed(*OWN, files)
    assert "separated by tabs, quotes are text" in done.err
    assert loaded(run_of(done)).splits["train"].texts[0][0] == '"It opened 0.'
    rows = ["a\tb\ty", *(f'"It opened {i}."\tit is\t{("no", "yes")[i % 2]}' for i in range(6))]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert f"{tmp_path}/train.tsv:2: the quotes around" in typed(*OWN, files).err
    for quoting, first in (("csv", "It opened 0."), ("none", '"It opened 0."')):
        run = run_of(typed(*OWN, files, f"data.quoting={quoting}"))
        assert loaded(run).splits["train"].texts[0][0] == first


def test_quotes_that_swallow_rows_are_not_taken_for_quoting(typed: Command, tmp_path: Path) -> None:
    """Read as CSV, the text would go on over two rows, and every row would still have three fields."""
    rows = ["a\tb\ty", '"It opened\tx\tno', 'and closed"\ty\tyes', "c\td\tno", "e\tf\tyes"]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    files = f"data.files={{train: {tmp_path}/train.tsv, validation: {tmp_path}/validation.tsv}}"
    assert "may be text or quoting; set data.quoting=csv or data.quoting=none" in typed(*OWN, files).err


def test_rows_that_are_in_train_too_are_counted(typed: Command, tmp_path: Path) -> None:
    files = write(tmp_path, "csv", ["no", "yes"])
    assert "note" not in typed(*OWN, files).err
    rows = pd.concat([frame("validation", ["no", "yes"]), frame("train", ["no", "yes"]).head(3)])
    rows.to_csv(tmp_path / "validation.csv", index=False)
    assert "15 rows, separated by commas, quoted as CSV; note: the texts of 3 of them are in" in typed(*OWN, files).err


def test_words_that_look_like_nothing_stay_words(typed: Command, tmp_path: Path) -> None:
    """NA, null and None are texts and labels, not gaps."""
    for split in ("train", "validation"):
        frame(split, ["NA", "None"], b="null").to_csv(tmp_path / f"{split}.csv", index=False)
    files = f"data.files={{train: {tmp_path}/train.csv, validation: {tmp_path}/validation.csv}}"
    run = run_of(typed(*OWN, files))
    assert run.task.labels == ["NA", "None"]
    assert set(loaded(run).splits["train"].texts[1]) == {"null"}


def test_a_trial_takes_the_first_examples_of_each_split(typed: Command, tmp_path: Path) -> None:
    files = write(tmp_path, "csv", ["no", "yes"], ("train", "validation", "test"))
    whole, run = run_of(typed(*OWN, files)), run_of(typed(*OWN, files, "data.limit=5"))
    full, cut = loaded(whole), loaded(run)
    assert cut.sizes == {"train": 5, "select": 5, "report": 5, "train_subset": 5}
    assert cut.splits["report"].texts[0] == full.splits["report"].texts[0][:5]
    assert sorted(cut.splits["train_subset"].texts[0]) == sorted(cut.splits["train"].texts[0])
    assert cut.partial == {
        "train": "data.limit=5 takes the first of 24 examples",
        "select": "data.limit=5 takes the first of 12 examples",
        "report": "data.limit=5 takes the first of 10 examples",
    }
    assert len(load_test(run.task, run.data)["test"]) == 5
    assert name_of(run) != name_of(whole)
    more = loaded(run_of(typed(*OWN, files, "data.limit=1000")))
    assert (more.sha256, more.partial) == (full.sha256, {})
    assert "data.limit: got 0, must be an integer >= 1" in typed(*OWN, files, "data.limit=0").err
    official = run_of(typed("task=synthetic_pair", "data.limit=7"))
    assert loaded(official).sizes == {"train": 7, "select": 7, "report": 7, "train_subset": 7}


# -- what is refused -----------------------------------------------------------------------------------------------


def csv_text(*rows: str) -> str:
    return "\n".join(("a,b,y", *rows)) + "\n"


GOOD = csv_text(*(f"text {i},part {i},{('no', 'yes')[i % 2]}" for i in range(6)))
WRONG: list[tuple[str, str | bytes, str]] = [  # of the training file: name, content, what is said
    ("train.csv", GOOD.replace("a,b,y", "a,b,z", 1), "no column 'y', there are 'a', 'b', 'z'; correct data.text and"),
    ("train.csv", GOOD.replace("a,b,y", "a,y,y", 1), "no column 'b'"),
    ("train.csv", "a,b,y,y\n" + "x,y,no,yes\n" * 4, "column 'y' occurs 2 times; name each once"),
    ("train.csv", GOOD + "text,part,\n", "train.csv:8: no label in column 'y'"),
    ("train.csv", csv_text("t,p,yes", "u,q,yes"), "has one label, 'yes', in every row; a classifier needs two"),
    ("train.csv", GOOD + "text,part,Yes\n", "has the labels 'Yes' and 'yes', which may be one; write it one way"),
    ("train.csv", GOOD + "text,part,no \n", "has the labels 'no' and 'no ', which may be one"),
    ("train.csv", GOOD + 't,p,"two\nlines"\n', 'the label "two\\nlines" has a tab or a line break'),
    ("train.csv", csv_text("t,p,1", "u,q,0", "v,r,1.0"), "holds whole numbers such as 1: classes or scores? give task"),
    ("train.csv", csv_text(*(f"t,p,{i * i}" for i in range(14))), "14 different whole numbers: classes or scores?"),
    (
        "train.csv",
        csv_text(*(f"t,p,name {i}" for i in range(20))),
        "has 20 different labels in 20 rows; is it the label",
    ),
    ("train.csv", GOOD + "only one\n", "train.csv:8: 1 columns where 3 are expected"),
    ("train.csv", GOOD + "a,b,no,more\n", "train.csv:8: 4 columns where 3 are expected"),
    ("train.csv", GOOD + '"two\nlines",b,no\nonly one\n', "train.csv:10: 1 columns where 3 are expected"),
    ("train.csv", GOOD.replace("text 2", "", 1), "train.csv:4: a is empty"),
    ("train.csv", GOOD.replace("text 1,", '"text" 1,', 1), "train.csv:3: not quoted as CSV is ("),
    ("train.csv", GOOD + '"never closed,b,no\n', "train.csv:8: not quoted as CSV is ("),
    ("train.csv", GOOD + "\n" + "a,b,no\n", "train.csv:8: blank line between rows"),
    ("train.csv", "", "train.csv: no column 'a', 'b', 'y', there are none"),
    ("train.csv", "a,b,y\n", "no rows (the train split of task own)"),
    ("train.csv", GOOD.encode() + b"caf\xe9,b,no\n", "train.csv:8: not valid UTF-8; save the file as UTF-8"),
    ("train.csv", GOOD.encode("utf-16"), "train.csv:1: not valid UTF-8"),
    ("train.csv", csv_text("1,p,no", "2,q,yes"), "column 'a' holds numbers alone, no texts; correct data.text"),
    ("train.csv", GOOD.replace(",", "|"), "no column 'a', 'b', 'y', there are 'a|b|y'"),
    (
        "train.jsonl",
        '{"a": "t", "b": "p", "y": 1}\n{"a": "u", "b": "q", "y": "1"}\n',
        'values such as 1, "1"; labels are',
    ),
    (
        "train.jsonl",
        '{"a": "t", "b": "p", "y": 1}\n{"a": "u", "b": "q", "y": true}\n',
        "values such as 1, true; labels",
    ),
    ("train.jsonl", '{"a": "t", "b": "p", "y": 1}\n{"a": "u", "b": "q"}\n', "train.jsonl:2: no label in column 'y'"),
    (
        "train.jsonl",
        '{"a": 5, "b": "p", "y": 1}\n{"a": "u", "b": "q", "y": 0}\n',
        "train.jsonl:1: a is 5, text expected",
    ),
    ("train.jsonl", '{"a": "t", "b": "p", "y": [1]}\n{"a": "u", "b": "q", "y": [0]}\n', "values such as [1]; labels"),
    ("train.jsonl", '{"a": "t", "b": "p", "y": 1}\n{"a"\n', "train.jsonl:2: not JSON ("),
    ("train.xlsx", GOOD, "train.xlsx: a file of that ending is not read"),
    ("train.parquet", b"version https://git-lfs.github.com/spec/v1\n", "train.parquet: cannot be read ("),
]


@pytest.mark.parametrize(("name", "content", "says"), WRONG)
def test_a_wrong_file_is_one_sentence(typed: Command, tmp_path: Path, name: str, content: Any, says: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    (tmp_path / "dev.csv").write_text(GOOD, encoding="utf-8")
    done = typed(*OWN, f"data.files={{train: {tmp_path}/{name}, validation: {tmp_path}/dev.csv}}")
    said = done.err.replace("\n", " ", done.err.count("\n") - 1)
    assert (done.status, done.packs, done.out) == (2, [], "")
    assert said.startswith("error: ")
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("dev.csv", GOOD + "t,p,maybe\n", 'dev.csv:8: label "maybe" is not one of no, yes'),
        ("dev.csv", csv_text("t,p,", "u,q,"), "dev.csv:2: no label in column 'y' (the validation split)"),
        ("dev.csv", GOOD + "t,p,\n", "dev.csv:8: no label in column 'y' (the validation split); correct that row"),
        ("test.csv", GOOD + "t,p,\n", "test.csv:8: no label in column 'y', which other rows have"),
    ],
)
def test_a_wrong_split_beside_a_good_one(typed: Command, tmp_path: Path, name: str, content: str, says: str) -> None:
    for each in ("train.csv", "dev.csv", "test.csv"):
        (tmp_path / each).write_text(GOOD.replace("text", each), encoding="utf-8")
    (tmp_path / name).write_text(content, encoding="utf-8")
    done = typed(
        *OWN, f"data.files={{train: {tmp_path}/train.csv, validation: {tmp_path}/dev.csv, test: {tmp_path}/test.csv}}"
    )
    assert done.status == 2
    assert says in done.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "task=own: no files are given; give data.files={train: FILE, validation: FILE}"),
        (["data.files=good.csv"], "data.files=good.csv: is one split alone; give {train: good.csv, validation: FILE}"),
        (["data.files={train: good.csv}"], "data.files: has no validation (or a labelled test)"),
        (["data.files={train: good.csv, dev: good.csv}"], "data.files.dev: no such split ... did you mean validation?"),
        (["data.files={train: good.csv, validation: good.csv}"], "train and validation are both ... good.csv, so that"),
        (
            ["data.files={train: nowhere.csv, validation: good.csv}"],
            "data.files.train=nowhere.csv: there is no such file",
        ),
        (["data.files={train: x*.csv, validation: good.csv}"], "data.files.train=x*.csv: no file matches"),
        (["data.files={train: [good.csv, good.tsv], validation: b.csv}"], "good.csv and good.tsv are of two kinds"),
        (
            ["data.files={train: saved, validation: good.csv}", "task.hub_splits={train: all}"],
            "no split 'all', there are",
        ),
        (["data.files={train: single, validation: single}"], "train and validation are both single, so that they"),
        (["data.files=saved", "task.hub_splits={validation: train}"], "train and validation are both saved, so that"),
        (["data.files=single"], "data.files=single: is one split alone"),
        (
            ["data.files=odd"],
            "odd: no split 'train', there are left, right; name them, as in 'task.hub_splits={train: ",
        ),
        (["data.files={train: lists.parquet, validation: b.csv}"], "row 0 (from 0): a is ... text expected"),
        (
            ["data.files={train: good.csv, validation: b.csv}", "data.text=null"],
            "data.text: not given, must be the text",
        ),
        (["data.files={train: good.csv, validation: b.csv}", "data.text=[a,a]"], "must be different columns"),
        (["data.files={train: good.csv, validation: b.csv}", "data.text=[a,b,y]"], "data.text: got 3 columns"),
        (["data.files={train: good.csv, validation: b.csv}", "data.label=null"], "data.label: not given"),
        (["data.files={train: good.csv, validation: b.csv}", "data.quoting=no"], "data.quoting: got"),
        (["data.files={train: good.csv, validation: b.csv}", "task.labels=[no]"], "task.labels: got no, must be two"),
        (
            ["data.files={train: good.csv, validation: b.csv}", "task.labels=[yes,good]"],
            'label "no" is not one of yes, good',
        ),
        (
            ["data.files={train: good.csv, validation: b.csv}", "task.score_range=[0,1]"],
            'score "no" is not a number from 0',
        ),
        (["data.files={train: good.csv, validation: b.csv}", "task.name=../x"], "task.name: got '../x'"),
        (["data.files={train: good.csv, test: b.csv}", "protocol=paper"], "protocol=paper: task own has no validation"),
    ],
)
def test_a_wrong_word_is_one_sentence(typed: Command, tmp_path: Path, words: list[str], says: str) -> None:
    for name in ("good.csv", "b.csv"):
        (tmp_path / name).write_text(GOOD, encoding="utf-8")
    (tmp_path / "good.tsv").write_text(GOOD.replace(",", "\t"), encoding="utf-8")
    rows = Dataset.from_list(frame("train", ["no", "yes"]).to_dict("records"))
    DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / "saved")
    DatasetDict({"left": rows, "right": rows}).save_to_disk(tmp_path / "odd")
    rows.save_to_disk(tmp_path / "single")
    lists = Features({"a": List(Value("string")), "b": Value("string"), "y": Value("string")})
    listed = [{"a": ["x"], "b": "p", "y": label} for label in ("no", "yes")]
    Dataset.from_list(listed, features=lists).to_parquet(tmp_path / "lists.parquet")

    def read(runs: list[RunConfig]) -> None:
        load(runs[0].task, runs[0].protocol, runs[0].data)

    done = typed(*OWN, *words, then=read)
    assert done.status == 2
    for part in says.split(" ... "):
        assert part.removesuffix("...") in done.err
    assert done.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.err


def test_shards_of_other_columns_and_missing_shards(typed: Command, tmp_path: Path) -> None:
    files = write(tmp_path, "parquet-shards", ["no", "yes"])
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    assert f"{tmp_path}/train-00001-of-00002.parquet is missing, a shard of train" in typed(*OWN, files).err
    (tmp_path / "s1.csv").write_text(GOOD, encoding="utf-8")
    (tmp_path / "s2.csv").write_text(GOOD.replace("a,b,y", "b,a,y"), encoding="utf-8")
    (tmp_path / "dev.csv").write_text(GOOD, encoding="utf-8")
    done = typed(*OWN, f"data.files={{train: {tmp_path}/s*.csv, validation: {tmp_path}/dev.csv}}")
    assert f"{tmp_path}/s2.csv: its columns are b, a, y, those of {tmp_path}/s1.csv a, b, y" in done.err
    (tmp_path / "s2.csv").write_text(GOOD + "t,p,\n", encoding="utf-8")
    done = typed(*OWN, f"data.files={{train: {tmp_path}/s*.csv, validation: {tmp_path}/dev.csv}}")
    assert f"{tmp_path}/s2.csv:8: no label in column 'y'" in done.err


def test_one_column_of_text(typed: Command, tmp_path: Path) -> None:
    files = write(tmp_path, "csv", ["no", "yes"])
    run = run_of(typed("task=own", files, "data.text=a", "data.label=y", "task.metrics=[f1,accuracy]"))
    assert (run.task.text_columns, run.task.metrics, run.task.select_metric) == (["text_a"], ["f1", "accuracy"], "f1")
    assert np.bincount(loaded(run).splits["train"].labels).tolist() == [12, 12]
