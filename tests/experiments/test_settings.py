"""The studies of one setting (experiments/settings.py): rates, ranks, thresholds, penalties, matrices."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments import tuning
from experiments.conditions import RATE
from experiments.settings import around, at_live
from experiments.study import load
from experiments.tables import EMPTY, Figure
from tests.experiments import answered, made
from tests.experiments.answered import Answered, share
from tests.experiments.reading import artefacts, row

SEEDS = [0, 1, 2]
ONE: dict[str, list[Any]] = {"task": ["rte"], "seed": [0, 1]}


# -- rank_budget -----------------------------------------------------------------------------------------------


def test_iso_parameter_interpolates_in_the_logarithm() -> None:
    curve = pd.DataFrame({"live": [10_000.0, 100.0], "mean": [80.0, 60.0]})
    assert at_live(1000.0, curve) == pytest.approx(70.0)
    assert at_live(100.0, curve) == pytest.approx(60.0)
    assert all(math.isnan(at_live(x, curve)) for x in (99.0, 10_001.0, 0.0, math.nan))


def test_ranks_between_which_a_size_lies() -> None:
    curve = pd.DataFrame({"live": [800.0, 100.0, 300.0], "mean": [80.0, 60.0, math.nan], "method.r": [8, 1, 2]})
    assert around(200.0, curve) == around(500.0, curve) == "r = 1 and r = 8", "r = 2 has no score"
    assert around(800.0, curve) == "r = 8"


def test_rank_budget_compares_at_equal_parameters(tmp_path: Path) -> None:
    axes = {"method": ["lora", "sora"], "method.r": [1, 2, 8], "task": ["rte"], "seed": SEEDS}
    made.study(tmp_path, "rank_budget", axes)
    found = artefacts(tmp_path)
    table = found["iso_parameter"]
    cells = row(table, "SoRA", "8")
    lora = [row(found["details"], "LoRA", str(r)) for r in (1, 2, 8)]
    curve = pd.DataFrame({"live": [e["live"].value for e in lora], "mean": [e["selected"].value for e in lora]})
    assert cells["LoRA there"].value == pytest.approx(at_live(cells["live parameters"].value, curve), abs=0.01)
    assert cells["difference"].value == pytest.approx(cells["score"].value - cells["LoRA there"].value)
    assert row(found["published"], "SoRA", "1")["published"].text == "83.02 ± 2.47"
    assert isinstance(found["score_by_live_parameters"], Figure)


# -- one setting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "axis", "values", "label", "printed"),
    [
        ("threshold", "method.threshold", [3e-4, 1e-5], "0.0003", "92.22 ± 0.24"),
        ("penalty", "method.penalty", [10, 0.1], "10", "91.75 ± 0.41"),
        ("modules", "method.targets", [["*.query*", "*.key*"], None], "Q, K", "72.30 ± 2.61"),
        ("modules", "method.targets", [["*.query*", "*.key*"], None], "all six", "92.22 ± 0.24"),
    ],
)
def test_a_setting_has_a_row_and_its_published_number(
    tmp_path: Path, name: str, axis: str, values: list[Any], label: str, printed: str
) -> None:
    made.study(tmp_path, name, {"method": ["sora"], axis: values, "task": ["stsb"], "seed": SEEDS})
    found = artefacts(tmp_path)
    assert len(found[name].data) == len(values)
    beside = row(found["published"], label)
    assert beside["published"].text == printed
    assert beside["ours"].text == row(found[name], label)["STS-B Pearson"].text
    assert (f"score_by_{name}" in found) == (name != "modules")  # words have no curve


def test_whether_the_methods_have_the_same_grid_is_said(tmp_path: Path) -> None:
    made.study(tmp_path, "learning_rate", {"method": ["lora", "sora"], RATE: [1e-4, 4e-4], **ONE})
    assert artefacts(tmp_path)["best"].caption.endswith("All methods have the same grid.")
    made.study(tmp_path, "learning_rate", {"method": ["sora"], "trainer.learning_rate": [1e-3], **ONE})
    assert artefacts(tmp_path)["best"].caption.endswith("The methods do not have the same grid.")


@pytest.mark.parametrize(
    ("name", "axes", "table"),
    [
        ("efficiency", {}, "efficiency"),
        ("efficiency", {}, "cost"),
        ("fidelity", {"fidelity": ["authors"]}, "changes"),
        ("rank_map", {}, "rank_map"),
        ("mine", {}, "scores"),
    ],
)
def test_a_slice_is_called_the_same_in_every_table(name: str, axes: dict[str, Any], table: str, tmp_path: Path) -> None:
    made.study(tmp_path, name, {**axes, "method": ["sora"], "task": ["sst2_10k"], "seed": [0]})
    assert set(artefacts(tmp_path)[table].data["task"]) == {"SST-2 (10k)"}


def test_the_best_rate_is_the_one_that_tune_chooses(tmp_path: Path) -> None:
    """A rate that seed 2 did not try, because it was not next to the best, has the best mean: that of seed 1 alone."""
    rights = {1: {5e-4: 300, 1e-3: 305, 2e-3: 304, 4e-3: 303}, 2: {5e-4: 290, 1e-3: 291, 2e-3: 290}}
    for seed, rates in rights.items():
        places = [({"method": "lora", "task": "rte", RATE: rate, "seed": seed}, n) for rate, n in rates.items()]
        runs = [Answered(axes, share(right, 400), share(right, 400)) for axes, right in places]
        answered.study(tmp_path, "learning_rate", runs)
    (grid,) = load(tmp_path).studies
    best = tuning.best(tuning.scores(grid.done, RATE))
    cells = row(artefacts(tmp_path)["best"], "LoRA")
    assert (cells["best"].value, best) == (1e-3, 1e-3)
    assert (cells["select"].value, cells["remark"].text) == (pytest.approx(74.5), EMPTY)


def test_the_best_rate_is_that_of_the_metric_that_selects(tmp_path: Path) -> None:
    """MRPC selects by F1 and is reported by accuracy first: 1e-3 has the better F1, 2e-3 the better accuracy."""
    answers = {1e-3: np.arange(400) % 4 != 0, 2e-3: np.arange(400) % 2 == 0}  # label 1 is at the odd places
    answers[2e-3] |= np.arange(400) < 220
    axes = {rate: {"method": "lora", "task": "mrpc", RATE: rate, "seed": 1} for rate in answers}
    answered.study(tmp_path, "learning_rate", [Answered(axes[rate], right, right) for rate, right in answers.items()])
    (grid,) = load(tmp_path).studies
    accuracy, f1 = (grid.runs.set_index(RATE)[name] for name in ("select.accuracy", "select.f1"))
    assert (accuracy.idxmax(), f1.idxmax()) == (2e-3, 1e-3)
    cells = row(artefacts(tmp_path)["best"], "LoRA")
    assert cells["best"].value == tuning.best(tuning.scores(grid.done, RATE)) == 1e-3
    assert cells["select"].value == pytest.approx(f1[1e-3])
    assert (cells["report"].value, cells["select - report"].text) == (pytest.approx(accuracy[1e-3]), EMPTY)


def test_a_rate_whose_run_diverged_was_tried_and_is_not_the_best(tmp_path: Path) -> None:
    axes = [{"method": "lora", "task": "rte", RATE: rate, "seed": 1} for rate in (5e-4, 1e-3)]
    answered.study(tmp_path, "learning_rate", [Answered(each, share(300, 400), share(300, 400)) for each in axes])
    for rates in ([1e-3], [5e-4, 1e-3]):

        def diverged(record: dict[str, Any], rates: list[float] = rates) -> None:
            if record["config"]["trainer"]["learning_rate"] in rates:
                record["status"], record["flags"]["diverged_at"] = "diverged", 7
                record["metrics"]["selected"]["select"]["accuracy"] = None

        made.change(tmp_path, diverged)
        cells = row(artefacts(tmp_path)["best"], "LoRA")
        assert cells["learning rates"].text == "2/2"
        assert [cells[name].value for name in cells if name == "best"] == ([5e-4] if len(rates) == 1 else [])


def test_of_one_rate_the_best_is_no_finding(tmp_path: Path) -> None:
    made.study(tmp_path, "learning_rate", {"method": ["lora"], RATE: [1e-3], **ONE})
    assert row(artefacts(tmp_path)["best"], "LoRA")["remark"].text == "one rate tried"


def test_of_equal_rates_the_smallest_is_the_best(tmp_path: Path) -> None:
    """In whatever order a sweep names them."""
    axes = [{"method": "lora", "task": "rte", RATE: rate, "seed": 1} for rate in (2e-3, 1e-3)]
    answered.study(tmp_path, "learning_rate", [Answered(each, share(300, 400), share(300, 400)) for each in axes])
    assert row(artefacts(tmp_path)["best"], "LoRA")["best"].value == 1e-3


@pytest.mark.parametrize("values", [[0.0, 1e-4, 4e-4], [1e-4, 4e-4]])
def test_a_curve_says_what_its_axis_cannot_show(tmp_path: Path, values: list[float]) -> None:
    made.study(tmp_path, "threshold", {"method": ["sora"], "method.threshold": values, **ONE})
    found = artefacts(tmp_path)
    assert ("Not drawn: ξ = 0, which has no place" in found["score_by_threshold"].caption) == (0.0 in values)
    assert "Average" not in found["threshold"].caption
