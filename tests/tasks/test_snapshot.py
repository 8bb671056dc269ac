"""The same examples from the official files, a parquet snapshot, save_to_disk and the hub's cache; what is refused."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, disable_progress_bars, enable_progress_bars

from sora.config import DataConfig, ProtocolConfig
from sora.errors import UserError
from sora.tasks import TaskConfig, load, load_task, load_test
from sora.tasks.load import read_official, read_snapshot
from tests.hub_cache import fill

PAPER = ProtocolConfig("paper")
TASK = replace(load_task("rte"), sizes={"train": 40, "validation": 10, "test": 5})
NAMES = ["entailment", "not_entailment"]


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    disable_progress_bars()
    yield
    enable_progress_bars()


def table(rows: list[dict[str, Any]], names: list[str] | None = NAMES) -> Dataset:
    """A data set with the hub's types: texts, a class or a score, idx."""
    types: dict[str, Any] = {key: Value("string") for key in rows[0]}
    types["label"] = ClassLabel(names=names) if names else Value("float32")
    if "idx" in types:
        types["idx"] = Value("int32")
    return Dataset.from_list(rows, features=Features(types))


def rte(labels: list[str] = NAMES) -> DatasetDict:
    """The hub's RTE, small: 40, 10 and 5 rows; classes numbered as in ``labels``."""

    def rows(split: str, count: int) -> list[dict[str, Any]]:
        numbers = [labels.index(NAMES[i % 2]) if split != "test" else -1 for i in range(count)]
        return [
            {"sentence1": f"{split} {i}", "sentence2": "texte “…”", "label": number, "idx": i}
            for i, number in enumerate(numbers)
        ]

    counts = {"train": 40, "validation": 10, "test": 5}
    return DatasetDict({split: table(rows(split, count), labels) for split, count in counts.items()})


def parquet(sets: DatasetDict, folder: Path, config: str = "rte") -> Path:
    """The files of a snapshot of the hub's repository."""
    (folder / config).mkdir(parents=True, exist_ok=True)
    for split, rows in sets.items():
        rows.to_parquet(folder / config / f"{split}-00000-of-00001.parquet")
    return folder


