"""Readers of what others may have sent: a right answer or one clear sentence, whatever the bytes are."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sora.config import TaskConfig
from sora.errors import UserError
from sora.files import is_inside, is_name
from sora.runs import manifest as studies
from sora.runs import records
from sora.tasks.load import read_official
from sora.tasks.spec import load_task
from tests import composing, tiny

fuzz = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
HOSTILE = [
    b"[" * 200_000,
    b'{"a":' * 50_000,
    b"NaN",
    b'{"schema": 1e999}',
    b'{"schema": "\\ud800"}',
    b"\xff\xfe{}",
    b"",
    b"[]",
]


def attempt(read: Any, *arguments: Any) -> tuple[Any, str | None]:
    """The answer of a reader, or the text of its UserError."""
    try:
        return read(*arguments), None
    except UserError as error:
        return None, str(error)


# -- records ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", HOSTILE, ids=lambda content: repr(content[:12]))
def test_no_content_of_a_record_is_a_traceback(content, tmp_path):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    for read in (records.read, studies.read):
        with pytest.raises(UserError, match=r"record\.json"):
            read(path)


def test_arrays_with_a_changed_byte_are_the_same_or_refused(tmp_path):
    path = tmp_path / "record.json"
    records.write(path, composing.record(), composing.arrays())
    file = path.with_suffix(".npz")
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        for content in (whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :], whole[:place]):
            file.write_bytes(content)
            found, refused = attempt(records.read_arrays, path)
            if refused is None:
                assert records.arrays_digest(found) == records.arrays_digest(composing.arrays())
            else:
                assert str(file) in refused


class Bomb:
    """Unpickled, it would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "record.json"
    records.write(path, composing.record(), composing.arrays())
    bomb = Bomb(tmp_path / "exploded")
    np.savez(path.with_suffix(".npz"), report_logits=np.array([bomb], dtype=object))
    with pytest.raises(UserError, match="cannot be read"):
        records.read_arrays(path)
    path.with_suffix(".npz").write_bytes(pickle.dumps(bomb))
    with pytest.raises(UserError, match="cannot be read"):
        records.read_arrays(path)
    assert not bomb.trace.exists()


# -- names and places ------------------------------------------------------------------------------------------

OUTSIDE = ["../x", "a/../../x", "/etc/passwd", "..", "a\\..\\x", "a\0b"]


@pytest.mark.parametrize("text", [*OUTSIDE, "", ".hidden", "a b", "<b>", "a" * 101, "a\n"])
def test_what_is_no_name_is_refused_in_records_and_configurations(text, tmp_path):
    assert not is_name(text)
    record = composing.record()
    record["config"]["task"] = record["config"]["task"] | {"name": text}
    with pytest.raises(UserError, match=r"config\.task\.name"):
        records.validate(record, "file")
    with pytest.raises(UserError, match=r"task\.name"):
        tiny.runs(task={"name": text})
    with pytest.raises(UserError, match=r"backbone\.name"):
        tiny.runs(backbone={"name": text})


@pytest.mark.parametrize("place", OUTSIDE)
def test_data_files_are_looked_for_in_their_folder_alone(place):
    assert not is_inside(place)
    with pytest.raises(UserError, match=r"task\.folder"):
        tiny.runs(task={"folder": place})
    with pytest.raises(UserError, match=r"task\.files\.train"):
        tiny.runs(task={"reader": "tsv", "files": {"train": place}})


@given(st.lists(st.sampled_from(["..", ".", "", "a", "..a"]) | st.text(max_size=5), max_size=4).map("/".join))
@fuzz
def test_a_place_that_counts_as_inside_is_inside(text):
    base = Path("/base/of/data")
    if is_inside(text):
        assert Path(os.path.normpath(base / text)).is_relative_to(base)


# -- data files ------------------------------------------------------------------------------------------------


def checked(read: Any, path: Path, task: TaskConfig) -> int | None:
    """How many examples are read, None with a sentence that names the file."""
    examples, refused = attempt(read, path, task, "train", path.name)
    if refused is not None:
        assert str(path) in refused
        return None
    assert len(examples.labels) == len(examples.ids) == len(examples.texts[0])
    return len(examples.labels)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), min_size=1, max_size=12)
rows = st.lists(st.tuples(texts.filter(str.strip), texts.filter(str.strip)), max_size=5)


@fuzz
@given(rows, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
def test_a_well_formed_tsv_has_the_rows_it_has(tmp_path, content, newline, mark, last):
    task = load_task("rte")
    lines = ["sentence1\tsentence2\tlabel"]
    lines += [f"{a}\t{b}\t{task.labels[number % 2]}" for number, (a, b) in enumerate(content)]
    path = tmp_path / "train.tsv"
    path.write_bytes(("\ufeff" * mark + newline.join(lines) + newline * last).encode())
    examples = read_official(path, task, "train", path.name)
    assert list(zip(*examples.texts, strict=True)) == content
    assert examples.labels.tolist() == [number % 2 for number in range(len(content))]


@fuzz
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_in_a_tsv_are_rows_or_one_sentence(tmp_path, content, header):
    path = tmp_path / "train.tsv"
    path.write_bytes(b"index\tsentence1\tsentence2\tlabel\n" * header + content)
    checked(read_official, path, load_task("rte"))


@pytest.mark.parametrize("content", HOSTILE[:6], ids=lambda content: repr(content[:12]))
@pytest.mark.parametrize("name", ["rte_superglue", "multirc"])
def test_hostile_json_lines_are_one_sentence(name, content, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(content + b"\n")
    assert checked(read_official, path, load_task(name)) is None
