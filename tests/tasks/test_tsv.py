"""Reading the official files: their quirks, and what is said about a broken one. Real ones: test_load.py."""

from __future__ import annotations

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


def test_cola_has_a_header_in_its_test_file_alone(tmp_path: Path) -> None:
    found = read(tmp_path, "cola", "gj04\t1\t\tThey laughed.\ngj04\t0\t*\tThey laughed him.\n")
    assert found.texts == (["They laughed.", "They laughed him."],)
    assert found.labels.tolist() == [1, 0]
    assert found.ids.tolist() == [0, 1]
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


def test_quotes_spaces_and_unusual_separators_are_text(tmp_path: Path) -> None:
    rows = '0\t"It opened.\tA "b\tentailment\n1\tc"\t""d""\tnot_entailment\n2\t a\u2028b \tc\x0bd\x85\tentailment\n'
    found = read(tmp_path, "rte", RTE_HEADER + rows + "\n\n")  # and blank lines at the end
    assert found.texts == (['"It opened.', 'c"', " a\u2028b "], ['A "b', '""d""', "c\x0bd\x85"])


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


QQP_HEADER = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
STSB_HEADER = "index\tsentence1\tsentence2\tscore\n"


def test_short_rows_of_qqp_are_left_out_and_counted_in_ids(tmp_path: Path) -> None:
    rows = "0\t1\t2\tA?\tB?\t1\n1\t3\t4\tbroken by\na line break?\tC?\t0\n3\t5\t6\tD?\tE?\t0\n"
    found = read(tmp_path, "qqp", QQP_HEADER + rows)
    assert found.texts == (["A?", "D?"], ["B?", "E?"])
    assert found.ids.tolist() == [0, 3]


def test_empty_text_is_kept_where_the_task_says_so(tmp_path: Path) -> None:
    found = read(tmp_path, "qnli", "index\tquestion\tsentence\tlabel\n0\t\tb\tentailment\n")
    assert found.texts[0] == [""]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rte", RTE_HEADER + "0\ta\tb\tentailment\n1\tc\tentailment\n", "train.tsv:3: 3 columns where 4"),
        ("qqp", QQP_HEADER + "0\t1\t2\tA?\tB?\t1\t9\n", "train.tsv:2: 7 columns where 6"),
        ("rte", RTE_HEADER + "0\ta\tb\tentailment\n\n1\tc\td\tentailment\n", "train.tsv:3: 0 columns where 4"),
        ("rte", RTE_HEADER + "0\ta\tb\tmaybe\n", "train.tsv:2: label 'maybe' is not one of entailment, not_entailment"),
        ("rte", RTE_HEADER + "0\ta\tb\tentailment\n1\t \tb\tentailment\n", "train.tsv:3: sentence1 is empty"),
        ("stsb", STSB_HEADER + "0\ta\tb\t5\n1\ta\tb\t5.001\n", ":3: score '5.001' is not a number from 0 to 5"),
        ("stsb", STSB_HEADER + "0\ta\tb\tnan\n", "train.tsv:2: score 'nan' is not a number from 0 to 5"),
        ("rte", "index\tpremise\thypothesis\tlabel\n", "train.tsv: column 'sentence1', 'sentence2' is missing"),
        (
            "rte",
            (RTE_HEADER + "0\ta\tcaf\xe9\t").encode("latin-1"),
            "train.tsv:2: not UTF-8 ('utf-8' codec can't decode",
        ),
        ("rte", RTE_HEADER.encode("utf-16"), "train.tsv:1: not UTF-8 ("),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    with pytest.raises(UserError) as refused:
        read(tmp_path, name, content)
    assert str(refused.value).startswith(str(tmp_path))
    assert says in str(refused.value)
