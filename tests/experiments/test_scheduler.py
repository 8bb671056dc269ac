"""The scheduler's study and the one against one-shot pruning: every number by hand or by scipy from the levels."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Canvas
from scipy import stats as reference

from experiments import figures
from experiments.levels import interpolated, levels, thirds
from experiments.scheduler import fewest
from experiments.tables import EMPTY
from scripts import tables
from sora.runs import manifest as studies
from tests.composing import runs
from tests.experiments import levelled, reading
from tests.experiments.reading import artefacts, row
from tests.typed import TOY, Command

FULL, HALF, FEW, NONE = [8] * 12, [0] * 4 + [6] * 8, [0] * 8 + [2] * 4, [0] * 12
XI = (1e-4, 1e-3, 2e-3, 4e-3)


def run_levels(axes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Four levels; generalization falls by a seed's own slope, memorization a little later."""
    seed, slope = axes["seed"], {"one_shot": 0.10, "sparsify_authors": 0.08}.get(axes.get("schedule", ""), 0.04)
    return [
        levelled.level(
            index,
            XI[index],
            ranks,
            {
                "train_subset": 0.9 - 0.05 * max(0, index - 1),
                "report": 0.8 - (slope + 0.1 * slope * seed**2) * index,
                "select": 0.75 - slope * index,
            },
        )
        for index, ranks in enumerate((FULL, HALF, FEW, NONE))
    ]


def run_schedule(axes: Mapping[str, Any]) -> dict[str, Any]:
    lr = {"sparsify_authors": "authors_zero", "sparsify_constant": "constant"}.get(axes.get("schedule", ""), "rewarm")
    return {"kind": "one_shot"} if axes.get("schedule") == "one_shot" else {"kind": "sparsify", "lr": lr}


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scheduler")
    axes = {"method": ["sora"], "schedule": ["sparsify"], "task": ["rte", "qnli"], "seed": [0, 1, 2]}
    levelled.study(folder, "scheduler", axes, run_levels, run_schedule, leave_out=1)
    return folder


@pytest.fixture(scope="module")
def baselines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baselines")
    schedules = ["sparsify", "sparsify_constant", "sparsify_authors", "one_shot"]
    axes = {"method": ["sora"], "schedule": schedules, "task": ["rte"], "seed": [0, 1, 2]}
    levelled.study(folder, "pruning_baselines", axes, run_levels, run_schedule)
    return folder


# -- levels ----------------------------------------------------------------------------------------------------


def levels_of(folder: Path, entries: list[dict[str, Any]]) -> pd.DataFrame:
    """The levels of a study of one run that has these entries."""
    axes = {"method": ["sora"], "task": ["rte"], "seed": [0]}
    levelled.study(folder, "scheduler", axes, lambda _: entries, run_schedule)
    return levels(reading.study(folder)).set_index("level")


def test_percentages_are_of_the_dense_model(tmp_path: Path) -> None:
    found = levels_of(tmp_path, run_levels({"seed": 2}))
    assert list(found.loc[0, ["memorization", "generalization"]]) == [100.0, 100.0]
    assert found.loc[1, "generalization"] == pytest.approx(100 * (0.8 - 0.056) / 0.80)
    assert found.loc[1, "report"] == pytest.approx(74.4)


@pytest.mark.parametrize("dense", [0.0, -0.1, None])
def test_without_a_dense_score_above_zero_there_is_no_percentage(tmp_path: Path, dense: float | None) -> None:
    entries = run_levels({"seed": 0})
    entries[0]["report"]["accuracy"] = dense
    found = levels_of(tmp_path, entries)
    assert found["generalization"].isna().all()
    assert found.loc[2, "memorization"] == pytest.approx(100 * 0.85 / 0.9)


def test_thirds_of_the_layers() -> None:
    ranks = {f"encoder.layer.{layer}.query": layer for layer in range(6)}  # lower 0, 1; middle 2, 3; upper 4, 5
    assert thirds(ranks, 8) == pytest.approx((100 / 16, 500 / 16, 900 / 16))
    twelve = {f"layer.{layer}.output.dense": 8 if layer >= 8 else 0 for layer in range(12)}
    assert thirds(twelve, 8) == (0.0, 0.0, 100.0)
    assert all(math.isnan(each) for each in thirds({}, 8))


def test_between_levels_the_logarithm_counts() -> None:
    live, values = [999, 99, 9, 9], [100.0, 90.0, 50.0, 60.0]
    assert interpolated(live, values, 99) == 90.0
    assert interpolated(live, values, math.sqrt(1000 * 100) - 1) == pytest.approx(95.0)
    assert interpolated(live, values, 9) == 55.0
    assert math.isnan(interpolated(live, values, 8))
    assert interpolated(live, values, 5000) == 100.0


# -- the scheduler ---------------------------------------------------------------------------------------------


