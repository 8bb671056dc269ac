"""What all studies say together: which settings are compared, the differences with their verdicts, the pictures."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from scipy import stats

import experiments
from experiments import figures, overview, primary, sweep
from experiments.labels import ARMS, MAJORITY
from experiments.learning_curves import gates
from experiments.study import Study, load
from experiments.summary import Section
from experiments.tables import EMPTY, Figure, Table
from sora.runs import manifest as studies
from tests.experiments import armed, made, reading

SEEDS = [0, 1, 2]
METHODS = ["full", "lora", "sora"]


def sections(results: Path) -> list[Section]:
    loaded = load(results)
    assert loaded.problems == []
    return [Section(each, "", experiments.find(each.name).build(each), {}) for each in loaded.studies]


def history(record: dict[str, Any]) -> None:
    """Three evaluations."""
    record["history"] = [
        {"step": 100 * k, "epoch": k / 3, "lr": 1e-3, "threshold": None, "loss": 1 / k, "live_ranks": 40 - k}
        | {"select": {name: value * k / 3 for name, value in record["metrics"]["selected"]["select"].items()}}
        for k in (1, 2, 3)
    ]


# -- score against live parameters -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> list[Section]:
    results = tmp_path_factory.mktemp("swept")
    task = {"task": ["rte"]}
    made.study(results, "main_table", {"method": METHODS, **task, "seed": SEEDS})
    made.study(results, "rank_budget", {"method": ["lora", "sora"], **task, "method.r": [4, 16], "seed": SEEDS})
    made.study(results, "threshold", {"method": ["sora"], **task, "method.threshold": [1e-5, 1e-3], "seed": SEEDS})
    made.study(results, "mine", {"method": ["probe", "zero_shot"], **task, "seed": [0]})
    longer = {"method": ["lora"], **task, "method.r": [2], "trainer.max_steps": [99], "seed": SEEDS}
    made.study(results, "longer", longer)
    made.study(results, "learning_rate", {"method": ["lora"], **task, "trainer.learning_rate": [1e-2], "seed": [7]})
    return sections(results)


def test_an_arm_that_is_another_is_one_point(tmp_path: Path) -> None:
    """SoRA-small in two sweeps, and all of its runs as SoRA-best."""
    armed.arm(tmp_path, "lora_r8", {seed: armed.right(300) for seed in armed.SEEDS})
    parts = [
        armed.arm(tmp_path, "sora_small", {seed: armed.right(300 + seed) for seed in each}) for each in ((0, 21), (42,))
    ]
    axes = {"method": ["sora"], "task": ["sst2"], "seed": list(armed.SEEDS)}
    runs = [run for part in parts for run in studies.read(part)["runs"]]
    fixed = {"backbone": "minilm-l6", studies.ARM: "sora_best"}
    studies.write(tmp_path, studies.make("main_table", axes, fixed, runs))
    found = overview.settings(sections(tmp_path))
    assert found.loc[found["method"] == "sora", "n"].tolist() == [3]


def test_settings_are_those_that_were_trained_alike(swept: list[Section]) -> None:
    """LoRA over r, SoRA over ξ at one r; not what trained longer, nor the runs that chose a learning rate."""
    found = overview.settings(swept).fillna({"method.r": 0.0})
    ranks = {method: sorted(part["method.r"]) for method, part in found.groupby("method")}
    assert ranks["lora"] == [4, 8, 16]
    assert ranks["sora"] == [8, 8, 8]
    assert sorted(found.loc[found["method"] == "sora", "method.threshold"]) == [1e-5, 1e-4, 1e-3]
    assert {"full", "probe", "zero_shot", MAJORITY} <= set(found["method"])
    main = next(section.study for section in swept if section.study.name == "main_table")
    expected = main.done[main.done["method"] == "full"]["score"]
    row = found[found["method"] == "full"].iloc[0]
    assert (row["mean"], row["sd"], row["n"]) == pytest.approx((expected.mean(), expected.std(ddof=0), 3))


def test_what_was_trained_as_the_main_table_stands_also_where_more_was_trained_otherwise(tmp_path: Path) -> None:
    axes = {"method": ["lora"], "task": ["rte"], "seed": SEEDS}
    made.study(tmp_path, "main_table", axes, items=20)
    longer = axes | {"method.r": [2, 4], "trainer.max_steps": [99]}
    made.study(tmp_path, "rank_budget", longer, items=20)
    found = overview.settings(sections(tmp_path))
    assert found.loc[found["method"] == "lora", "method.r"].tolist() == [8]


def test_probes_of_other_studies_stand_in_the_main_table_of_methods(swept: list[Section]) -> None:
    first = next(
        section
        for section in overview.with_baselines(swept, overview.settings(swept))
        if section.study.name == "main_table"
    )
    table = first.artefacts[0]
    assert isinstance(table, Table)
    assert [each["method"].text for each in reading.rows(table)] == [
        *("Fine-tuning", "LoRA", "SoRA", MAJORITY, "Linear probe", "Zero-shot cosine")
    ]
    probe = next(section.study.done for section in swept if section.study.name == "mine").iloc[0]
    cells = reading.row(table, "RTE acc.", "Linear probe")
    assert (cells["n"].text, cells["score"].value) == ("1/1", pytest.approx(probe["score"]))
    assert cells["verdict"].text == EMPTY
    assert len(table.show) == 6


def test_a_method_and_its_arms_have_one_colour_in_every_figure() -> None:
    looks = {key: figures.line(key) for key in ("lora", "sora", "adalora", "full", "adapter", "bitfit")}
    assert [looks[key]["color"] for key in ("lora", "sora")] == ["#0072B2", "#D55E00"]
    assert len({look["color"] for look in looks.values()}) == len(looks)
    for arm in ARMS:
        method = arm.partition("_")[0]
        assert figures.line(arm)["color"] == looks.get(method, figures.line(arm))["color"]
    assert figures.line("sora_small")["linestyle"] != figures.line("sora_best")["linestyle"]
    assert overview.LINES["full"][1] == looks["full"]["color"]


def test_a_picture_has_its_resolution_and_a_place_for_no_parameters(swept: list[Section]) -> None:
    found = overview.settings(swept)
    found.loc[found["method.threshold"] == 1e-3, "live"] = 0.0
    (figure,) = overview.pareto(found)
    png, svg = figures.render(figure)
    width, height = struct.unpack(">II", png[16:24])
    assert (width, height) == pytest.approx([round(200 * side) for side in figure.size], abs=1)
    assert figures.render(figure) == (png, svg)
    assert figure.size[0] <= figures.WIDTH


@pytest.mark.parametrize("least", [300_000.0, 0.0])
def test_the_axes_of_two_settings_can_be_read(swept: list[Section], least: float) -> None:
    """Scores 0.01 apart and sizes 1 % apart, or none: an axis spans a point and a factor of 2, and has few labels."""
    found = overview.settings(swept)
    found = found[found["method"].isin(["lora", "sora"])].drop_duplicates("method")
    (figure,) = overview.pareto(found.assign(live=[least, 303_000.0], mean=[70.0, 70.01], sd=[np.nan, 0.0]))
    canvas = drawn(figure)
    (axis,) = canvas.axes
    low, high = axis.get_xlim()
    assert high >= 2 * low
    assert np.ptp(axis.get_ylim()) >= 1
    for ticks, limits in ((axis.get_xticks(), axis.get_xlim()), (axis.get_yticks(), axis.get_ylim())):
        assert 2 <= sum(limits[0] <= tick <= limits[1] for tick in ticks) <= 5
    assert whole(canvas)


def drawn(figure: Figure) -> Canvas:
    """The canvas as it is before it becomes a file."""
    canvas = Canvas(figsize=figure.size, layout="constrained")
    FigureCanvasAgg(canvas)
    with rc_context(figures.STYLE):
        figure.draw(canvas)
        canvas.draw_without_rendering()
    return canvas


def whole(canvas: Canvas) -> bool:
    """Whether nothing reaches over the picture's edge."""
    box, (width, height) = canvas.get_tightbbox(), canvas.get_size_inches()
    return min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0


