"""The same examples from the official files, a parquet snapshot, save_to_disk and the hub's cache; what is refused."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, disable_progress_bars

from sora.config import DataConfig, ProtocolConfig
from sora.errors import UserError
from sora.tasks import TaskConfig, load, load_task, load_test
from sora.tasks.load import read_official, read_snapshot
from tests.hub_cache import fill
from tests.superglue import FOLDERS, download, numbered
from tests.tasks.test_load import write

PAPER = ProtocolConfig("paper")
SIZES = {"train": 40, "validation": 10, "test": 5}
TASK = replace(load_task("rte"), sizes=SIZES)
NAMES = ["entailment", "not_entailment"]
TEXT, NUMBER = Value("string"), Value("int32")
disable_progress_bars()


def table(rows: list[dict[str, Any]], names: list[str] | None = NAMES) -> Dataset:
    """A data set with the hub's types: texts, numbers, a class or a score."""
    types: dict[str, Any] = {key: NUMBER if isinstance(value, int) else TEXT for key, value in rows[0].items()}
    if "label" in rows[0]:
        types["label"] = ClassLabel(names=names) if names else Value("float32")
    if "entity_spans" in types:
        types |= {"entity_spans": List({"text": TEXT, "start": NUMBER, "end": NUMBER}), "answers": List(TEXT)}
    if isinstance(rows[0].get("idx"), dict):
        types["idx"] = {key: NUMBER for key in reversed(rows[0]["idx"])}  # the order of its keys means nothing
    return Dataset.from_list(rows, features=Features(types))


def rte(labels: list[str] = NAMES) -> DatasetDict:
    """The hub's RTE, small, with the rows of ``write``; classes numbered as in ``labels``."""
    sets = {}
    for split, count in SIZES.items():
        numbers = [labels.index(NAMES[i % 2]) if split != "test" else -1 for i in range(count)]
        file = TASK.files[split].removesuffix(".tsv")
        rows = [{"sentence1": f"{file} {i}", "sentence2": "text", "label": n, "idx": i} for i, n in enumerate(numbers)]
        sets[split] = table(rows, labels)
    return DatasetDict(sets)


def parquet(sets: DatasetDict, folder: Path, config: str = "rte") -> Path:
    """The files of a snapshot of the hub's repository."""
    (folder / config).mkdir(parents=True, exist_ok=True)
    for split, rows in sets.items():
        rows.to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
    return folder


def hub(folder: Path, cache: Path, revision: str = TASK.revision) -> None:
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}
    fill(cache, "nyu-mll/glue", revision, files, "dataset")


def refused(data: DataConfig, task: TaskConfig = TASK) -> str:
    with pytest.raises(UserError) as caught:
        load(task, PAPER, data)
    return str(caught.value)


def test_one_hash_whatever_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal content gives equal examples, so one run id; also when the hub numbers the classes otherwise."""
    sets = rte()
    sets.save_to_disk(tmp_path / "below" / "glue" / "rte")
    parquet(sets, tmp_path / "snapshot")
    parquet(rte(NAMES[::-1]), tmp_path / "reversed")
    shards = tmp_path / "shards" / "glue" / "rte"
    parquet(sets, shards.parent)
    (shards / "train-00000-of-00001.parquet").unlink()
    for number in range(3):
        sets["train"].shard(3, number, contiguous=True).to_parquet(shards / f"train-{number:05d}-of-00003.parquet")
    parquet(DatasetDict({"train": sets["train"].select(range(20))}), tmp_path / "official")  # official files win
    write(tmp_path / "official" / "RTE", {"train": 40, "dev": 10, "test": 5})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hub(tmp_path / "snapshot", tmp_path / "hub")
    hashes = set()
    for place in ("official", "below", "snapshot", "reversed", "shards", None):
        data = DataConfig(str(tmp_path / place) if place else None)
        found, test = load(TASK, PAPER, data), load_test(TASK, data)["test"]
        assert found.splits["report"].source == "RTE/dev.tsv"
        assert test.labels.tolist() == [-1] * 5
        hashes.add((found.sha256, test.digest()))
    assert len(hashes) == 1


@pytest.mark.parametrize("name", ["cola", "mrpc", "stsb"])
def test_real_files_read_as_the_hub_reads_them(name: str, shared: Path, tmp_path: Path) -> None:
    """The hub's parquet was made by a script of the `datasets` library: csv without quoting, idx = its row."""
    task = load_task(name)
    path = shared / "data" / "glue" / task.folder / task.files["validation"]
    columns = {key: value for key, value in task.columns.items() if key in ("text_a", "text_b", "label")}
    with path.open(encoding="utf-8-sig") as file:
        read: Any = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if name == "cola":
            read = [
                dict(zip("0123", row, strict=True)) for row in csv.reader(file, "excel-tab", quoting=csv.QUOTE_NONE)
            ]
        rows = []
        for number, row in enumerate(read):
            values = {task.hub_columns[key]: row[column] for key, column in columns.items()}
            label = values["label"]
            values["label"] = float(label) if task.regression else task.labels.index(label)
            rows.append(values | {"idx": number + 4000 * (name == "mrpc")})  # MRPC's counts another file
    parquet_file = tmp_path / "validation-00000-of-00001.parquet"
    table(rows, [f"class {label}" for label in task.labels] or None).to_parquet(parquet_file)
    found = read_snapshot([parquet_file], task, "validation", "any")
    assert found.digest() == read_official(path, task, "validation", "any").digest()