def test_every_level_is_mean_and_sd_over_its_seeds(scheduler: Path) -> None:
    table = artefacts(scheduler)["levels"]
    found = row(table, "RTE", "scheduler", "3/3", "1")
    values = [100 * (0.8 - slope) / 0.8 for slope in (0.04, 0.044, 0.056)]
    assert found["generalization %"].text == f"{np.mean(values):.1f} ± {np.std(values):.1f}"
    assert found["memorization %"].text == "100.0 ± 0.0"
    assert (found["ξ"].text, found["live"].value) == ("0.001", 4800)
    assert found["% of dense"].value == 50.0
    assert [found[name].text for name in ("alive % lower", "middle", "upper")] == ["0", "75", "75"]
    points_of = [100 * (0.8 - slope) for slope in (0.04, 0.044, 0.056)]
    assert found["report"].text == f"{np.mean(points_of):.2f} ± {np.std(points_of):.2f}"
    assert row(table, "QNLI", "scheduler", "2/3", "1")["live"].value == 4800
    commands = reading.study(scheduler).missing()
    assert commands == ["python run.py method=sora schedule=sparsify task=qnli seed=2"]
    assert "Metrics: RTE acc, QNLI acc." in str(table.caption)


def test_the_papers_points_stand_beside_ours(scheduler: Path) -> None:
    table = artefacts(scheduler)["paper"]
    found = row(table, "RTE")
    assert (found["paper: dense"].text, found["paper: live"].text, found["paper: %"].text) == ("1.09M", "0.11M", "91.5")
    share = 110_000 / 1_095_000
    means = [100 - 100 * level * np.mean([0.04, 0.044, 0.056]) / 0.8 for level in (3, 2, 1, 0)]
    expected = np.interp(np.log1p(share * 9600), np.log1p([0, 800, 4800, 9600]), means)
    assert found["ours: generalization %"].value == pytest.approx(expected)
    assert "RoBERTa-large" in str(table.caption)


def test_the_fewest_parameters_that_keep_a_share_before_any_level_that_does_not(scheduler: Path) -> None:
    """Mean generalization 100, 94.2, 88.3, 82.5 at 9,600, 4,800, 800 and 0; memorization 100, 100, 94.4, 88.9."""
    found = artefacts(scheduler)
    table = found["kept"]
    for share, kept in (("generalization", [EMPTY, EMPTY, "4.8k"]), ("memorization", ["4.8k", "4.8k", "800"])):
        cells = row(table, "RTE", "scheduler", "3/3", share)
        assert [cells[f"≥ {percent} %"].text for percent in (99, 95, 90)] == kept
    means = pd.DataFrame({"generalization": [100, 80, 95], "live": [9, 5, 3]}, index=[0, 1, 2])
    assert math.isnan(fewest(means, "generalization", 90)), "the first level does not keep it"
    assert "one-shot" not in found["budgets"].caption.lower()
    assert "One-shot" not in found["generalization"].caption
    assert "Scheduler: learning rate warmed up" in found["generalization"].caption


def test_a_share_that_one_seed_does_not_reach_has_no_number(tmp_path: Path) -> None:
    """Seed 0 ends at half of the parameters; seed 1 goes on to none of them."""
    axes = {"method": ["sora"], "task": ["rte"], "seed": [0, 1]}
    levelled.study(tmp_path, "scheduler", axes, lambda each: run_levels(each)[: 4 if each["seed"] else 2], run_schedule)
    cells = row(artefacts(tmp_path)["budgets"], "RTE", "scheduler")
    assert cells["at 50 %"].value == pytest.approx(100 * (0.8 - np.mean([0.04, 0.044])) / 0.8)
    assert cells["at 25 %"].text == EMPTY


def test_the_figures_draw_the_means_and_the_seeds(scheduler: Path) -> None:
    found = artefacts(scheduler)
    for share, means in (
        ("generalization", [100, 94.1667, 88.3333, 82.5]),
        ("memorization", [100, 100, 94.444, 88.889]),
    ):
        found[share].draw(canvas := Canvas(figsize=found[share].size))
        rte, qnli = canvas.axes
        assert (rte.get_title(), qnli.get_title()) == ("RTE", "QNLI")
        (thick,) = [line for line in rte.lines if line.get_label() == "scheduler"]
        assert list(thick.get_xdata()) == [9600, 4800, 800, 0]
        assert list(thick.get_ydata()) == pytest.approx(means, abs=1e-3)
        for axis, seeds in ((rte, 3), (qnli, 2)):
            assert len([line for line in axis.lines if len(line.get_xdata()) == 4]) == 1 + seeds
        assert rte.get_xscale() == "symlog"  # the last level has none left
    assert figures.render(found["memorization"]) == figures.render(found["memorization"])
    assert not any("minus" in name for name in found["budgets"].data), "nothing to subtract"


