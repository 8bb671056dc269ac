"""Readers of what others may have sent: a right answer or one clear sentence, whatever the bytes are."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sora import records, resolve, studies
from sora.errors import UserError
from sora.tasks.load import read_official
from sora.tasks.spec import TaskConfig, load_task
from sora.training.logging import read_metrics
from sora.untrusted import is_inside, is_name, parse_json
from tests import composing, tiny

fuzz = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
HOSTILE = [
    b"[" * 200_000,
    b'{"a":' * 50_000,
    b"1" * 10_000,
    b"NaN",
    b'{"schema": 1e999}',
    b'{"schema": "\\ud800"}',
    b"\xff\xfe{}",
    b"",
    b"\0",
]


def attempt(read: Any, *arguments: Any) -> tuple[Any, str | None]:
    """What a reader answers, or what its UserError says."""
    try:
        return read(*arguments), None
    except UserError as error:
        return None, str(error)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


# -- records ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", HOSTILE, ids=lambda content: repr(content[:12]))
def test_no_content_of_a_record_is_a_traceback(content, tmp_path):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    for read in (records.read, studies.read):
        with pytest.raises(UserError, match=r"record\.json"):
            read(path)


@fuzz
@given(st.data())
def test_a_record_with_any_value_anywhere_is_read_as_it_is_or_refused(tmp_path, data):
    record = composing.record()
    changed = replaced(record, data.draw(st.sampled_from(places(record))), data.draw(anything))
    path = tmp_path / "record.json"
    path.write_text(json.dumps(changed))
    found, said = attempt(records.read, path)
    assert found == changed if said is None else (str(path) in said and "\n" not in said)


@fuzz
@given(st.data())
def test_arrays_with_any_bytes_changed_are_the_same_or_refused(tmp_path, data):
    path = tmp_path / "record.json"
    records.write(path, composing.record(), composing.arrays())
    file = path.with_suffix(".npz")
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    found, said = attempt(records.read_arrays, path)
    if said is None:
        assert records.arrays_digest(found) == records.arrays_digest(composing.arrays())
    else:
        assert str(file) in said


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


@fuzz
@given(st.lists(anything, max_size=4), st.binary(max_size=40))
def test_any_lines_of_metrics_are_read_or_refused(tmp_path, lines, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes("".join(json.dumps(each) + "\n" for each in lines).encode() + torn.replace(b"\n", b""))
    found, said = attempt(read_metrics, path)
    assert found == lines if said is None else str(path) in said


@pytest.mark.parametrize("nonfinite", [3, {"loss": "huge"}, {"absent/x": "nan"}, {"list/9": "nan"}, {"list/a": "inf"}])
def test_a_line_of_metrics_that_contradicts_itself_is_refused(nonfinite, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 3, "kind": "train", "loss": None, "list": [1], "nonfinite": nonfinite}) + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl: nonfinite at step 3"):
        read_metrics(path)


# -- names and places ------------------------------------------------------------------------------------------

OUTSIDE = ["../x", "a/../../x", "/etc/passwd", "..", "a\\..\\x", "a\0b"]


@pytest.mark.parametrize("text", [*OUTSIDE, "", ".hidden", "a b", "<b>", "a" * 101, "a\n"])
def test_what_is_no_name_is_refused_in_records_and_configurations(text, tmp_path):
    assert not is_name(text)
    record = replaced(composing.record(), ("config", "task", "name"), text)
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


def test_every_name_in_conf_is_one():
    for group in ("backbone", "task", "method", "protocol"):
        names = [path.stem for path in (resolve.Path(__file__).parents[1] / "conf" / group).glob("*.yaml")]
        assert names
        assert all(map(is_name, names))


@given(st.text(max_size=20), st.text(max_size=20))
@fuzz
def test_a_place_that_counts_as_inside_is_inside(folder, file):
    base = Path("/base/of/data")
    text = f"{folder}/{file}"
    if is_inside(text):
        normal = Path(*[part for part in (base / text).parts if part != "."])
        assert normal.is_relative_to(base)
        assert ".." not in normal.parts


# -- data files ------------------------------------------------------------------------------------------------


def checked(read: Any, path: Path, task: TaskConfig) -> int | None:
    """How many examples are read, None with a sentence that names the file."""
    examples, said = attempt(read, path, task, "train", path.name)
    if said is not None:
        assert str(path) in said
        return None
    assert len(examples.labels) == len(examples.ids) == len(examples.texts[0])
    return len(examples.labels)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), min_size=1, max_size=12)
rows = st.lists(st.tuples(texts.filter(str.strip), texts.filter(str.strip)), max_size=5)


@fuzz
@given(rows, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
def test_a_well_formed_tsv_has_the_rows_it_has(tmp_path, content, newline, mark, last):
    task = load_task("rte")
    lines = ["index\tsentence1\tsentence2\tlabel"]
    lines += [f"{number}\t{a}\t{b}\t{task.labels[number % 2]}" for number, (a, b) in enumerate(content)]
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


@fuzz
@given(st.lists(st.dictionaries(st.sampled_from(["premise", "hypothesis", "label", "idx", "x"]), anything), max_size=4))
def test_any_objects_in_a_jsonl_are_rows_or_one_sentence(tmp_path, objects):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in objects))
    assert checked(read_official, path, load_task("rte_superglue")) in (None, len(objects))


@pytest.mark.parametrize("content", HOSTILE[:7], ids=lambda content: repr(content[:12]))
@pytest.mark.parametrize("name", ["rte_superglue", "multirc", "record", "wsc"])
def test_hostile_json_lines_are_one_sentence(name, content, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(content + b"\n")
    assert checked(read_official, path, load_task(name)) is None


@fuzz
@given(anything)
def test_json_that_is_json_is_read_as_python_reads_it(value):
    assert parse_json(json.dumps(value, ensure_ascii=False)) == value
    assert parse_json(json.dumps(value)) == value
