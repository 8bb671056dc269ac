"""What is wrong in a user's own files, or in their description, is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from sora.errors import UserError
from tests.tasks.own_files import described, frame, loaded, write


def csv_text(*rows: str) -> str:
    return "\n".join(("a,b,y", *rows)) + "\n"


def json_lines(*ends: str) -> str:
    return "".join(f'{{"a": "t", "b": "p", {end}}}\n' for end in ends)


GOOD = csv_text(*(f"text {i},part {i},{('no', 'yes')[i % 2]}" for i in range(6)))
WRONG: list[tuple[str, str | bytes, str]] = [  # file, its content, what the sentence says
    ("train.csv", GOOD.replace("a,b,y", "a,b,z", 1), "column 'y' is missing, there are 'a', 'b', 'z'"),
    ("train.csv", "a,b,y,y\n" + "x,y,no,yes\n" * 4, "column 'y' occurs 2 times"),
    ("train.csv", GOOD + "text,part,\n", "train.csv:8: no label"),
    ("train.csv", csv_text("t,p,yes", "u,q,yes"), "one label, 'yes', in every row"),
    ("train.csv", GOOD + "text,part,Yes\n", "labels 'Yes' and 'yes', which may be one"),
    ("train.csv", GOOD + 't,p,"two\nlines"\n', "has a tab or a line break"),
    ("train.csv", csv_text("t,p,1", "u,q,0", "v,r,1.0"), "classes or scores?"),
    (
        "train.csv",
        csv_text(*(f"t,p,{i * i}" for i in range(14))),
        "14 whole numbers such as 0, 1, 4: classes or scores",
    ),
    ("train.csv", csv_text("t,p,0", "u,q,1", "v,r,nan"), "holds 'nan' in 1 rows, as pandas writes a missing value"),
    ("train.csv", csv_text("t,p,0.5", "u,q,1", "v,r,n/a"), "holds numbers and words such as '0.5', 'n/a'"),
    ("train.csv", csv_text("t,p,0.5", "u,q,1e39"), "train.csv:3: score '1e39' is too large for fp32"),
    ("train.jsonl", json_lines('"y": 0.5', f'"y": 1{"0" * 400}'), "such as '0.5', '100000"),
    ("train.csv", csv_text('t,p,"0,5"', 'u,q,"1,0"', "v,r,2"), "holds numbers with a comma such as '0,5'"),
    ("train.csv", csv_text(*(f"t,p,name {i}" for i in range(20))), "20 different labels in 20 rows"),
    ("train.csv", GOOD + '"two\nlines",b,no\nonly one\n', "train.csv:10: 1 columns where 3"),
    ("train.csv", GOOD.replace("text 1,", '"text" 1,', 1), "train.csv:3: not quoted as CSV is ("),
    ("train.csv", GOOD + '"never closed,b,no\n', "train.csv:8: not quoted as CSV is ("),
    ("train.csv", "", "train.csv: has no rows (the train split of task own)"),
    ("train.jsonl", "", "train.jsonl: has no rows (the train split of task own)"),
    ("train.csv", "a,b,y\n", "has no rows (the train split of task own)"),
    ("train.csv", "\n" + GOOD, "train.csv:1: a blank line before the rows; remove it"),
    ("train.csv", GOOD + ",p,no\n", "train.csv:8: a is empty (task.empty_text=keep takes such rows); correct"),
    ("train.jsonl", '{\n"a": "t",\n"b": "p",\n"y": 1\n}\n', "train.jsonl:1: an object over several lines; write each"),
    (
        "train.jsonl",
        "[" + json_lines('"y": 1') + "]",
        "train.jsonl: holds a list; write one object a line, or call the file train.json",
    ),
    ("train.csv", GOOD.encode() + b"caf\xe9,b,no\n", "train.csv:8: not UTF-8 ('utf-8' codec"),
    ("train.csv", GOOD.replace(",", "|"), "there are 'a|b|y'"),
    ("train.jsonl", json_lines('"y": 1', '"y": "1"'), "values such as 1, '1'"),
    ("train.jsonl", json_lines('"y": [1]', '"y": [0]'), "values such as [0]"),
    ("train.jsonl", json_lines('"y": 1', '"c": 1', '"y": 1', '"y": 0'), "train.jsonl:2: no label"),
    ("train.jsonl", json_lines('"y": 1, "y": 0'), "train.jsonl:1: not JSON (the key 'y' occurs twice)"),
    ("train.csv", "a,b,y\n1,p,no\n2,q,yes\n", "column 'a' holds numbers alone, no texts"),
    ("train.xlsx", GOOD, "files of one of the kinds .csv"),
    ("train.parquet", b"version https://git-lfs.github.com/spec/v1\n", "train.parquet: cannot be read ("),
    ("dev.csv", GOOD + "t,p,maybe\n", "dev.csv:8: label 'maybe' is not one of no, yes"),
    ("test.csv", GOOD + "t,p,\n", "test.csv:8: no label in column 'y'"),
]


@pytest.mark.parametrize(("name", "content", "says"), WRONG)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, name: str, content: Any, says: str) -> None:
    files = {"train": "train.csv", "validation": "dev.csv", "test": "test.csv"}
    for split, file in files.items():
        (tmp_path / file).write_text(GOOD.replace("text", split), encoding="utf-8")
    split = next(split for split, file in files.items() if Path(file).stem == Path(name).stem)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    with pytest.raises(UserError) as refused:
        described({each: str(tmp_path / file) for each, file in (files | {split: name}).items()})
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and saved data sets, good ones and odd ones."""
    made = tmp_path_factory.mktemp("files")
    for name in ("good.csv", "b.csv"):
        (made / name).write_text(GOOD, encoding="utf-8")
    (made / "one.csv").write_text(GOOD.replace("yes", "no"), encoding="utf-8")
    (made / "real.csv").write_text(csv_text("t,p,0.5", "u,q,1.5", "v,r,2.5"), encoding="utf-8")
    (made / "flat.csv").write_text(csv_text("t,p,0.5", "u,q,0.50"), encoding="utf-8")
    (made / "near.csv").write_text(csv_text("t,p,16777216.5", "u,q,16777216.6"), encoding="utf-8")
    (made / "good.tsv").write_text(GOOD.replace(",", "\t"), encoding="utf-8")
    rows = Dataset.from_list(frame("train", ["no", "yes"]).to_dict("records"))
    DatasetDict({"train": rows, "validation": rows}).save_to_disk(made / "saved")
    DatasetDict({"left": rows, "right": rows}).save_to_disk(made / "odd")
    named = Features({"a": Value("string"), "b": Value("string"), "y": ClassLabel(names=["no", "yes", "maybe"])})
    Dataset.from_list(frame("train", [0, 2]).to_dict("records"), features=named).save_to_disk(made / "named")
    DatasetDict({"train": rows, "dev": rows}).save_to_disk(made / "halves")
    frame("train", ["no"]).iloc[:0].to_parquet(made / "none.parquet")
    (made / "huge.jsonl").write_text(json_lines(f'"y": 1{"0" * 400}'), encoding="utf-8")
    rows.save_to_disk(made / "single")
    lists = Features({"a": List(Value("string")), "b": Value("string"), "y": Value("string")})
    listed = [{"a": ["x"], "b": "p", "y": label} for label in ("no", "yes")]
    Dataset.from_list(listed, features=lists).to_parquet(made / "lists.parquet")
    return made


