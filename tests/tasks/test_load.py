"""From a task's name to its splits: folders, counts, what is partial, and the hash that enters the run id."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sora.config import DataConfig, ProtocolConfig
from sora.errors import UserError
from sora.tasks import TaskConfig, TaskData, load, load_task, load_test
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


def refused(task: TaskConfig, data: DataConfig, protocol: ProtocolConfig = PAPER) -> str:
    with pytest.raises(UserError) as caught:
        load(task, protocol, data)
    return str(caught.value)


def test_no_folder_given_for_a_task_that_the_hub_does_not_have() -> None:
    message = refused(replace(load_task("rte"), hub=""), DataConfig())
    assert "neither data.dir nor the variable SORA_DATA is set" in message
    assert "https://gluebenchmark.com/tasks" in message


def test_no_such_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = refused(load_task("rte"), DataConfig(str(tmp_path)))
    assert message.startswith(f"data.dir={tmp_path}: no folder for task rte")
    assert str(tmp_path / "RTE") in message
    assert str(tmp_path / "glue" / "RTE") in message
    monkeypatch.setenv("SORA_DATA", str(tmp_path))
    assert refused(load_task("rte"), DataConfig()).startswith(f"SORA_DATA={tmp_path}")


def test_a_folder_of_nearly_the_right_name_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "STSB").mkdir()
    assert "did you mean STSB?" in refused(load_task("stsb"), DataConfig(str(tmp_path)))


def test_a_missing_file_is_named(rte: tuple[TaskConfig, DataConfig]) -> None:
    path = Path(str(rte[1].dir)) / "RTE/dev.tsv"
    path.unlink()
    assert refused(*rte).startswith(f"{path} is missing (the validation split of task rte)")


@pytest.mark.parametrize("found", [0, 39, 41])
def test_wrong_counts_are_refused_unless_allowed(rte: tuple[TaskConfig, DataConfig], found: int) -> None:
    task, data = rte
    write(Path(str(data.dir)) / "RTE", {"train": found})
    message = refused(task, data)
    assert f"RTE/train.tsv: 40 expected, {found} found" in message
    assert "data.allow_partial=true" in message
    if not found:
        assert f"40 expected, {found} found" in refused(task, replace(data, allow_partial=True))
        return
    allowed = load(task, PAPER, replace(data, allow_partial=True))
    assert allowed.partial == {"train": f"40 expected, {found} found"}
    assert allowed.sizes["train"] == found


def test_a_task_without_official_sizes_is_refused(rte: tuple[TaskConfig, DataConfig]) -> None:
    assert "task.sizes: has no validation" in refused(replace(rte[0], sizes={"train": 40}), rte[1])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"spans": "vectors"}, "task.spans: got 'vectors', but task=rte has no marked words"),
        ({"files": {"train": "train.tsv", "validation": "train.tsv"}}, "must name a file of its own for each of train"),
        ({"files": {"train": "train.tsv"}}, "must name a file of its own for each of train, validation"),
    ],
)
def test_a_task_described_wrong_is_refused(
    rte: tuple[TaskConfig, DataConfig], changes: dict[str, Any], says: str
) -> None:
    assert says in refused(replace(rte[0], **changes), rte[1])


def test_an_unknown_task_or_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose one of ax, axb, axg, boolq"):
        load_task("rt")
    (tmp_path / "odd.yaml").write_text("name: odd\ncolour: red\n")
    with pytest.raises(UserError, match=r"task\.colour: no such key"):
        load_task("odd", tmp_path)


def test_the_test_file_is_only_read_when_asked_for(rte: tuple[TaskConfig, DataConfig]) -> None:
    task, data = rte
    folder = Path(str(data.dir)) / "RTE"
    (folder / "test.tsv").write_text("not a table")
    load(task, PAPER, data)
    lines = [f"{i}\ta\tb\n" for i in range(5)]
    (folder / "test.tsv").write_text("index\tsentence1\tsentence2\n" + "".join(lines))
    found = load_test(task, data)
    assert list(found) == ["test"]
    assert found["test"].labels.tolist() == [-1] * 5


def test_a_synthetic_task_has_no_test_split_and_needs_no_folder() -> None:
    task = load_task("synthetic_single")
    found = load(task, PAPER, DataConfig())
    assert found.sizes == {"train": 3000, "select": 400, "report": 400, "train_subset": 1000}
    assert found.partial == {}
    with pytest.raises(UserError, match="has no test split"):
        load_test(task, DataConfig())


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


PARTIAL = {
    "mnli": {
        "train": "392,702 expected, 10,471 found",
        "validation_mm": "9,832 expected, 1,000 found",
    },
    "qnli": {"train": "104,743 expected, 10,293 found"},
    "qqp": {"train": "363,846 expected, 9,309 found", "validation": "40,430 expected, 1,000 found"},
}


@pytest.mark.parametrize("name", ["rte", "sst2"])  # one of each split; the counts of all: test_tsv.py
def test_complete_real_tasks(shared: Path, name: str) -> None:
    task = load_task(name)
    found: TaskData = load(task, PAPER, DataConfig(str(shared / "data")))
    assert found.partial == {}
    validation = task.sizes["validation"]
    if task.paper_split == "halve":
        expected = {"train": task.sizes["train"], "select": validation // 2}
        expected["report"] = validation - validation // 2
    else:
        expected = {"train": task.sizes["train"] - 1000, "select": 1000, "report": validation}
    assert found.sizes == expected | {"train_subset": 1000}
    assert len(load_test(task, DataConfig(str(shared / "data")))["test"]) == task.sizes["test"]


@pytest.mark.parametrize("name", PARTIAL)
def test_partial_real_tasks(shared: Path, name: str) -> None:
    task, data = load_task(name), DataConfig(str(shared / "data"))
    assert "so this is not the complete train split" in refused(task, data)
    found = load(task, PAPER, replace(data, allow_partial=True))
    assert found.partial == PARTIAL[name]
    assert np.isin(found.splits["report"].labels, range(len(task.labels))).all()


@pytest.mark.parametrize(
    ("protocol", "split", "other", "shared_sentences"),
    [("paper", "report", "select", 32), ("holdout", "select", "train", 39)],
)
def test_sentences_of_wsc_that_two_splits_share(
    shared: Path, protocol: str, split: str, other: str, shared_sentences: int
) -> None:
    """The counts of docs/tasks.md. Its texts carry signs around the spans: without them they are the sentences."""
    found = load(load_task("wsc"), ProtocolConfig(protocol), DataConfig(str(shared / "data"))).splits
    texts = {
        name: [" ".join(text.replace("*", "").replace("#", "").split()) for text in found[name].texts[0]]
        for name in (split, other)
    }
    assert sum(text in texts[other] for text in texts[split]) == shared_sentences
    told = " ".join((ROOT / "docs" / "tasks.md").read_text(encoding="utf-8").split())
    assert f"{shared_sentences} of the {len(texts[split])} {split} examples of `{protocol}`" in told