def official(sets: DatasetDict, folder: Path) -> Path:
    """The same as tab-separated files."""
    (folder / "RTE").mkdir(parents=True)
    for split, name in TASK.files.items():
        lines = ["index\tsentence1\tsentence2" + ("\tlabel" if split != "test" else "")]
        for row in sets[split]:
            last = [NAMES[row["label"]]] if split != "test" else []
            lines.append("\t".join([str(row["idx"]), row["sentence1"], row["sentence2"], *last]))
        (folder / "RTE" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
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
    sets.save_to_disk(tmp_path / "saved" / "rte")
    sets.save_to_disk(tmp_path / "below" / "glue" / "rte")
    parquet(sets, tmp_path / "snapshot")
    parquet(rte(NAMES[::-1]), tmp_path / "reversed")
    shards = tmp_path / "shards" / "glue" / "rte"
    parquet(sets, shards.parent)
    (shards / "train-00000-of-00001.parquet").unlink()
    for number in range(3):
        sets["train"].shard(3, number, contiguous=True).to_parquet(shards / f"train-{number:05d}-of-00003.parquet")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hub(tmp_path / "snapshot", tmp_path / "hub")
    expected = load(TASK, PAPER, DataConfig(str(official(sets, tmp_path / "official"))))
    assert expected.splits["report"].source == "RTE/dev.tsv"
    for place in ("saved", "below", "snapshot", "reversed", "shards", None):
        found = load(TASK, PAPER, DataConfig(str(tmp_path / place) if place else None))
        assert found.sha256 == expected.sha256, place
        assert found.splits["report"].source == "RTE/dev.tsv"
        test = load_test(TASK, DataConfig(str(tmp_path / place) if place else None))["test"]
        assert test.labels.tolist() == [-1] * 5
        assert test.texts[0] == [f"test {i}" for i in range(5)]


def test_official_files_win_where_both_lie(tmp_path: Path) -> None:
    official(rte(), tmp_path)
    other = rte()
    other["train"] = other["train"].select(range(20))
    parquet(other, tmp_path)
    assert load(TASK, PAPER, DataConfig(str(tmp_path))).sizes["train"] == 40


@pytest.mark.parametrize("name", ["rte", "cola", "mrpc", "stsb", "qqp"])
def test_real_files_read_as_the_hub_reads_them(name: str, shared: Path, tmp_path: Path) -> None:
    """The hub's parquet was made by a script of the `datasets` library: csv without quoting, idx = its row."""
    task = load_task(name)
    path = shared / "data" / "glue" / task.folder / task.files["validation"]
    columns = {key: value for key, value in task.columns.items() if key in ("text_a", "text_b", "label")}
    with path.open(encoding="utf-8-sig") as file:
        if name == "cola":
            read: Any = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            columns = {key: int(value) for key, value in columns.items()}  # type: ignore[misc]
        else:
            read = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        rows = []
        for number, row in enumerate(read):
            values = {task.hub_columns[key]: row[column] for key, column in columns.items()}
            if None in values.values():
                continue
            label = values["label"]
            values["label"] = float(label) if task.regression else task.labels.index(label)
            rows.append(values | {"idx": number + 4000 * (name == "mrpc")})  # MRPC's counts another file
    path_of_parquet = tmp_path / "validation-00000-of-00001.parquet"
    names = [f"class {label}" if label.isdecimal() else label for label in task.labels]
    table(rows, names or None).to_parquet(path_of_parquet)
    found = read_snapshot([path_of_parquet], task, "validation", f"{task.folder}/{path.name}")
    expected = read_official(path, task, "validation", f"{task.folder}/{path.name}")
    assert found.digest() == expected.digest()
    assert found.source == expected.source


# -- what is refused ---------------------------------------------------------------------------------------------


def test_a_half_downloaded_snapshot_is_named(tmp_path: Path) -> None:
    parquet(rte(), tmp_path)
    path = tmp_path / "rte" / "train-00000-of-00001.parquet"
    path.rename(path.with_name("train-00000-of-00002.parquet"))
    assert refused(DataConfig(str(tmp_path))).startswith(f"{tmp_path}/rte/train-00001-of-00002.parquet is missing")
    path.with_name("train-00000-of-00002.parquet").unlink()
    assert refused(DataConfig(str(tmp_path))).startswith(f"{path} is missing (the train split of task rte")
    path.write_bytes((tmp_path / "rte" / "validation-00000-of-00001.parquet").read_bytes()[:300])
    assert refused(DataConfig(str(tmp_path))).startswith(f"{path}: cannot be read (")


def test_a_half_saved_data_set_is_named(tmp_path: Path) -> None:
    rte().save_to_disk(tmp_path / "rte")
    arrow = tmp_path / "rte" / "train" / "data-00000-of-00001.arrow"
    content = arrow.read_bytes()
    arrow.write_bytes(content[: len(content) // 2])
    assert refused(DataConfig(str(tmp_path))).startswith(f"{arrow.parent}: cannot be read (Expected to be able to read")
    arrow.unlink()
    assert refused(DataConfig(str(tmp_path))).startswith(f"{arrow.parent}: cannot be read (")
    arrow.write_bytes(content)
    assert "40 expected" not in load(TASK, PAPER, DataConfig(str(tmp_path))).partial
    (arrow.parent / "state.json").write_text("{}")
    assert refused(DataConfig(str(tmp_path))).startswith(f"{arrow.parent}: cannot be read (")


ROWS = [{"sentence1": "a", "sentence2": "b", "label": 0, "idx": 0}]


@pytest.mark.parametrize(
    ("rows", "names", "says"),
    [
        ([ROWS[0] | {"sentence2": " "}], NAMES, r"row 0 \(from 0\): sentence2 is empty"),
        ([ROWS[0] | {"sentence1": None}], NAMES, r"row 0 \(from 0\): sentence1 is missing, text expected"),
        ([*ROWS, ROWS[0] | {"label": -1}], NAMES, r"row 1 \(from 0\): no label in column 'label'"),
        (ROWS, ["yes", "no"], "its classes are yes, no, those of the task entailment, not_entailment"),
        (
            [{"premise": "a", "sentence2": "b", "label": 0}],
            NAMES,
            "column 'sentence1', 'idx' is missing, there are 'sent",
        ),
    ],
)
def test_a_table_of_another_kind_is_refused(rows: Any, names: list[str], says: str, tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    table(rows, names).to_parquet(path)
    with pytest.raises(UserError, match=says):
        read_snapshot([path], TASK, "train", "RTE/train.tsv")


def test_scores_outside_their_range_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    table([ROWS[0] | {"label": 3.25}, ROWS[0] | {"label": 5.5}], None).to_parquet(path)
    with pytest.raises(UserError, match=r"row 1 \(from 0\): score 5.5 is not a number from 0 to 5"):
        read_snapshot([path], load_task("stsb"), "train", "STS-B/train.tsv")
    table([ROWS[0] | {"label": 3.25}], None).to_parquet(path)
    found = read_snapshot([path], load_task("stsb"), "train", "STS-B/train.tsv")
    assert found.labels.dtype == np.float32
    assert found.labels.tolist() == [3.25]


def test_what_the_hub_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    message = refused(DataConfig())
    assert message.startswith(
        "task rte: no rte/train-00000-of-00001.parquet of nyu-mll/glue: HF_HUB_OFFLINE is set, and "
    )
    assert "its cache lacks the repository; fill the hub's cache" in message
    assert "data.dir=FOLDER, or the variable SORA_DATA" in message
    hub(parquet(rte(), tmp_path / "snapshot"), tmp_path / "hub")
    other = replace(TASK, revision="f" * 40)
    assert "its cache has revision bcdcba79d07b, not ffffffffffff (task.revision)" in refused(DataConfig(), other)
    next((tmp_path / "hub").rglob("rte/train-00000-of-00001.parquet")).unlink()
    assert "its cache lacks the file" in refused(DataConfig())