def test_nothing_gives_nothing() -> None:
    above = overview.overview([])
    assert (above.headline, list(above.figures), len(above.coverage)) == ("", [], 0)


# -- SoRA against LoRA ------------------------------------------------------------------------------------------


def test_differences_are_paired_by_seed(swept: list[Section]) -> None:
    (row,) = overview.differences(swept).to_dict("records")
    runs = next(section.study.done for section in swept if section.study.name == "main_table")
    scores = runs.pivot_table(index="seed", columns="method", values="score")
    gaps = scores["sora"] - scores["lora"]
    low, high = stats.ttest_1samp(gaps, 0).confidence_interval()
    assert (row["difference"], *(row[end] for end in primary.ENDS[:2])) == pytest.approx((gaps.mean(), low, high))
    assert row["margin"] == primary.MARGINS["accuracy"]
    live = runs.groupby("method")["params.live"].mean()
    assert row["share"] == pytest.approx(100 * live["sora"] / live["lora"], abs=0.01)


def test_comparisons_of_arms_are_those_fixed_beforehand(tmp_path: Path) -> None:
    for name, count, live in (("lora_r8", 300, 300), ("sora_small", 310, 150), ("lora_equal", 250, 150)):
        armed.arm(
            tmp_path, name, {seed: armed.right(count + seed // 21, start=seed) for seed in armed.SEEDS}, live=live
        )
    (section,) = sections(tmp_path)
    found = overview.differences([section])
    assert list(found["verdict"]) == list(primary.tests(section.study)["verdict"])
    assert list(found["share"]) == pytest.approx([50, 100])
    above = overview.overview([section])
    assert above.headline == primary.headline(section.study)
    assert set(above.coverage["method"]) == {"LoRA r = 8", "SoRA-small", "LoRA of equal size"}
    forest = next(figure for figure in above.figures if figure.name == "sora_minus_lora")
    assert figures.render(forest)[0].startswith(b"\x89PNG")


# -- what is there ----------------------------------------------------------------------------------------------


def test_coverage_counts_what_is_there_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    made.study(tmp_path, "main_table", {"method": METHODS, "task": ["rte"], "seed": SEEDS}, leave_out=1, items=20)
    made.change(tmp_path, lambda record: record["flags"].update(one_class=record["config"]["seed"] == 0), "lora")
    found = overview.coverage([section.study for section in sections(tmp_path)])
    assert list(zip(found["method"], found["words"], found["state"], strict=True)) == [
        ("Fine-tuning", "3/3", "done"),
        ("LoRA", "3/3, 1 one-class", "bad"),
        ("SoRA", "2/3", "open"),
    ]


def test_a_run_that_stands_in_two_rows_is_there_in_both(tmp_path: Path) -> None:
    """The largest rho within half a point of the best may be the best one: SoRA-best and SoRA-small are one run."""
    manifest = studies.read(armed.arm(tmp_path, "sora_small", {seed: armed.right(300) for seed in armed.SEEDS}))
    fixed = manifest["fixed"] | {studies.ARM: "sora_best"}
    studies.write(tmp_path, studies.make("main_table", manifest["axes"], fixed, manifest["runs"]))
    found = overview.coverage([reading.study(tmp_path)])
    assert dict(zip(found["method"], found["words"], strict=True)) == {"SoRA-best": "3/3", "SoRA-small": "3/3"}


# -- pictures of one study --------------------------------------------------------------------------------------


def names(study: Study) -> list[str]:
    return [each.name for each in experiments.find(study.name).build(study)]


def test_learning_curves_need_two_evaluations(tmp_path: Path) -> None:
    made.study(tmp_path, "main_table", {"method": METHODS, "task": ["rte"], "seed": SEEDS}, items=20)
    assert not any(name.startswith("learning_curves") for name in names(reading.study(tmp_path)))
    made.change(tmp_path, history)
    study = reading.study(tmp_path)
    figure = next(each for each in experiments.find("main_table").build(study) if each.name == "learning_curves-rte")
    assert figures.render(figure)[1].startswith(b"<?xml")


def test_gates_and_no_data_ranks_are_shown_where_records_have_them(tmp_path: Path) -> None:
    made.study(tmp_path, "rank_map", {"method": ["sora"], "task": ["rte"], "seed": SEEDS}, items=20)
    study = reading.study(tmp_path)
    assert gates(study, study.runs) is None
    plain = next(each for each in experiments.find("rank_map").build(study) if each.name == "ranks_sora-rte")

    def more(record: dict[str, Any]) -> None:
        history(record)
        for entry in record["history"]:
            entry["gate_histogram"] = [entry["step"], *range(12)]
        record["no_data_ranks"] = {"selected": record["ranks"]}

    made.change(tmp_path, more)
    study = reading.study(tmp_path)
    whole = next(each for each in experiments.find("rank_map").build(study) if each.name == "ranks_sora-rte")
    assert whole.size[1] > 1.5 * plain.size[1]  # a row of maps more
    assert "without any data" in whole.caption
    assert "without any data" not in plain.caption
    found = gates(study, study.runs)
    assert found is not None
    found.draw(canvas := Canvas())
    shares = canvas.axes[0].images[0].get_array()  # bins by steps
    assert shares[[0, 1, 2, 12], 0].tolist() == pytest.approx([10000 / 166, 0, 100 / 166, 1100 / 166], abs=1e-3)
    assert shares[0].tolist() == pytest.approx([10000 / 166, 20000 / 266, 30000 / 366], abs=1e-3)
    for figure in (plain, whole, found):
        assert figures.render(figure)[0].startswith(b"\x89PNG")


def test_rate_and_threshold_are_a_map_where_both_vary(tmp_path: Path) -> None:
    axes = {"method": ["sora"], "task": ["rte"], "method.threshold": [1e-5, 1e-4], "seed": [0]}
    made.study(tmp_path / "one", "threshold", axes, items=20)
    assert sweep.rate_by_threshold(reading.study(tmp_path / "one")) == []
    apart = [{"trainer.learning_rate": [rate], "method.threshold": [rate / 10]} for rate in (1e-4, 1e-3)]
    diagonal = [run for each in apart for run in made.manifest("threshold", axes | each)["runs"]]
    for run in diagonal:
        made.write_run(tmp_path / "single", run["axes"], items=20)
    single = load(tmp_path / "single").single
    assert single is not None
    assert sweep.rate_by_threshold(single) == [], "ξ goes with the rate"
    made.study(tmp_path / "two", "threshold", axes | {"trainer.learning_rate": [1e-4, 1e-3]}, items=20)
    maps = [each for each in sweep.rate_by_threshold(reading.study(tmp_path / "two")) if isinstance(each, Figure)]
    assert [each.name for each in maps] == ["score_by_rate_and_threshold", "ranks_by_rate_and_threshold"]
    third = axes | {"trainer.learning_rate": [1e-4, 1e-3], "method.r": [4, 8]}
    made.study(tmp_path / "three", "threshold", third, items=20)
    assert sweep.rate_by_threshold(reading.study(tmp_path / "three")) == [], "another setting is no seed"
    assert figures.render(maps[0])[0].startswith(b"\x89PNG")
    for rate, threshold in ((1e-4, 1e-5), (1e-3, 1e-4)):  # one rho
        place = axes | {"method.threshold": [threshold], "trainer.learning_rate": [rate]}
        made.study(tmp_path / "diagonal", "threshold", place, items=20)
    assert sweep.rate_by_threshold(reading.study(tmp_path / "diagonal")) == []