def test_a_run_without_levels_is_noted(tmp_path: Path) -> None:
    axes = {"method": ["sora"], "task": ["rte"], "seed": [0, 1]}
    levelled.study(tmp_path, "scheduler", axes, lambda _: [], lambda _: {"kind": "none"})
    problems = tables.build(tmp_path)
    assert len(problems) == 2
    assert "has no levels; scheduler is about runs with a schedule" in problems[0]


# -- against one-shot pruning ----------------------------------------------------------------------------------


def test_differences_are_paired_by_seed(baselines: Path) -> None:
    table = artefacts(baselines)["budgets"]
    assert list(table.data["schedule"]) == [
        "scheduler",
        "scheduler, constant rate",
        "scheduler, no rate",
        "one-shot",
    ]
    live = np.log1p([0, 800, 4800, 9600])

    def at(share: float, slope: float) -> np.ndarray:
        slopes = [slope * factor for factor in (1.0, 1.1, 1.4)]
        curves = [[100 * (0.8 - each * level) / 0.8 for level in (3, 2, 1, 0)] for each in slopes]
        return np.array([np.interp(np.log1p(share * 9600), live, curve) for curve in curves])

    for share in (0.5, 0.25, 0.02):
        found = row(table, "RTE", "scheduler")
        mine, theirs = at(share, 0.04), at(share, 0.10)
        assert found[f"at {100 * share:.0f} %"].text == f"{mine.mean():.1f} ± {mine.std():.1f}"
        low, high = reference.t.interval(0.95, 2, np.mean(mine - theirs), reference.sem(mine - theirs))
        gap = found[f"at {100 * share:.0f} %, minus one-shot"]
        assert (gap.value, gap.extra["high"]) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))
    assert row(table, "RTE", "one-shot")["at 50 %, minus one-shot"].text == EMPTY


def test_what_else_varies_is_compared_with_its_own_kind(tmp_path: Path) -> None:
    axes = {"method": ["sora"], "schedule": ["sparsify", "one_shot"], "method.r": [4, 8], "task": ["rte"]}

    def worse_at_four(axes: Mapping[str, Any]) -> list[dict[str, Any]]:
        levels = run_levels(axes | {"schedule": ""})
        for entry in levels[1:]:
            entry["report"]["accuracy"] -= 0.01 * (8 - axes["method.r"]) * axes["seed"]
            entry["report"]["accuracy"] += 0.008 * axes["seed"] if axes["schedule"] == "sparsify" else 0.0
        return levels

    levelled.study(tmp_path, "pruning_baselines", axes | {"seed": [1, 2]}, worse_at_four, run_schedule)
    found = artefacts(tmp_path)
    names = ["scheduler, method.r 4", "scheduler, method.r 8", "one-shot, method.r 4", "one-shot, method.r 8"]
    assert list(found["budgets"].data["schedule"]) == names
    low, high = reference.t.interval(0.95, 1, 1.5, 0.5)  # 1 and 2 % of the dense model's 0.8, rank by rank
    for name in names[:2]:
        gap = row(found["budgets"], "RTE", name)["at 25 %, minus one-shot"]
        assert (gap.value, gap.extra["high"]) == pytest.approx((low, high))
    found["generalization"].draw(Canvas())


# -- the sweeps ------------------------------------------------------------------------------------------------


def test_the_experiment_sweeps_what_the_study_reads(typed: Command, tmp_path: Path) -> None:
    small = ("study.tasks=[synthetic_pair]", "study.seeds=[0,1]", "schedule.steps=3", *TOY[1:])
    done = typed("experiment=pruning_baselines", *small)
    assert done.status == 0, done.err
    assert [[run.seed for run in pack] for pack in done.packs] == [[0, 1]] * 4
    schedules = [pack[0].schedule for pack in done.packs]
    assert [each.kind for each in schedules] == ["sparsify", "sparsify", "sparsify", "one_shot"]
    assert [each.lr for each in schedules[:3]] == ["rewarm", "constant", "authors_zero"]
    (manifest,) = studies.read_all(tmp_path / "results", "pruning_baselines")
    assert manifest["axes"]["seed"] == [0, 1]
    assert len({run["run_id"] for run in manifest["runs"]}) == 8


@pytest.mark.parametrize("backbone", ["deberta-v3-base", "minilm-l6"])
def test_recipes_leave_room_for_the_first_level(tmp_path: Path, backbone: str) -> None:
    """Both have one for CoLA with a threshold of its own, which may not lie above the levels."""
    (run,) = runs(tmp_path, "experiment=scheduler", "method=sora", "schedule=sparsify", "task=cola", backbone=backbone)
    assert run.schedule.levels[0] == run.method.threshold == 1e-4  # type: ignore[attr-defined]
