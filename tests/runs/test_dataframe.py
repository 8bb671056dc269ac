"""sora.runs: every column against the records' JSON, what cannot be used named, and thousands of records in seconds."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr

import sora.runs
from sora.errors import UserError
from sora.runs import data_dependence, records
from sora.runs import manifest as studies
from tests.experiments import made

AXES = {"method": ["lora", "sora"], "task": ["rte", "stsb"], "trainer.learning_rate": [1e-4, 8e-4], "seed": [0, 1]}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    made.study(folder, "main_table", AXES, items=20)
    made.write_run(folder, {"method": "lora", "task": "rte", "seed": 7}, items=20)
    return folder


def every(folder: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (folder / "records").rglob("*.json")]
    return {record["run_id"]: record for record in found}


def test_a_row_is_its_record(results: Path) -> None:
    found = sora.runs.load(results).set_index("run_id")
    assert set(found.index) == set(every(results))
    for run_id, record in every(results).items():
        row, config = found.loc[run_id], record["config"]
        assert (row["task"], row["method"], row["seed"]) == (
            config["task"]["name"],
            config["method"]["name"],
            config["seed"],
        )
        assert (row["backbone"], row["protocol"], row["status"]) == ("minilm-l6", "paper", "ok")
        metric, chooses = config["task"]["metrics"][0], config["task"]["select_metric"]
        selected, last = record["metrics"]["selected"], record["metrics"]["last"]
        assert row["score"] == pytest.approx(100 * selected["report"][metric])
        assert row["select"] == pytest.approx(100 * selected["select"][chooses])
        assert row[f"last.report.{metric}"] == pytest.approx(100 * last["report"][metric])
        assert row["trainer.learning_rate"] == config["trainer"]["learning_rate"]
        assert (row["params.live"], row["params.trainable"]) == (
            record["params"]["live"],
            record["params"]["trainable"],
        )
        assert (row["ranks"], row["matrices"]) == (sum(record["ranks"].values()), 36)
        assert row["time.train_s"] == record["time"]["train_s"]
        assert not row["flags.one_class"]


def test_keys_that_do_not_differ_are_left_out_and_others_are_not(results: Path) -> None:
    found = sora.runs.load(results)
    assert found.loc[found["studies"] == "", "seed"].tolist() == [7], "a run outside a sweep is there"
    assert "trainer.learning_rate" in found
    assert "method.dropout" not in found
    assert "trainer.batch_size" not in found
    assert sora.runs.frame(every(results).values())["trainer.batch_size"].unique().tolist() == [8]


@pytest.mark.parametrize("how", ["damaged", "contradiction", "missing run", "damaged manifest"])
def test_what_cannot_be_used_is_named_and_the_rest_is_there(tmp_path: Path, how: str) -> None:
    manifest = made.study(tmp_path, "mine", {"method": ["lora"], "task": ["rte"], "seed": [0, 1, 2]}, items=20)
    path = tmp_path / manifest["runs"][0]["record"]
    if how == "damaged":
        path.write_text("{", encoding="utf-8")
        words = [rf"{path.name}.*damaged JSON", "1 of its 3 runs have no record"]
    elif how == "contradiction":
        record = json.loads(path.read_text(encoding="utf-8"))
        record["ranks"] |= {"more": 3}
        (path.parent / "again").mkdir()
        (path.parent / "again" / path.name).write_text(json.dumps(record), encoding="utf-8")
        words = [rf"{path.name}.*other things", "1 of its 3 runs have no record"]
    elif how == "missing run":
        path.unlink()
        words = [r"mine-.*: 1 of its 3 runs have no record"]
    else:
        studies.path(tmp_path, manifest).write_text("{}", encoding="utf-8")
        words = [r"mine-.*schema is missing"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = sora.runs.load(tmp_path)
    assert len(found) == (3 if how == "damaged manifest" else 2)
    assert [str(each.message) for each in caught] == found.attrs["problems"]
    assert len(caught) == len(words)
    for sentence, pattern in zip(found.attrs["problems"], words, strict=True):
        assert pd.Series([sentence]).str.contains(pattern).all(), sentence
    assert all(Path(each.filename) == Path(__file__) for each in caught), "they point at the caller"


def test_a_study_keeps_its_runs_and_an_empty_folder_has_none(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder of results"):
        sora.runs.load(tmp_path / "nothing")
    assert sora.runs.load(tmp_path).empty
    assert len(sora.runs.load(results, study="main_table")) == 16
    with pytest.raises(UserError, match="no run of the study seeds"):
        sora.runs.load(results, study="seeds")


def test_a_study_whose_name_goes_on_is_another(tmp_path: Path) -> None:
    for name, seeds in (("rates", [0]), ("rates-2", [1, 2])):
        made.study(tmp_path, name, {"method": ["lora"], "task": ["rte"], "seed": seeds}, items=20)
    assert list(sora.runs.load(tmp_path, study="rates").seed) == [0]
    assert list(sora.runs.load(tmp_path, study="rates-2").seed) == [1, 2]


def test_arms_are_those_of_the_study_that_is_asked_for(tmp_path: Path) -> None:
    """A run of two studies, whose arms have other names."""
    manifest = made.study(tmp_path, "plain", {"method": ["lora"], "task": ["rte"], "seed": [0]}, items=20)
    for study, arm in (("main_table", "lora_r8"), ("rank_budget", "lora")):
        fixed = manifest["fixed"] | {studies.ARM: arm}
        studies.write(tmp_path, studies.make(study, manifest["axes"], fixed, manifest["runs"]))
    assert list(sora.runs.load(tmp_path, study="main_table").arm) == ["lora_r8"]
    assert list(sora.runs.load(tmp_path, study="rank_budget").arm) == ["lora"]
    assert set(sora.runs.load(tmp_path).arm[0].split()) == {"lora_r8", "lora"}


def test_what_later_records_say_becomes_columns(tmp_path: Path) -> None:
    path = made.write_run(tmp_path, {"method": "sora", "task": "rte", "seed": 0}, items=20)
    record = records.read(path)
    record |= {"regime": {"rho": 0.125, "shrink": 0.5, "travel": 2.0}, "no_data_ranks": {"selected": record["ranks"]}}
    path.write_text(json.dumps(record), encoding="utf-8")
    made.write_run(tmp_path, {"method": "lora", "task": "rte", "seed": 0}, items=20)
    found = sora.runs.load(tmp_path).set_index("method")
    assert found.loc["sora", "regime.rho"] == 0.125
    assert found.loc["sora", "data_dependence"] == pytest.approx(0.0)
    assert math.isnan(found.loc["lora", "regime.rho"])
    held = sora.runs.read(tmp_path).records.values()
    modules, history = sora.runs.ranks(held), sora.runs.history(held)
    assert (modules["rank"] == modules["no_data_rank"]).sum() == 36
    assert history.loc[0, ["step", "loss", "select.accuracy"]].tolist() == [20, 0.7, 75.0]


def test_the_index_is_one_minus_the_correlation() -> None:
    rng = np.random.default_rng(0)
    ranks, null = ({f"m{i}": int(v) for i, v in enumerate(rng.integers(0, 9, 40))} for _ in (0, 1))
    found = data_dependence(ranks, null)
    assert found["index"] == pytest.approx(1 - pearsonr(list(ranks.values()), list(null.values())).statistic)
    assert found["differ"] == sum(ranks[name] != null[name] for name in ranks) / 40
    assert data_dependence(ranks, dict(reversed(null.items()))) == pytest.approx(found), "matrices go by name"
    assert data_dependence(ranks, ranks) == {"index": pytest.approx(0.0, abs=1e-12), "differ": 0.0}
    shifted = data_dependence(ranks, {name: rank + 1 for name, rank in ranks.items()})
    assert shifted == {"index": pytest.approx(0.0, abs=1e-12), "differ": 1.0}


def test_without_a_correlation_there_is_no_index() -> None:
    full, half = {"a": 8, "b": 8}, {"a": 8, "b": 3}
    for ranks, null, differ in ((full, full, 0.0), (full, half, 0.5), (half, full, 0.5)):
        assert data_dependence(ranks, null) == {"index": pytest.approx(math.nan, nan_ok=True), "differ": differ}
    for other in ({}, {"a": 8}, {"a": 8, "c": 8}):
        with pytest.raises(ValueError, match="must be of the same"):
            data_dependence(full, other)
    with pytest.raises(ValueError, match="0 matrices"):
        data_dependence({}, {})


@pytest.mark.parametrize(("ranks", "shown"), [((8, 7, 8, 8), False), ((8, 5, 8, 8), True)])
def test_where_hardly_a_rank_died_there_is_no_index(tmp_path: Path, ranks: tuple[int, ...], shown: bool) -> None:
    names = [f"m{i}" for i in range(len(ranks))]
    record = records.read(made.write_run(tmp_path, {"method": "sora", "task": "rte", "seed": 0}, items=20))
    record |= {"ranks": dict(zip(names, ranks, strict=True))}
    drawn = {"selected": (8, 8, 7, 8), "same_total": (8, 6, 8, 7)}
    record |= {"no_data_ranks": {key: dict(zip(names, each, strict=True)) for key, each in drawn.items()}}
    row = sora.runs.frame([record]).iloc[0]
    assert math.isnan(row["data_dependence"]) is not shown
    same = row["data_dependence_same_total"]
    assert same == pytest.approx(1 - pearsonr(ranks, (8, 6, 8, 7)).statistic if shown else math.nan, nan_ok=True)
    assert row["ranks_differ"] == 0.5
