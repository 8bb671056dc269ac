"""Every study but the main table: its own numbers against the records, scipy, or a hand computation."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure as Canvas
from omegaconf import OmegaConf
from scipy.stats import spearmanr

import experiments
from experiments import published, rank_map, seeds
from experiments.conditions import conditions
from experiments.scores import chosen
from experiments.study import load
from experiments.tables import EMPTY, Table
from sora.cli.main import joined
from sora.runs import manifest as studies
from tests.composing import CONF
from tests.experiments import answered, made, reading
from tests.experiments.answered import Answered, share
from tests.experiments.reading import artefacts, row, rows
from tests.experiments.test_main_table import of

SEEDS = [0, 1, 2]
NAMES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_study_has_a_sweep_that_takes_backbone_tasks_and_seeds(name: str) -> None:
    overrides = [f"experiment={name}", "backbone=minilm-l6", "study.tasks=[rte,wnli]", "study.seeds=[3,4]"]
    with initialize_config_dir(str(CONF), version_base="1.3"):  # the resolver is that of sora/cli/main.py
        OmegaConf.register_new_resolver("join", joined, replace=True)
        config = compose("config", overrides, return_hydra_config=True)
        params = {key: str(config.hydra.sweeper.params[key]) for key in config.hydra.sweeper.params}
    assert config.study.name == name
    assert experiments.find(name).title != experiments.find("sweep").title, "it has a module of its own"
    assert config.hydra.mode.name == "MULTIRUN"
    assert params["task"] == "rte,wnli"
    assert "3,4" in (params.get("seed"), params.get("seeds.init"))
    text = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"python run.py experiment={name}\n" in text or f"python run.py experiment={name} " in text
    assert len(yaml.safe_load(text)["study"]["tasks"]) >= 2  # the paper's, or of its scale


def test_a_study_of_somebody_elses_name_is_shown_as_a_sweep(tmp_path: Path) -> None:
    made.study(tmp_path, "mine", {"method": ["lora"], "task": ["rte"], "seed": SEEDS}, leave_out=1)
    cells = row(artefacts(tmp_path)["scores"], "LoRA", "RTE", "RTE acc.")
    assert cells["selected weights"].text.endswith("(2/3)")
    selected, last = cells["selected weights"].value, cells["last weights"].value
    assert isinstance(selected, float)
    assert last == pytest.approx(0.9 * selected), "what made.record gives the last weights"


def test_values_that_are_lists_or_objects_can_be_swept_over(tmp_path: Path) -> None:
    axes = {"method": ["lora"], "method.options": [{"r": 8}, {"r": [16]}], "task": ["rte"], "seed": SEEDS}
    studies.write(tmp_path, made.manifest("mine", axes))
    (study,) = load(tmp_path).studies
    assert study.values("method.options") == [(("r", 8),), (("r", (16,)),)]
    (table,) = experiments.find("mine").build(study)
    assert len(table.data) == 2


ONE: dict[str, list[Any]] = {"task": ["rte"], "seed": [0, 1]}
VALUES = {  # study -> the axes that it has besides method, task and seed
    "learning_rate": {"trainer.learning_rate": [1e-4, 4e-4]},
    "rank_budget": {"method.r": [2, 4]},
    "threshold": {"method.threshold": [1e-4, 4e-4]},
    "penalty": {"method.penalty": [0.1, 1]},
    "seeds": {"seeds.init": [0, 1], "seeds.data": [0, 1]},
}


@pytest.mark.parametrize("name", NAMES)
def test_every_study_has_a_page_before_its_first_run_and_after(tmp_path: Path, name: str) -> None:
    axes: dict[str, list[Any]] = {"method": ["lora", "sora"], "task": ["rte"], "seed": [0, 1]} | VALUES.get(name, {})
    studies.write(tmp_path, made.manifest(name, axes))
    (study,) = load(tmp_path).studies
    built = experiments.find(name).build(study)
    assert any(isinstance(artefact, Table) for artefact in built)
    assert conditions(study).startswith("Backbone" if study.values("backbone") else "Seeds")
    made.study(tmp_path, name, axes, items=20)
    (study,) = load(tmp_path).studies
    built = experiments.find(name).build(study)
    assert len({artefact.name for artefact in built}) == len(built)
    for artefact in built:
        if isinstance(artefact, Table):
            assert artefact.data.columns.is_unique
            assert len(artefact.show) == len(artefact.data)
        else:
            artefact.draw(Canvas(figsize=artefact.size))


# -- efficiency ------------------------------------------------------------------------------------------------


def test_seconds_per_epoch_are_those_of_runs_trained_alone(tmp_path: Path) -> None:
    manifest = made.study(
        tmp_path, "efficiency", {"method": ["adalora", "sora"], "task": ["cola"], "seed": SEEDS}, leave_out=1
    )
    for index, run in enumerate(manifest["runs"][:5]):
        path = tmp_path / run["record"]
        content = json.loads(path.read_text())
        content["time"]["train_s"] = 10.0 + index
        content["history"][-1]["epoch"] = 2.0
        if index == 0:
            content["pack"] = {"size": 2, "members": [content["run_id"], "0" * 12]}
        path.write_text(json.dumps(content))
        if index == 4:  # made on a GPU
            content["provenance"]["device"] = "NVIDIA H200"
            content["memory"]["peak_bytes"], content["throughput"]["examples_per_s"] = 3 * 2**30, 70.0
            path.write_text(json.dumps(content))
    table, cost = (artefacts(tmp_path)[name] for name in ("efficiency", "cost"))
    sora, adalora = row(cost, "SoRA", "CoLA"), row(cost, "AdaLoRA", "CoLA")
    assert (sora["peak memory (GiB)"].value, adalora["peak memory (GiB)"].text) == (3.0, EMPTY), "a CPU has none"
    assert "a CPU's cannot be compared" in cost.caption
    assert sora["examples/s"].value > adalora["examples/s"].value > 0
    cells = row(table, "CoLA")
    assert cells["AdaLoRA"].value == pytest.approx((11 + 12) / 2 / 2)  # the first was in a pack
    assert cells["SoRA"].text == "6.8 ± 0.2"
    assert cells["SoRA to AdaLoRA"].value == pytest.approx(100 * (14 / 11 - 1))  # seed 1, which both have alone
    assert cells["SoRA paper, SoRA to AdaLoRA"].text == "-64.3 %"  # as its Table 4 prints
    assert "1 runs were trained in a pack" in table.notes[0]


def test_the_time_of_a_run_that_diverged_is_left_out(tmp_path: Path) -> None:
    """Two epochs took ten seconds; the other seed stopped after one."""
    made.study(tmp_path, "efficiency", {"method": ["sora"], "task": ["cola"], "seed": [0, 1]})

    def timed(record: dict[str, Any]) -> None:
        record["time"]["train_s"], record["history"][-1]["epoch"] = 10.0, 2.0
        if record["config"]["seed"] == 0:
            record["time"]["train_s"] = 1.0
            record["status"], record["flags"]["diverged_at"] = "diverged", 7

    made.change(tmp_path, timed)
    table = artefacts(tmp_path)["efficiency"]
    assert row(table, "CoLA")["SoRA"].value == 5.0
    assert "1 runs diverged" in table.notes[0]


# -- rank_map --------------------------------------------------------------------------------------------------


def test_rank_totals_and_agreement(tmp_path: Path) -> None:
    made.study(tmp_path, "rank_map", {"method": ["sora"], "task": ["qqp"], "seed": SEEDS})
    found = artefacts(tmp_path)
    ranks = [json.loads(path.read_text())["ranks"] for path in of(tmp_path, "sora", "qqp")]
    cells = row(found["rank_map"], "SoRA", "QQP")
    assert cells["ranks"].value == pytest.approx(np.mean([sum(each.values()) for each in ranks]))
    assert cells["kept"].value == pytest.approx(100 * cells["ranks"].value / (8 * 36))
    pairs = [spearmanr(list(a.values()), list(b.values())).statistic for a, b in itertools.combinations(ranks, 2)]
    assert cells["rank agreement"].value == pytest.approx(np.mean(pairs))
    assert cells["SoRA paper, Figure 3"].text == "548 ranks"
    grid = rank_map.grid(rank_map.ranks_of(study := reading.study(tmp_path), study.runs))
    assert grid.shape == (6, 6)
    expected = np.mean([each["encoder.layer.3.attention.self.value"] for each in ranks])
    assert grid.loc[3, "attention.self.value"] == pytest.approx(expected)
    assert "data dependence" not in cells, "these records have no ranks to compare with"


def test_what_adalora_keeps_is_a_share_of_the_ranks_it_starts_with(tmp_path: Path) -> None:
    """Twelve in each of 36 matrices, of which it is to keep eight."""
    made.study(tmp_path, "rank_map", {"method": ["adalora"], "method.init_r": [12], "task": ["rte"], "seed": [0, 1]})
    kept = [sum(json.loads(path.read_text())["ranks"].values()) for path in of(tmp_path, "adalora", "rte")]
    cells = row(artefacts(tmp_path)["rank_map"], "AdaLoRA")
    assert cells["kept"].value == pytest.approx(100 * np.mean(kept) / (12 * 36))


@pytest.mark.parametrize(
    ("name", "table", "places"),
    [
        ("rank_map", "rank_map", [{"seed": seed} for seed in (0, 1)]),
        ("efficiency", "cost", [{"seed": seed} for seed in (0, 1)]),
        ("seeds", "seeds", [{"seeds.init": i, "seeds.data": j} for i in (0, 1) for j in (0, 1)]),
    ],
)
def test_settings_are_no_seeds(name: str, table: str, places: list[dict[str, int]], tmp_path: Path) -> None:
    """Of two thresholds the one with more right answers on the select split stands, and every number is its own."""
    for xi, select, report in ((1e-4, 200, 250), (3e-4, 300, 350)):
        kept = [8, 4, 2, 1] if xi == 1e-4 else [8, 0, 8, 0]
        runs = [
            Answered(
                {"method": "sora", "task": "rte", "method.threshold": xi, **place},
                share(report, 400),
                share(select, 400),
                round(1e8 * xi),
                (kept, kept),
            )
            for place in places
        ]
        answered.study(tmp_path, name, runs)
    found = artefacts(tmp_path)
    cells = row(found[table], "SoRA")
    assert cells["runs"].text == f"{len(places)}/{len(places)}"
    assert found[table].caption.count("Of 2 settings of a row") == 1
    if name == "seeds":
        assert (cells["mean"].value, cells["SD"].value, cells["SD rest"].value) == (87.5, 0, pytest.approx(0, abs=1e-9))
    else:
        assert cells["live parameters"].value == 30_000
    if name == "rank_map":
        assert (cells["ranks"].text, cells["kept"].text) == ("16.0 ± 0.0", "50.0 %")
        assert set(rank_map.ranks_of(study := reading.study(tmp_path), chosen(study, "method"))["rank"]) == {0, 8}


def test_ranks_are_shown_beside_their_dependence_on_data(tmp_path: Path) -> None:
    """Ranks that the initial draw alone leaves: equal for seed 0, reversed for seed 1; 1 - correlation is 0 and 2."""
    made.study(tmp_path, "main_table", {"method": ["lora", "sora"], "task": ["rte"], "seed": [0, 1]})
    for path in of(tmp_path, "sora", "rte"):
        record = json.loads(path.read_text())
        ranks = record["ranks"]
        drawn = ranks if record["config"]["seed"] == 0 else {name: 8 - rank for name, rank in ranks.items()}
        record["no_data_ranks"] = {"selected": drawn, "same_total": ranks}
        path.write_text(json.dumps(record))
    found = artefacts(tmp_path)
    for name, place in (("main_table", ["RTE acc."]), ("details", [])):
        assert row(found[name], *place, "SoRA")["data dependence"].value == pytest.approx(1.0)
        assert row(found[name], *place, "SoRA")["data dependence"].text == "1.00 (0.00)"
        assert row(found[name], *place, "LoRA")["data dependence"].text == EMPTY
    study = reading.study(tmp_path)
    table = next(each for each in experiments.find("rank_map").build(study) if each.name == "rank_map")
    assert row(table, "SoRA")["data dependence"].text == "1.00 (0.00)"


def test_a_rank_map_has_the_draw_below_it_cut_as_the_threshold_does_and_to_the_runs_own_number(tmp_path: Path) -> None:
    made.study(tmp_path, "rank_map", {"method": ["sora"], "task": ["rte"], "seed": [0]})
    (path,) = of(tmp_path, "sora", "rte")
    record = json.loads(path.read_text())
    ranks = record["ranks"]
    turned = dict(zip(ranks, reversed(ranks.values()), strict=True))
    record["no_data_ranks"] = {"selected": {name: 8 - rank for name, rank in ranks.items()}, "same_total": turned}
    path.write_text(json.dumps(record))
    study = reading.study(tmp_path)
    figure = next(each for each in experiments.find("rank_map").build(study) if each.name == "ranks_sora-rte")
    figure.draw(canvas := Canvas())
    lower = 1 - np.corrcoef(list(ranks.values()), list(turned.values()))[0, 1]
    total = sum(ranks.values())
    titles = [axis.get_title().splitlines()[-1] for axis in canvas.axes if axis.get_title()]
    forecast = 8 * len(ranks) - total
    assert titles == [f"trained: {total}", f"no data: {forecast} (2.00)", f"as many: {total} ({lower:.2f})"]


@pytest.mark.parametrize(
    ("regimes", "words"),
    [
        ([{"rho": 0.2, "travel": 1.0}, {"rho": 0.5, "travel": 0.5}], ""),
        ([{"rho": 0.6, "travel": 1.0}, {"rho": 0.2, "travel": 0.4}], "In 2 of 2 runs of SoRA"),
        ([{"rho": 0.2, "travel": 1.0}, {"rho": 0.2, "travel": 0.4}], "In 1 of 2 runs of SoRA"),
    ],
)
def test_what_shows_ranks_says_where_the_loss_could_not_hold_them(
    tmp_path: Path, regimes: list[dict[str, float]], words: str
) -> None:
    made.study(tmp_path, "rank_map", {"method": ["sora"], "task": ["rte"], "seed": [0, 1]})
    for path in of(tmp_path, "sora", "rte"):
        record = json.loads(path.read_text())
        record["regime"] = regimes[record["config"]["seed"]] | {"shrink": 1.0}
        path.write_text(json.dumps(record))
    found = artefacts(tmp_path)
    assert ("".join(found["rank_map"].notes).startswith(words), bool(found["rank_map"].notes)) == (True, bool(words))
    assert words in found["ranks_sora-rte"].caption
    hedged = "where ranks stay is expected to follow the initial draw (docs/regime.md)"
    assert (hedged in found["ranks_sora-rte"].caption) == bool(words)
    page = conditions(reading.study(tmp_path))
    rhos, travels = (
        ", ".join(f"{v:g}" for v in sorted({each[name] for each in regimes})) for name in ("rho", "travel")
    )
    cells = [cell.strip() for cell in page.splitlines()[-1].strip("|").split("|")]
    assert cells[-2:] == [rhos, travels]


def test_agreement_on_dead_modules_leaves_out_pairs_without_any() -> None:
    runs = pd.DataFrame(
        [{"a": 0, "b": 0, "c": 3}, {"a": 0, "b": 1, "c": 2}, {"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 1, "c": 1}]
    )
    # {a, b} with {a}: 1/2; either of them with the empty set: 0, four times; two empty sets: left out
    assert rank_map.dead_agreement(runs) == pytest.approx(0.5 / 5)
    assert math.isnan(rank_map.dead_agreement(runs[2:]))
    assert math.isnan(rank_map.agreement(runs[:1]))


def test_published_rank_maps_have_the_papers_totals() -> None:
    printed = published.ranks().set_index("task").filter(like="layer_")
    assert printed.sum(axis=1).groupby("task").sum().to_dict() == {"qqp": 548, "mnli": 480, "mrpc": 237, "qnli": 77}
    assert (printed.loc["qnli"] == 0).to_numpy().sum() == 23


# -- fidelity --------------------------------------------------------------------------------------------------


def test_the_readings_are_compared_with_the_same_head(tmp_path: Path) -> None:
    axes = {
        "method": ["sora"],
        "method.fidelity": ["authors", "paper"],
        "head": ["classifier+pooler", "frozen"],
        "task": ["rte"],
        "seed": SEEDS,
    }
    made.study(tmp_path, "fidelity", axes)
    found = artefacts(tmp_path)
    pairs = [(each["baseline"].text, each["method"].text) for each in rows(found["comparisons"])]
    assert pairs == [(f"authors {head}", f"paper {head}") for head in axes["head"]]
    scores = {(e["reading"].text, e["head"].text): e["RTE acc."].value for e in rows(found["fidelity"])}
    difference = row(found["comparisons"], "authors frozen")["difference"].value
    assert difference == pytest.approx(scores["paper", "frozen"] - scores["authors", "frozen"], abs=1e-4)


# -- seeds -----------------------------------------------------------------------------------------------------


def test_a_grid_that_grew_by_further_sweeps_is_one_study(tmp_path: Path) -> None:
    """Its numbers are those of one sweep over the grid; a sweep that nobody named, or another setting, stays apart."""
    rate = "trainer.learning_rate"
    for rates, seed in (([1e-3, 2e-3], 1), ([5e-4], 1), ([5e-4, 1e-3, 2e-3], 2)):
        made.study(
            tmp_path / "parts", "learning_rate", {"method": ["sora"], "task": ["rte"], rate: rates, "seed": [seed]}
        )
    whole = {"method": ["sora"], "task": ["rte"], rate: [5e-4, 1e-3, 2e-3], "seed": [1, 2]}
    made.study(tmp_path / "whole", "learning_rate", whole)
    (parts,), (once,) = load(tmp_path / "parts").studies, load(tmp_path / "whole").studies
    assert parts.key == once.key
    assert parts.axes[rate] == [5e-4, 1e-3, 2e-3]
    assert len(parts.done) == 6
    assert artefacts(tmp_path / "parts")["best"].data.equals(artefacts(tmp_path / "whole")["best"].data)
    assert len(load(tmp_path / "parts", by_manifest=True).studies) == 3
    for seed in (1, 2):
        made.study(tmp_path / "unnamed", studies.UNNAMED, {"task": ["rte"], "seed": [seed]})
        other = made.manifest("seeds", {"task": ["rte"], "seed": [seed]}, {"trainer.max_steps": str(seed)})
        studies.write(tmp_path / "unnamed", other)
    assert len(load(tmp_path / "unnamed").studies) == 4


def test_parts_of_a_grid_that_name_two_runs_at_one_place_are_not_believed(tmp_path: Path) -> None:
    made.study(tmp_path, "learning_rate", {"task": ["rte"], "seed": [1]})
    later = made.manifest("learning_rate", {"task": ["rte"], "seed": [1, 2]})
    later["runs"][0] |= {"run_id": "0" * 12, "record": f"records/minilm-l6/rte/sora-s1-{'0' * 12}.json"}
    studies.write(tmp_path, later)
    loaded = load(tmp_path)
    assert list(loaded.studies[0].runs["reason"]) == ["in manifests that contradict each other", "not run"]
    assert any("contradict each other (runs" in problem for problem in loaded.problems)


def test_parts_of_the_variance_are_those_of_the_grid(tmp_path: Path) -> None:
    axes = {"method": ["sora"], "task": ["rte"], "seeds.init": SEEDS, "seeds.data": [5, 6]}
    manifest = made.study(tmp_path, "seeds", axes)
    scores = np.zeros((3, 2))
    for run in manifest["runs"]:
        value = json.loads((tmp_path / run["record"]).read_text())["metrics"]["selected"]["report"]["accuracy"]
        scores[SEEDS.index(run["axes"]["seeds.init"]), [5, 6].index(run["axes"]["seeds.data"])] = 100 * value
    expected = seeds.parts(pd.DataFrame(scores))
    cells = row(artefacts(tmp_path)["seeds"], "SoRA")
    assert {name: cells[name].value for name in expected} == pytest.approx(expected)
