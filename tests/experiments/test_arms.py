"""The main table of arms: its rows, differences and verdicts, and manifests that contradict each other."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from experiments import bootstrap, figures
from experiments.study import load
from scripts import readme, tables
from sora.runs import manifest as studies
from sora.runs import records
from tests.experiments import answered, armed, made, reading
from tests.experiments.answered import Answered
from tests.experiments.armed import SEEDS, right


@pytest.fixture(autouse=True, scope="module")
def fewer_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "MOST", 2_000)
        yield


def row(rows: list[dict[str, str]], arm: str) -> dict[str, str]:
    return answered.row(rows, arm=arm)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arms")
    armed.arm(folder, "probe", {0: right(280)}, live=0)
    armed.arm(folder, "lora_equal", {seed: right(296) for seed in SEEDS})
    kept, drawn = [8, 6, 4, 2, 1, 0], [1, 3, 5, 2, 8, 6]
    armed.arm(folder, "sora_small", dict(zip(SEEDS, map(right, (304, 308, 312)), strict=True)), ranks=(kept, drawn))
    armed.arm(folder, "lora_r8", dict(zip((*SEEDS, 81), map(right, (300, 305, 307, 312)), strict=True)))
    return folder


@pytest.fixture(scope="module")
def found(whole: Path) -> list[dict[str, str]]:
    """The main table's CSV, beside which everything was written."""
    return answered.built(whole, "main_table")["main_table"]


@pytest.fixture
def results(whole: Path, tmp_path: Path) -> Path:
    """A copy to change, without what was made of it."""
    for name in ("records", "studies"):
        shutil.copytree(whole / name, tmp_path / name)
    return tmp_path


def counted(results: Path, arm: str) -> tuple[int, int]:
    """How many runs of how many the main table has of an arm."""
    data = reading.artefacts(results)["main_table"].data.set_index("arm")
    return int(data.loc[arm, "n"]), int(data.loc[arm, "n of"])


def test_one_table_in_the_order_of_the_page(found: list[dict[str, str]]) -> None:
    assert [each["arm"] for each in found] == [
        "LoRA r = 8",
        "SoRA-small",
        "LoRA of equal size",
        "Linear probe",
        "Majority class",
    ]


def test_numbers_by_hand(found: list[dict[str, str]]) -> None:
    small = row(found, "SoRA-small")
    assert (small["n"], small["n of"]) == ("3", "3")
    assert float(small["score"]) == pytest.approx(77.0)
    assert float(small["score sd"]) == pytest.approx(np.std([76, 77, 78]), abs=1e-5)
    assert float(small["minus LoRA"]) == pytest.approx(1.0), "1, 0.75 and 1.25; seed 81 has no partner"
    assert float(small["t interval"]) == pytest.approx(1 - 4.302653 * 0.25 / math.sqrt(3), abs=1e-5)
    assert float(small["data dependence"]) == pytest.approx(
        1 - np.corrcoef([8, 6, 4, 2, 1, 0], [1, 3, 5, 2, 8, 6])[0, 1]
    )
    probe = row(found, "Linear probe")
    assert float(probe["minus LoRA"]) == pytest.approx(70 - np.mean([75, 76.25, 76.75, 78])), (
        "one run stands for every seed"
    )
    assert float(row(found, "Majority class")["score"]) == 50.0
    assert row(found, "LoRA r = 8")["minus LoRA"] == ""


def test_only_what_was_fixed_beforehand_has_a_verdict(found: list[dict[str, str]]) -> None:
    verdicts = {each["arm"]: each["verdict"] for each in found}
    assert verdicts["SoRA-small"] == "not inferior to LoRA r = 8: holds"
    assert verdicts["LoRA of equal size"].startswith("SoRA-small better than LoRA of equal size: ")
    assert {verdicts[name] for name in ("LoRA r = 8", "Linear probe", "Majority class")} == {""}


@pytest.mark.usefixtures("found")
def test_the_readme_of_the_project_has_a_row_for_each_arm(whole: Path) -> None:
    head, _, *rows = readme.block(whole).splitlines()
    assert head == "| method | live parameters | SST-2 acc. |"
    assert rows[0] == "| LoRA r = 8 | 0.20M | 76.50 ± 1.08 |"
    assert rows[1] == "| SoRA-small | 0.20M | 77.00 ± 0.82 (+1.00, n = 3) |", "LoRA has four, on these three 76"
    assert rows[3] == "| Linear probe | 0 | 70.00 (-6.50, n = 1) |", "one run has no spread"
    assert "In brackets: minus LoRA r = 8 on the seeds both have" in rows[-1]


