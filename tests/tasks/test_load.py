"""From a task's name to its splits: folders, counts, what is partial, and the hash that enters the run id."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sora.config import DataConfig, ProtocolConfig
from sora.errors import UserError
from sora.tasks import TaskConfig, load, load_task, load_test
from sora.tasks.splits import count_rows
from tests.conftest import ROOT

HEADER = "index\tsentence1\tsentence2\tlabel\n"
PAPER = ProtocolConfig("paper")


def write(folder: Path, rows: dict[str, int]) -> None:
    """RTE-like files; ``rows`` are their numbers of examples."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in rows.items():
        labels = ("entailment", "not_entailment")
        lines = [f"{i}\t{split} {i}\ttext\t{labels[i % 2]}\n" for i in range(count)]
        (folder / f"{split}.tsv").write_text(HEADER + "".join(lines))


@pytest.fixture
def rte(tmp_path: Path) -> tuple[TaskConfig, DataConfig]:
    """A complete task of 40 training and 10 validation examples."""
    write(tmp_path / "RTE", {"train": 40, "dev": 10})
    return replace(load_task("rte"), sizes={"train": 40, "validation": 10, "test": 5}), DataConfig(str(tmp_path))


@pytest.mark.parametrize("parent", ["", "glue"])
@pytest.mark.parametrize("variable", [None, "", "/nowhere"])
def test_the_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parent: str, variable: str | None
) -> None:
    """By the variable, or by data.dir, which wins."""
    write(tmp_path / parent / "RTE", {"train": 40, "dev": 10})
    task = replace(load_task("rte"), sizes={"train": 40, "validation": 10})
    if variable is not None:
        monkeypatch.setenv("SORA_DATA", variable or str(tmp_path))
    found = load(task, PAPER, DataConfig(None if variable == "" else str(tmp_path)))
    assert found.sizes == {"train": 40, "select": 5, "report": 5, "train_subset": 40}
    assert found.partial == {}
    assert (found.splits["train"].source, found.splits["report"].source) == ("RTE/train.tsv", "RTE/dev.tsv")


def refused(task: TaskConfig, data: DataConfig) -> str:
    with pytest.raises(UserError) as caught:
        load(task, PAPER, data)
    return str(caught.value)


def _renamed(folder: Path) -> None:
    for path in (folder / "RTE").iterdir():
        path.rename(path.with_name(f"rte-{path.name}"))


@pytest.mark.parametrize(
    ("changes", "damage", "says"),
    [
        ({"spans": "vectors"}, None, "task.spans: got 'vectors', but task=rte has no marked words"),
        ({"scoring": "choices"}, None, "task.scoring: got 'choices', but task=rte has no choices and no questions"),
        ({"columns": {"text_a": "sentence1", "label": "label"}, "truncate": "text_a"}, None, "task=rte has one text"),
        ({"labels": ["entailment"]}, None, "task.labels: got ['entailment'], but task=rte has one label in all"),
        ({"files": dict.fromkeys(("train", "validation"), "train.tsv")}, None, "must name a file of its own for each"),
        ({"files": {"train": "train.tsv"}}, None, "must name a file of its own for each of train, validation"),
        ({"sizes": {"train": 40}}, None, "and task.sizes the number of its examples"),
        ({}, lambda f: (f / "RTE/dev.tsv").unlink(), "RTE/dev.tsv is missing (the validation split of task rte)"),
        ({}, _renamed, "RTE/train.tsv is missing (the train split of task rte)"),
        ({}, lambda f: (f / "RTE").rename(f / "RTEs"), "no folder for task rte; looked for {0}/RTE and {0}/glue/RTE"),
        ({}, lambda f: (f / "RTE").rename(f / "RTEs"), "did you mean RTEs?"),
        ({}, lambda f: write(f / "RTE", {"train": 39}), "RTE/train.tsv: 40 expected, 39 found"),
        ({}, lambda f: write(f / "RTE", {"train": 41}), "set data.allow_partial=true"),
        ({}, lambda f: write(f / "RTE", {"train": 0}), "40 expected, 0 found"),
    ],
)
def test_what_is_not_as_described_is_refused(
    rte: tuple[TaskConfig, DataConfig], changes: dict[str, Any], damage: Callable[[Path], Any] | None, says: str
) -> None:
    task, data = replace(rte[0], **changes), rte[1]
    if damage is not None:
        damage(Path(str(data.dir)))
    assert says.format(data.dir) in refused(task, data)
    if "0 found" in says:  # nothing is no part of something
        assert says in refused(task, replace(data, allow_partial=True))


def test_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(replace(load_task("rte"), hub=""), DataConfig())
    assert "neither data.dir nor the variable SORA_DATA is set" in message
    assert "https://gluebenchmark.com/tasks" in message
    monkeypatch.setenv("SORA_DATA", "/nowhere")
    assert refused(load_task("rte"), DataConfig()).startswith("SORA_DATA=/nowhere: no folder for task rte")


@pytest.mark.parametrize("found", [39, 41])
def test_other_counts_may_be_allowed(rte: tuple[TaskConfig, DataConfig], found: int) -> None:
    task, data = rte
    write(Path(str(data.dir)) / "RTE", {"train": found})
    allowed = load(task, PAPER, replace(data, allow_partial=True))
    assert allowed.partial == {"train": f"40 expected, {found} found"}
    assert allowed.sizes["train"] == found


