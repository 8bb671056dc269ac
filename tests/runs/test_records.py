"""Records: what is written comes back, what is damaged is refused with its place."""

import json
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sora.errors import UserError
from sora.runs import records, results, schema
from tests.composing import arrays, record

ID = "0123456789ab"


def place(folder: Path, run_id: str = ID) -> Path:
    return folder / "records" / "tiny" / "rte" / f"sora-s0-{run_id}.json"


def written(folder: Path) -> Path:
    records.write(place(folder), record(), arrays())
    return place(folder)


def changed(key: str, value: object) -> dict:
    """A record in which the dotted ``key`` has another value."""
    result = record()
    *parents, leaf = key.split(".")
    node: Any = result
    for parent in parents:
        node = node[int(parent)] if isinstance(node, list) else node[parent]
    node[leaf] = value
    return result


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert records.read(path) == record()
    assert json.loads(path.read_text(encoding="utf-8")) == record()  # plain JSON, for any other reader
    back = records.read_arrays(path)
    assert back.keys() == arrays().keys()
    for name, array in arrays().items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)
    assert [each.name for each in sorted(path.parent.iterdir())] == [path.name, path.with_suffix(".npz").name]


def test_find_needs_the_id_alone(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert records.find(tmp_path, ID) == path
    assert [each["run_id"] for each in records.read_many(tmp_path / "records")] == [ID]
    assert records.find(tmp_path, "ba9876543210") is None
    path.with_suffix(".npz").unlink()  # a record without its logits is no result: the run is computed again
    assert records.find(tmp_path, ID) is None
    assert records.finished(tmp_path) == {}


def test_records_behind_a_link_are_found(tmp_path: Path) -> None:
    path = written(tmp_path / "disk")
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "minilm-l6").symlink_to(path.parent)  # a part on another disk
    expected = tmp_path / "records" / "minilm-l6" / path.name
    assert records.finished(tmp_path) == {ID: expected}
    assert results.read(tmp_path).paths == {ID: expected}


def test_both_files_depend_on_their_content_alone(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a"), tmp_path / "b" / "x.json"
    records.write(second, record(), dict(reversed(arrays().items())))
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".npz").read_bytes() == second.with_suffix(".npz").read_bytes()
    with zipfile.ZipFile(first.with_suffix(".npz")) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with np.load(first.with_suffix(".npz"), allow_pickle=False) as archive:  # numpy's own reader
        assert set(archive.files) == set(arrays())


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    given = changed("history.0.loss", float("nan"))
    given["metrics"]["last"]["report"]["accuracy"] = float("inf")
    records.write(place(tmp_path), given, arrays())
    back = records.read(place(tmp_path))
    assert back["history"][0]["loss"] is None
    assert back["metrics"]["last"]["report"]["accuracy"] is None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("flags.partial", 0, "flags.partial got 0, must be a valid boolean"),
        ("params.live", 6.5, "params.live got 6.5, must be a valid integer"),
        ("history.0.step", "20", "history.0.step got '20', must be a valid integer"),
        ("metrics.last.report.accuracy", "high", "metrics.last.report.accuracy got 'high', must be a valid number"),
        ("regime", {"rho": 1.0, "shrink": 0.8}, "regime.travel is missing"),
        ("config.method", {}, "config.method.name is missing"),
        ("run_id", "XYZ", "run_id got 'XYZ', must match pattern"),
        ("status", "failed", "status got 'failed', must match pattern '^(ok|diverged)$'"),
        ("pack.members", ["ba9876543210"], "among them 0123456789ab"),
        ("schema", records.SCHEMA_VERSION + 1, "schema is 2, but 1 is the newest"),
    ],
)
def test_what_breaks_the_layout_is_refused_by_both_sides(tmp_path: Path, key: str, value: object, said: str) -> None:
    path = place(tmp_path)
    with pytest.raises(UserError) as refused:
        records.write(path, changed(key, value), arrays())
    assert str(path) in str(refused.value)
    assert said in str(refused.value)
    assert not path.parent.exists()
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(changed(key, value)), encoding="utf-8")
    with pytest.raises(UserError) as refused:
        records.read(path)
    assert said in str(refused.value)


@pytest.mark.parametrize(("key", "value"), [("flags.diverged_at", 7), ("data.arrays_sha256", "0" * 64)])
def test_what_contradicts_itself_is_not_written(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(UserError, match=key):
        records.write(place(tmp_path), changed(key, value), arrays())
    assert not place(tmp_path).parent.exists()


def test_arrays_must_be_the_ones_the_record_names(tmp_path: Path) -> None:
    path = written(tmp_path)
    other = arrays() | {"report_ids": np.arange(1, 4)}
    np.savez(path.with_suffix(".npz"), allow_pickle=False, **other)
    with pytest.raises(UserError, match="is not the file"):
        records.read_arrays(path)
    path.with_suffix(".npz").unlink()
    with pytest.raises(UserError, match=r"\.npz: cannot be read"):
        records.read_arrays(path)


def test_the_digest_sees_name_type_shape_and_value() -> None:
    base = {"a": np.arange(4)}
    others: list[records.Arrays] = [
        {"b": np.arange(4)},
        {"a": np.arange(4, dtype=np.int32)},
        {"a": np.arange(4).reshape(2, 2)},
        {"a": np.arange(1, 5)},
        {"a": np.arange(4).view(np.float64)},  # the same bytes
    ]
    digests = {records.arrays_digest(each) for each in [base, *others]}
    assert len(digests) == 6
    strided = {"a": np.arange(8)[::2] // 2}  # the same values, laid out otherwise
    assert records.arrays_digest(strided) == records.arrays_digest(base)


def test_science_is_all_but_what_may_differ_when_repeated() -> None:
    first, again = record(), deepcopy(record())
    for key in ("time", "throughput", "memory", "provenance"):
        again[key] = {}
    assert records.science(first) == records.science(again)
    assert records.unlike(first, again) == []
    again["metrics"]["last"]["report"]["accuracy"] = 0.6
    again["history"].append(deepcopy(again["history"][-1]))
    assert records.science(first) != records.science(again)
    assert records.unlike(first, again) == ["history", "metrics"]


def test_the_page_on_records_is_written_from_the_schema() -> None:
    page = schema.PAGE.read_text(encoding="utf-8")
    assert schema.described(page) == page, "python -m sora.runs.schema writes it"
    keys = {key for key, _, _ in schema.rows(schema.Record)}
    assert {"flags.diverged_at", "history.*.gate_histogram", "provenance.recipe.tuned", "regime.rho"} <= keys
    assert page.count("| `") > len(keys)


def test_keys_of_later_versions_and_absent_ones_are_welcome() -> None:
    made = record()
    assert not {"regime", "no_data_ranks", "ranks_last"} & made.keys()
    made |= {"regime": {"rho": 0.1, "shrink": 1, "travel": 2.0, "more": None}, "not known yet": [1]}
    made["no_data_ranks"] = {"selected": {"layer.0.query": 3}}
    records.validate(made, "somewhere")
    made["regime"]["rho"] = None
    with pytest.raises(UserError, match=r"regime\.rho got null, must be a valid number"):
        records.validate(made, "somewhere")