KINDS = "a split is a folder, or files of one of the kinds"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (None, "data.files: names none; must name train, and validation or a labelled test"),
        ("good.csv", "data.files=good.csv: is one split alone"),
        ("single", "data.files=single: is one split alone"),
        ({"train": "good.csv"}, "data.files: names train; must name train, and validation"),
        ({"train": "good.csv", "dev": "b.csv"}, "data.files: names train, dev"),
        ({"train": "good.csv", "validation": "good.csv"}, "train and validation are both good.csv"),
        ({"train": "nowhere.csv", "validation": "b.csv"}, "data.files.train=nowhere.csv: there is no such file"),
        ({"train": "x*.csv", "validation": "b.csv"}, "data.files.train=x*.csv: there is no such file"),
        (
            {"train": ["good.csv", "b.csv"], "validation": "b.csv"},
            "data.files.train: got ['good.csv', 'b.csv']",
        ),
        ({"train": "s*", "validation": "b.csv"}, f"saved and single: {KINDS}"),
        ({"train": "good.*", "validation": "b.csv"}, f"good.csv and good.tsv: {KINDS}"),
        ("odd", "odd: no split 'train', there are left, right; name it, as in 'task.hub_splits={train: left}'"),
        (
            "halves",
            "halves: no split 'validation', there are train, dev; name it, as in 'task.hub_splits={validation: dev}'",
        ),
        ({"train": "none.parquet", "validation": "b.csv"}, "none.parquet: has no rows"),
        ({"train": "lists.parquet", "validation": "b.csv"}, "row 0 (from 0): a is ['x'], text expected"),
        ({"train": "good.csv", "test": "b.csv"}, "protocol=paper: task own has no validation split"),
    ],
)
def test_wrong_files_are_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch, files: Any, says: str) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(UserError) as refused:
        loaded(described(files))
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ({"files": "saved", "hub_splits": {"validation": "train"}}, "train and validation are both saved"),
        ({"files": {"train": "saved", "validation": "b.csv"}, "hub_splits": {"train": "all"}}, "{train: train}'"),
        ({"files": {"train": "one.csv", "validation": "b.csv"}, "labels": ["no", "yes"]}, "has one label in every row"),
        ({"text": []}, "data.text: got []"),
        ({"text": ["a", "b", "y"]}, "data.text: got [a, b, y]"),
        ({"label": None}, "data.label=null"),
        ({"quoting": "no"}, "task.quoting: got 'no'"),
        ({"labels": ["no"]}, "task.labels: got no, must be two different"),
        ({"labels": ["no", "yes"], "score_range": [0, 1]}, "without task.score_range"),
        ({"labels": ["yes", "good"]}, "label 'no' is not one of yes, good"),
        ({"score_range": [5]}, "task.score_range: got [5.0], must be the lowest and the highest target"),
        ({"score_range": [0, 5, 9]}, "task.score_range: got [0.0, 5.0, 9.0], must be"),
        ({"score_range": [5, 0]}, "task.score_range: got [5.0, 0.0], must be"),
        ({"name": "rte"}, "task.name: rte is a task of conf/task, whose records stand there; give another name"),
        ({"labels": [False, True]}, "label 'no' is not one of false, true (YAML reads yes, no, on, off as true, false"),
        ({"score_range": [0, 1]}, "score 'no' is not a number from 0 to 1"),
        (
            {"files": {"train": "huge.jsonl", "validation": "b.csv"}, "score_range": [0, 5]},
            "0000000... is not a number from 0 to 5",
        ),
        (
            {"files": {"train": "good.csv", "validation": "named"}},
            "named: its classes are no, yes, maybe, those of the task no, yes; take the data set that the task names, "
            "or give all of them, as in 'task.labels=[no, yes, maybe]'",
        ),
        ({"files": {"train": "real.csv", "validation": "flat.csv"}}, "flat.csv: column 'y' has the score 0.5 in"),
        (
            {"files": {"train": "near.csv", "validation": "real.csv"}},
            "near.csv: column 'y' has the score 1.67772e+07 in every row, as fp32 has it, with",
        ),
    ],
)
def test_a_wrong_description_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, task: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(UserError) as refused:
        described(**{"files": {"train": "good.csv", "validation": "b.csv"}, **task})
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("train", "second", "says"),
    [
        ("train-*.parquet", GOOD, "train-00001-of-00002.parquet is missing, a shard of train"),
        ("s*.csv", GOOD.replace("a,b,y", "a,c,y"), "s2.csv: column 'b' is missing"),
        ("s*.csv", GOOD + "t,p,\n", "s2.csv:8: no label in column 'y'"),
    ],
)
def test_shards(tmp_path: Path, train: str, second: str, says: str) -> None:
    """One that is missing, one with other columns, a wrong row in the second."""
    write(tmp_path, "parquet-shards", ["no", "yes"], ("train",))
    (tmp_path / "train-00001-of-00002.parquet").unlink()
    for name, content in (("s1", GOOD), ("s2", second), ("dev", GOOD)):
        (tmp_path / f"{name}.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        described({"train": f"{tmp_path}/{train}", "validation": f"{tmp_path}/dev.csv"})
    assert f"{tmp_path}/{says}" in str(refused.value)
