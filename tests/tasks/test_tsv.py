"""Reading the official files: their quirks, and what is said about a broken one."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sora.errors import UserError
from sora.tasks.examples import Examples
from sora.tasks.load import read_official
from sora.tasks.spec import load_task

RTE_HEADER = "index\tsentence1\tsentence2\tlabel\n"


def read(tmp_path: Path, name: str, content: str | bytes, split: str = "train", **changes: object) -> Examples:
    path = tmp_path / f"{split}.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return read_official(path, replace(load_task(name), **changes), split, f"{name}/{path.name}")


def refused(tmp_path: Path, name: str, content: str | bytes, split: str = "train") -> str:
    with pytest.raises(UserError) as caught:
        read(tmp_path, name, content, split)
    return str(caught.value)


def test_cola_has_no_header(tmp_path: Path) -> None:
    found = read(tmp_path, "cola", "gj04\t1\t\tThey laughed.\ngj04\t0\t*\tThey laughed him.\n")
    assert found.texts == (["They laughed.", "They laughed him."],)
    assert found.labels.tolist() == [1, 0]
    assert found.ids.tolist() == [0, 1]


def test_cola_test_file_has_a_header(tmp_path: Path) -> None:
    found = read(tmp_path, "cola", "index\tsentence\n0\tBill left.\n1\tLeft Bill.\n", "test")
    assert found.texts == (["Bill left.", "Left Bill."],)
    assert found.labels.tolist() == [-1, -1]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_byte_order_mark_and_line_ends_do_not_matter(tmp_path: Path, mark: bytes, end: bytes) -> None:
    lines = [b"Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t7\t8\tUn café.\tUn thé.".encode()]
    found = read(tmp_path, "mrpc", mark + end.join(lines) + end)
    assert found.texts == (["Un café."], ["Un thé."])
    assert found.labels.tolist() == [1]


def test_quotes_are_text(tmp_path: Path) -> None:
    rows = '0\t"It opened.\tA "b\tentailment\n1\tc"\t""d""\tnot_entailment\n'
    found = read(tmp_path, "rte", RTE_HEADER + rows)
    assert found.texts == (['"It opened.', 'c"'], ['A "b', '""d""'])


def test_spaces_and_unusual_separators_stay(tmp_path: Path) -> None:
    found = read(tmp_path, "rte", RTE_HEADER + "0\t a\u2028b \tc\x0bd\x85\tentailment\n")
    assert found.texts == ([" a\u2028b "], ["c\x0bd\x85"])


@pytest.mark.parametrize("extra", [["label1"], ["label1", "label2", "label3", "label4", "label5"]])
def test_mnli_columns_are_found_by_name(tmp_path: Path, extra: list[str]) -> None:
    header = ["index", "sentence1", "sentence2", *extra, "gold_label"]
    row = ["0", "A premise.", "A claim.", *["neutral"] * len(extra), "contradiction"]
    found = read(tmp_path, "mnli", "\t".join(header) + "\n" + "\t".join(row) + "\n")
    assert found.texts == (["A premise."], ["A claim."])
    assert found.labels.tolist() == [2]


def test_test_split_has_no_labels(tmp_path: Path) -> None:
    found = read(tmp_path, "stsb", "index\tsentence1\tsentence2\n0\ta\tb\n", "test")
    assert found.labels.dtype == np.float32
    assert np.isnan(found.labels).all()
    assert read(tmp_path, "rte", "index\tsentence1\tsentence2\n0\ta\tb\n", "test").labels.tolist() == [-1]


def test_short_rows_of_qqp_are_left_out_and_counted_in_ids(tmp_path: Path) -> None:
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    rows = "0\t1\t2\tA?\tB?\t1\n1\t3\t4\tbroken by\na line break?\tC?\t0\n3\t5\t6\tD?\tE?\t0\n"
    found = read(tmp_path, "qqp", header + rows)
    assert found.texts == (["A?", "D?"], ["B?", "E?"])
    assert found.ids.tolist() == [0, 3]
    assert "train.tsv:2: 7 columns where 6" in refused(tmp_path, "qqp", header + "0\t1\t2\tA?\tB?\t1\t9\n")


@pytest.mark.parametrize(
    ("rows", "line", "says"),
    [
        ("0\ta\tb\tentailment\n1\tc\tentailment\n", 3, "3 columns where 4"),
        ("0\ta\tb\tentailment\textra\n", 2, "5 columns where 4"),
        ("0\ta\tb\tmaybe\n", 2, "label 'maybe' is not one of entailment, not_entailment"),
        ("0\ta\tb\tentailment\n1\t \tb\tentailment\n", 3, "sentence1 is empty"),
        ("0\ta\tb\tentailment\n\n1\tc\td\tentailment\n", 3, "0 columns where 4"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: str, line: int, says: str) -> None:
    message = refused(tmp_path, "rte", RTE_HEADER + rows)
    assert f"{tmp_path / 'train.tsv'}:{line}: " in message
    assert says in message


def test_blank_lines_at_the_end_are_fine(tmp_path: Path) -> None:
    assert len(read(tmp_path, "rte", RTE_HEADER + "0\ta\tb\tentailment\n\n\n")) == 1


def test_empty_text_is_kept_where_the_task_says_so(tmp_path: Path) -> None:
    found = read(tmp_path, "qnli", "index\tquestion\tsentence\tlabel\n0\t\tb\tentailment\n")
    assert found.texts[0] == [""]


@pytest.mark.parametrize("value", ["5.001", "-0.1", "nan", "inf", "high", ""])
def test_a_bad_score_is_named(tmp_path: Path, value: str) -> None:
    message = refused(tmp_path, "stsb", f"index\tsentence1\tsentence2\tscore\n0\ta\tb\t{value}\n")
    assert f"train.tsv:2: score {value!r} is not a number from 0 to 5" in message


@pytest.mark.parametrize("content", ["", "index\tpremise\thypothesis\tlabel\n"])
def test_a_missing_column_is_named(tmp_path: Path, content: str) -> None:
    assert "column 'sentence1', 'sentence2'" in refused(tmp_path, "rte", content)


@pytest.mark.parametrize("name", ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb"])
def test_every_real_file_has_the_rows_of_the_manifest(shared: Path, name: str) -> None:
    listed = {row["path"]: row for row in json.loads((shared / "data/MANIFEST.json").read_text())["files"]}
    task = load_task(name)
    for split, file in task.files.items():
        row = listed.get(f"glue/{task.folder}/{file}")
        if row is None:
            continue
        found = read_official(shared / "data/glue" / task.folder / file, task, split, file)
        assert len(found) == row["rows"]
        assert task.sizes[split] == row["official_rows"]
        assert (len(found) == task.sizes[split]) == row["complete"]
        if row["label_counts"] and not split.startswith("test"):
            assert Counter(task.labels[i] for i in found.labels) == row["label_counts"]
        assert all(text.strip() for column in found.texts for text in column)


def test_stsb_scores(shared: Path) -> None:
    task = load_task("stsb")
    found = read_official(shared / "data/glue/STS-B/dev.tsv", task, "validation", "STS-B/dev.tsv")
    assert found.labels.dtype == np.float32
    assert (found.labels.min(), found.labels.max()) == (0.0, 5.0)
    first = (shared / "data/glue/STS-B/dev.tsv").read_text(encoding="utf-8").split("\n")[1].split("\t")
    assert [column[0] for column in found.texts] == first[7:9]