def test_an_arm_without_a_run_has_no_number(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the arms that a study begins with, the first has no record yet."""
    monkeypatch.setattr(figures, "render", lambda figure: (b"", b""))
    for path in (results / "records").rglob("lora-s*"):
        path.unlink()
    tables.build(results)
    assert readme.block(results).splitlines()[2] == "| LoRA r = 8 | – | (0/4) |"


@pytest.mark.parametrize("kind", ["done", "planned"])
def test_tables_of_two_backbones_say_which_is_which(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one has no record yet, and so no sizes."""
    monkeypatch.setattr(figures, "render", lambda figure: (b"", b""))
    armed.arm(tmp_path, "lora_r8", {0: right(300)}, fixed={"backbone": "mpnet-base"})
    made.change(tmp_path, lambda record: record["config"]["backbone"].update(name="mpnet-base"))
    for path in (tmp_path / "records").rglob("*.*") if kind == "planned" else ():
        path.unlink()
    armed.arm(tmp_path, "lora_r8", {0: right(300)})
    tables.build(tmp_path)
    said = [line.partition(":")[0] for line in readme.block(tmp_path).splitlines() if line.startswith("On ")]
    assert sorted(said) == ["On minilm-l6", "On mpnet-base"]


def test_other_seeds_of_an_arm_are_the_same_arm(results: Path) -> None:
    armed.arm(results, "lora_equal", {seed: right(300) for seed in (81, 100)})
    assert counted(results, "LoRA of equal size") == (5, 5)


def test_manifests_that_contradict_each_other_are_named(results: Path) -> None:
    first = next(
        path
        for path in (results / "studies").iterdir()
        if json.loads(path.read_text())["fixed"][studies.ARM] == "lora_equal"
    )
    second = armed.arm(results, "lora_equal", {0: right(200)}, fixed={"trainer.learning_rate": "0.5"})
    loaded = load(results)
    (problem,) = loaded.problems
    assert first.name in problem
    assert second.name in problem
    assert "contradict each other on lora_equal of sst2 (trainer.learning_rate is " in problem
    (study,) = loaded.studies
    own = study.runs[study.runs["arm"] == "lora_equal"]
    assert not own["done"].any(), "neither is believed"
    assert study.runs.loc[study.runs["arm"] == "lora_r8", "done"].all()


def test_ranks_of_lora_and_thresholds_of_sora_are_compared_at_as_many_live_parameters(tmp_path: Path) -> None:
    """Two arms of the study rank_budget, one along r, the other along ξ."""
    places = {  # method, axis -> value -> live parameters, right answers of 400
        ("lora", "method.r"): {1: (1000, 200), 4: (4000, 300)},
        ("sora", "method.threshold"): {1e-4: (3000, 320), 2e-4: (2000, 280)},
    }
    for (method, axis), values in places.items():
        runs = [
            Answered({"method": method, "task": "sst2", axis: value, "seed": seed}, right(count), right(count), live)
            for value, (live, count) in values.items()
            for seed in (0, 1)
        ]
        answered.study(tmp_path, "rank_budget", runs, fixed={studies.ARM: method})
    for path in tmp_path.glob("records/*/*/lora-*.json"):
        record = records.read(path)
        del record["config"]["method"]["threshold"]
        records.write(path, record, records.read_arrays(path))
    found = reading.artefacts(tmp_path)
    rows = found["iso_parameter"].data.set_index("ξ")
    there = 50 + 25 * math.log(2) / math.log(4)  # 2,000 lies half way between LoRA's 1,000 and 4,000
    assert set(rows.index) == {1e-4, 2e-4}
    assert rows.loc[2e-4, "LoRA there"] == pytest.approx(there)
    assert rows.loc[2e-4, "difference"] == pytest.approx(70 - there)
    data = found["rank_budget"].data
    assert [*zip(data["method"], data["r"], data["ξ"].fillna(0), strict=True)] == [
        ("LoRA", 1, 0),
        ("LoRA", 4, 0),
        ("SoRA", 8, 1e-4),
        ("SoRA", 8, 2e-4),
    ]