# -- SuperGLUE: flat rows of what the official files nest -----------------------------------------------------------

CLASSES = {
    "cb": ["entailment", "contradiction", "neutral"],
    "copa": ["choice1", "choice2"],
    "rte_superglue": NAMES,
    **{name: ["False", "True"] for name in ("boolq", "multirc", "wic", "wsc")},
}


def unfolded(name: str, row: dict[str, Any]) -> list[dict[str, Any]]:
    """An official row as rows of the hub, as its loading script made them."""
    for key in ("version", "source"):
        row.pop(key, None)
    if name == "wsc":
        return [row | row.pop("target")]
    if name == "multirc":
        return [
            {
                "paragraph": row["passage"]["text"],
                "question": question["question"],
                "answer": answer["text"],
                "idx": {"paragraph": row["idx"], "question": question["idx"], "answer": answer["idx"]},
                "label": answer.get("label"),
            }
            for question in row["passage"]["questions"]
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


def classed(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row with its label as the number of a class, -1 where it has none."""
    label = row.get("label")
    number = -1 if label is None else label if isinstance(label, int) else CLASSES[name].index(label)
    return row if name == "record" else row | {"label": int(number)}


@pytest.mark.parametrize("name", FOLDERS)
def test_the_examples_of_the_official_files(name: str, tmp_path: Path) -> None:
    task = load_task(name)
    sets = {}
    for split, count in (("train", 12), ("validation", 6), ("test", 5)):
        official = [numbered(name, number, split != "test") for number in range(count)]
        rows = [classed(name, each) for row in official for each in unfolded(name, row)]
        sets[split] = table(rows, CLASSES.get(name))
    flat = DataConfig(str(parquet(DatasetDict(sets), tmp_path / "hub", task.hub_config)), allow_partial=True)
    files = DataConfig(str(download(tmp_path / "official", name)), allow_partial=True)
    first, second = load(task, PAPER, files), load(task, PAPER, flat)
    assert first.sha256 == second.sha256
    assert [each.source for each in first.splits.values()] == [each.source for each in second.splits.values()]
    test, same = load_test(task, files)["test"], load_test(task, flat)["test"]
    assert (test.digest(), test.answers) == (same.digest(), same.answers)
    assert test.idx is not None
    assert same.idx is not None
    assert test.idx.tolist() == same.idx.tolist()


# -- what is refused ---------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("saved", "damage", "says"),
    [
        (
            False,
            lambda f: f.rename(f.with_name("train-00000-of-00002.parquet")),
            "train-00001-of-00002.parquet is",
        ),
        (False, Path.unlink, "train-00000-of-00001.parquet is missing (the train split of task rte"),
        (False, cut, "train-00000-of-00001.parquet: cannot be read ("),
        (True, cut, "/rte/train: cannot be read (Expected to be able to read"),
        (True, Path.unlink, "/rte/train: cannot be read ("),
        (True, lambda f: f.with_name("state.json").write_text("{}"), "/rte/train: cannot be read ("),
    ],
)
def test_a_half_data_set_is_named(tmp_path: Path, saved: bool, damage: Callable[[Path], Any], says: str) -> None:
    rte().save_to_disk(tmp_path / "rte") if saved else parquet(rte(), tmp_path)
    damage(tmp_path / "rte" / ("train/data-00000-of-00001.arrow" if saved else "train-00000-of-00001.parquet"))
    assert says in refused(DataConfig(str(tmp_path)))


ROW = {"sentence1": "a", "sentence2": "b", "label": 0, "idx": 0}


@pytest.mark.parametrize(
    ("rows", "names", "says"),
    [
        ([ROW, ROW | {"sentence1": None}], NAMES, r"row 1 \(from 0\): sentence1 is missing, text expected"),
        ([ROW, ROW | {"label": -1}], NAMES, r"row 1 \(from 0\): no label in column 'label'"),
        ([ROW], ["yes", "no"], "its classes are yes, no, those of the task entailment, not_entailment"),
        ([{"premise": "a", "label": 0}], NAMES, "column 'sentence1', 'sentence2', 'idx' is missing, there are 'label'"),
    ],
)
def test_a_table_of_another_kind_is_refused(rows: Any, names: list[str], says: str, tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    table(rows, names).to_parquet(path)
    with pytest.raises(UserError, match=says):
        read_snapshot([path], TASK, "train", "RTE/train.tsv")


def test_what_the_hub_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    message = refused(DataConfig())
    assert message.startswith("task rte: no rte/train-00000-of-00001.parquet of nyu-mll/glue: HF_HUB_OFFLINE is set, ")
    assert "its cache lacks the repository; fill the hub's cache" in message
    hub(parquet(rte(), tmp_path / "snapshot"), tmp_path / "hub")
    other = replace(TASK, revision="f" * 40)
    assert "its cache has revision bcdcba79d07b, not ffffffffffff (task.revision)" in refused(DataConfig(), other)
    next((tmp_path / "hub").rglob("rte/train-00000-of-00001.parquet")).unlink()
    assert "its cache lacks the file" in refused(DataConfig())