def test_an_unknown_task_or_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose one of ax, axb, axg, boolq"):
        load_task("rt")
    (tmp_path / "odd.yaml").write_text("name: odd\ncolour: red\n")
    with pytest.raises(UserError, match=r"task\.colour: no such key"):
        load_task("odd", tmp_path)


def test_the_test_file_is_only_read_when_asked_for(rte: tuple[TaskConfig, DataConfig]) -> None:
    task, data = rte
    path = Path(str(data.dir)) / "RTE" / "test.tsv"
    path.write_text("not a table")
    load(task, PAPER, data)
    path.write_text("index\tsentence1\tsentence2\n" + "".join(f"{i}\ta\tb\n" for i in range(5)))
    found = load_test(task, data)
    assert list(found) == ["test"]
    assert found["test"].labels.tolist() == [-1] * 5


def test_a_synthetic_task_has_no_test_split_and_needs_no_folder() -> None:
    task = load_task("synthetic_single")
    found = load(task, PAPER, DataConfig())
    assert found.sizes == {"train": 3000, "select": 400, "report": 400, "train_subset": 1000}
    with pytest.raises(UserError, match="has no test split"):
        load_test(task, DataConfig())
    for wrong, says in (({"sizes": {"train": 40}}, "{'train': 40}"), ({"generator": ""}, "got '' with")):
        message = refused(replace(task, **wrong), DataConfig())
        assert says in message
        assert message.endswith(
            "must be one of pair, single, graded, with the number of examples of train and validation"
        )


def test_the_hash_knows_content_and_protocol_but_not_the_folder(
    rte: tuple[TaskConfig, DataConfig], tmp_path: Path
) -> None:
    task, data = rte
    first = load(task, PAPER, data).sha256
    write(tmp_path / "copy/glue/RTE", {"train": 40, "dev": 10})
    copy = DataConfig(str(tmp_path / "copy"))
    assert load(task, PAPER, copy).sha256 == first
    hashes = {load(task, ProtocolConfig(name), copy).sha256 for name in ("paper", "dev", "holdout")}
    assert len(hashes) == 3
    path = tmp_path / "copy/glue/RTE/dev.tsv"
    path.write_text(path.read_text().replace("dev 3", "dev 33"))
    assert load(task, PAPER, copy).sha256 != first


GLUE = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")
SUPERGLUE = ("boolq", "cb", "copa", "multirc", "record", "rte_superglue", "wic", "wsc")


@pytest.mark.parametrize("name", [*GLUE, *SUPERGLUE])
def test_every_real_file_has_the_rows_that_are_listed(shared: Path, name: str) -> None:
    """Rows and labels of each split; what is not whole is named."""
    listed = {row["path"]: row for row in json.loads((shared / "data/MANIFEST.json").read_text())["files"]}
    task, data = load_task(name), DataConfig(str(shared / "data"), allow_partial=True)
    found = load(task, ProtocolConfig("dev"), data)
    splits = {"train": found.splits["train"], "validation": found.splits["report"]}
    if name == "mnli":
        splits["validation_mm"] = found.splits["report_mm"]
    if name not in ("mnli", "qqp"):  # whose test files are not there
        splits |= load_test(task, data)
    for split, examples in splits.items():
        row = listed[f"{task.benchmark}/{task.folder}/{task.files[split]}"]
        assert (count_rows(examples), task.sizes[split]) == (row["rows"], row["official_rows"])
        if split == "test":
            assert (examples.labels < 0).all() if task.labels else (examples.labels != examples.labels).all()
            continue
        assert (split in found.partial) != row["complete"]
        if row.get("label_counts"):
            counts = {label.lower(): count for label, count in row["label_counts"].items()}
            assert Counter(task.labels[i] for i in examples.labels) == counts
    if name == "multirc":
        assert {split: len(examples) for split, examples in splits.items()} == task.items


@pytest.mark.parametrize("name", [name for name in SUPERGLUE if name not in ("boolq", "record")])
def test_superglues_official_files_are_taken_whole(shared: Path, name: str) -> None:
    """Without allow_partial, by the paper's halves. Of BoolQ and ReCoRD the real data are samples."""
    listed = {row["path"]: row for row in json.loads((shared / "data/MANIFEST.json").read_text())["files"]}
    task = load_task(name)
    found = load(task, PAPER, DataConfig(str(shared / "data")))
    assert found.partial == {}
    rows = {split: count_rows(examples) for split, examples in found.splits.items()}
    train, held = (listed[f"superglue/{task.folder}/{file}.jsonl"]["official_rows"] for file in ("train", "val"))
    assert (rows["train"], rows["select"], rows["report"]) == (train, held // 2, held - held // 2)


@pytest.mark.parametrize(
    ("protocol", "split", "other", "shared_sentences"),
    [("paper", "report", "select", 32), ("holdout", "select", "train", 39)],
)
def test_sentences_of_wsc_that_two_splits_share(
    shared: Path, protocol: str, split: str, other: str, shared_sentences: int
) -> None:
    """The counts of docs/tasks.md."""
    found = load(load_task("wsc"), ProtocolConfig(protocol), DataConfig(str(shared / "data"))).splits
    texts = {name: [" ".join(text.split()) for text in found[name].texts[0]] for name in (split, other)}
    assert sum(text in texts[other] for text in texts[split]) == shared_sentences
    page = " ".join((ROOT / "docs" / "tasks.md").read_text(encoding="utf-8").split())
    assert f"{shared_sentences} of the {len(texts[split])} {split} examples of `{protocol}`" in page
