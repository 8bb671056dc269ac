"""The main table of arms: its rows, differences and verdicts, and manifests that contradict each other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import arms, bootstrap, find
from experiments.study import load
from scripts import tables
from sora.errors import UserError
from sora.runs import manifest as studies
from tests.experiments import answered, armed
from tests.experiments.armed import SEEDS, right


@pytest.fixture(autouse=True)
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MOST", 2_000)


def built(results: Path) -> list[dict[str, str]]:
    return answered.built(results)["main_table"]


def row(rows: list[dict[str, str]], arm: str) -> dict[str, str]:
    return answered.row(rows, arm=arm)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    armed.arm(tmp_path, "probe", {0: right(280)}, live=0)
    armed.arm(tmp_path, "lora_equal", {seed: right(296) for seed in SEEDS})
    kept, drawn = [8, 6, 4, 2, 1, 0], [1, 3, 5, 2, 8, 6]
    armed.arm(tmp_path, "sora_small", dict(zip(SEEDS, map(right, (304, 308, 312)), strict=True)), ranks=(kept, drawn))
    armed.arm(tmp_path, "lora_r8", {seed: right(300 + 4 * n) for n, seed in enumerate((*SEEDS, 81))})
    return tmp_path


def test_one_table_in_the_order_of_the_page(results: Path) -> None:
    assert [each["arm"] for each in built(results)] == [
        "LoRA r = 8",
        "SoRA-small",
        "LoRA of equal size",
        "Linear probe",
        "Majority class",
    ]
    folders = [path.name for path in (results / "tables").iterdir() if path.name.startswith("main_table")]
    assert len(folders) == 1


def test_numbers_by_hand(results: Path) -> None:
    found = built(results)
    small = row(found, "SoRA-small")
    assert (small["n"], small["n of"]) == ("3", "3")
    assert float(small["score"]) == pytest.approx(77.0)
    assert float(small["score sd"]) == pytest.approx(np.std([76, 77, 78]), abs=1e-5)
    assert float(small["minus LoRA"]) == pytest.approx(1.0), "76, 77, 78 against 75, 76, 77; seed 81 has no partner"
    assert float(small["t interval"]) == pytest.approx(1.0)
    assert float(small["data dependence"]) == pytest.approx(
        1 - np.corrcoef([8, 6, 4, 2, 1, 0], [1, 3, 5, 2, 8, 6])[0, 1]
    )
    probe = row(found, "Linear probe")
    assert float(probe["minus LoRA"]) == pytest.approx(70 - np.mean([75, 76, 77, 78])), "one run stands for every seed"
    assert float(row(found, "Majority class")["score"]) == 50.0
    assert row(found, "LoRA r = 8")["minus LoRA"] == ""


def test_only_what_was_fixed_beforehand_has_a_verdict(results: Path) -> None:
    found = {each["arm"]: each["verdict"] for each in built(results)}
    assert found["SoRA-small"] == "not inferior to LoRA r = 8: holds"
    assert found["LoRA of equal size"].startswith("SoRA-small better than LoRA of equal size: ")
    assert {found[name] for name in ("LoRA r = 8", "Linear probe", "Majority class")} == {""}


def test_the_first_page_has_sentence_and_table(results: Path) -> None:
    tables.build(results)
    page = (results / "README.md").read_text(encoding="utf-8")
    assert "**Non-inferiority of SoRA-small to LoRA r = 8" in page
    assert "| LoRA of equal size" in page


def test_a_missing_run_is_counted(results: Path) -> None:
    (path,) = (results / "records").rglob("sora-s21-*.json")
    path.unlink()
    path.with_suffix(".npz").unlink()
    assert row(built(results), "SoRA-small")["n of"] == "3"
    assert row(built(results), "SoRA-small")["n"] == "2"


def test_other_seeds_of_an_arm_are_the_same_arm(results: Path) -> None:
    armed.arm(results, "lora_equal", {seed: right(300) for seed in (81, 100)})
    assert row(built(results), "LoRA of equal size")["n"] == "5"


def test_manifests_that_contradict_each_other_are_named(results: Path) -> None:
    first = next(
        path
        for path in (results / "studies").iterdir()
        if json.loads(path.read_text())["fixed"][studies.ARM] == "lora_equal"
    )
    second = armed.arm(results, "lora_equal", {0: right(200)}, fixed={"trainer.learning_rate": "0.5"})
    loaded = load(results, lambda name: find(name).accepts)
    (problem,) = loaded.problems
    assert first.name in problem
    assert second.name in problem
    assert "contradict each other on lora_equal of sst2 (trainer.learning_rate is " in problem
    (study,) = loaded.studies
    own = study.runs[study.runs["arm"] == "lora_equal"]
    assert not own["done"].any(), "neither is believed"
    assert study.runs.loc[study.runs["arm"] == "lora_r8", "done"].all()


def test_the_same_place_with_two_runs_is_a_contradiction() -> None:
    def manifest(seeds: list[int], run_id: str) -> studies.Manifest:
        axes = {"method": ["lora"], "task": ["rte"], "seed": seeds}
        place = {"method": "lora", "task": "rte", "seed": 0}
        run = {"run_id": run_id, "axes": place, "record": f"records/a-{run_id}.json", "command": "x"}
        return studies.make("main_table", axes, {studies.ARM: "lora_r8"}, [run])

    one, two = manifest([0], "0" * 12), manifest([0, 1], "1" * 12)
    _, problems = studies.of_arms([one, two])
    assert len(problems) == 1
    assert f"runs {'0' * 12} and {'1' * 12}" in problems[0]
    assert studies.of_arms([one, manifest([0, 1], "0" * 12)])[1] == []


def test_an_arm_is_a_name() -> None:
    with pytest.raises(UserError, match=r"study\.arm: got 'a b', must be letters"):
        studies.make("main_table", {}, {studies.ARM: "a b"}, [])


def test_every_arm_of_the_page_has_a_row() -> None:
    assert list(arms.ARMS)[:3] == ["lora_r8", "sora_best", "sora_small"]
    assert len(set(arms.ARMS.values())) == len(arms.ARMS)
