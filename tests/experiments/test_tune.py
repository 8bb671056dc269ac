"""scripts/tune.py: what a grid of learning rates chooses becomes the recipe of later runs, and is told of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from experiments import tuning
from experiments.conditions import conditions, described
from experiments.study import load
from scripts import tune
from sora.errors import UserError
from sora.runs import records
from sora.runs.recipes import origin
from tests.composing import CONF, runs
from tests.experiments import made

AXES = {
    "method": ["lora", "sora"],
    "trainer.learning_rate": [2e-4, 8e-4],
    "task": ["stsb"],
    "seed": [1, 2],
}


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    target = tmp_path / "conf"
    shutil.copytree(CONF / "recipe", target / "recipe")
    return target


def select_means(results: Path) -> dict[tuple[str, float], float]:
    """Mean Pearson correlation on the select split, straight from the records' JSON."""
    found: dict[tuple[str, float], list[float]] = {}
    for path in (results / "records").rglob("*.json"):
        record = records.read(path)
        key = record["config"]["method"]["name"], record["config"]["trainer"]["learning_rate"]
        found.setdefault(key, []).append(record["metrics"]["selected"]["select"]["pearson"])
    return {key: sum(values) / len(values) for key, values in found.items()}


def test_the_best_rate_of_the_select_split_becomes_the_recipe(tmp_path: Path, conf: Path) -> None:
    results = tmp_path / "results"
    manifest = made.study(results, "learning_rate", AXES)
    assert tune.main(["--results", str(results), "--conf", str(conf)]) == 0
    means = select_means(results)
    for method in ("lora", "sora"):
        best = max((2e-4, 8e-4), key=lambda rate: means[method, rate])
        content = yaml.safe_load((conf / "recipe" / "minilm-l6" / method / "stsb.yaml").read_text())
        assert content["trainer"] == {"learning_rate": best}
        assert content["recipe"] == f"minilm-l6/{method}/stsb"
        trials = "learning rate of 0.0002, 0.0008 by the select split of protocol=paper, seeds 1, 2"
        assert content["tuned"] == f"{trials} (studies/learning_rate-{manifest['hash']})"
    sora = yaml.safe_load((conf / "recipe" / "minilm-l6" / "sora" / "stsb.yaml").read_text())
    assert sora["method"] == yaml.safe_load((CONF / "recipe/minilm-l6/sora/stsb.yaml").read_text())["method"]
    written = {path: path.read_bytes() for path in conf.rglob("*.yaml")}
    assert tune.main(["--results", str(results), "--conf", str(conf)]) == 0
    assert written == {path: path.read_bytes() for path in conf.rglob("*.yaml")}, "a second call changes nothing"


def test_of_rates_with_one_seed_and_with_two_those_with_two_decide() -> None:
    assert tuning.best({(2e-3, 1): 85.0, (1e-3, 1): 85.0}) == tuning.best({(1e-3, 1): 85.0, (2e-3, 1): 85.0}) == 1e-3
    assert tuning.best({(1e-3, 1): 85.0, (5e-4, 1): 80.0, (5e-4, 2): 82.0, (2e-3, 1): 80.0, (2e-3, 2): 81.0}) == 5e-4


def test_a_grid_is_extended_to_eight_times_its_ends_and_no_further() -> None:
    """The score rises with the rate as far as anybody looks."""
    start = (5e-4, 1e-3, 2e-3)
    scores = {(rate, 1): 80.0 + place for place, rate in enumerate((*start, 4e-3, 8e-3))}
    assert tuning.wanted_rates(scores, start, (1, 2)) == [(1.6e-2, 1)]
    assert tuning.wanted_rates(scores | {(1.6e-2, 1): 90.0}, start, (1, 2)) == []


@pytest.mark.parametrize(("points", "close"), [((83.0, 84.0, 83.6, 82.0), True), ((80.0, 84.0, 82.0, 81.0), False)])
def test_every_rho_has_a_second_seed_where_two_neighbours_are_close(points: tuple[float, ...], close: bool) -> None:
    grid = (0.0, 0.05, 0.15, 0.35)
    scores = {(rho, 1): each for rho, each in zip(grid, points, strict=True)}
    assert tuning.wanted_rhos(scores, grid, (1, 2)) == ([(rho, 2) for rho in grid] if close else [])


def test_grids_of_sora_at_another_rho_have_no_say_in_its_rate(tmp_path: Path) -> None:
    rates = {"0.15": [5e-4, 1e-3], "0.35": [2e-3, 4e-3]}
    for rho, each in rates.items():
        axes = {"method": ["sora"], "trainer.learning_rate": each, "task": ["stsb"], "seed": [1]}
        manifest = made.manifest("learning_rate", axes, {"backbone": "minilm-l6", "method.rho": rho})
        made.studies.write(tmp_path, manifest)
        for run in manifest["runs"]:
            made.write_run(tmp_path, run["axes"], items=20)
    where = {"method": "sora", "task": "stsb", "method.rho": 0.15}
    found = tuning.scores_of(tuning.grids(tmp_path), "learning_rate", "trainer.learning_rate", where)
    assert found.keys() == {(rate, 1) for rate in rates["0.15"]}


def test_where_every_run_diverged_nothing_is_chosen(tmp_path: Path, conf: Path) -> None:
    lost = float("-inf")
    with pytest.raises(UserError, match=r"^rho of 0, 0\.15: runs of every one of them diverged"):
        tuning.best_and_small({(0.15, 1): lost, (0.0, 1): lost})
    assert tuning.best_and_small({(0.15, 1): lost, (0.0, 1): 80.0}) == (0.0, 0.0)
    results = tmp_path / "results"
    made.study(results, "learning_rate", AXES)
    made.change(results, lambda record: record["metrics"]["selected"]["select"].update(pearson=None))
    before = {path: path.read_bytes() for path in conf.rglob("*.yaml")}
    with pytest.raises(UserError, match=r"learning rates of 0\.0002, 0\.0008 for .*: runs of every one of them"):
        tune.main(["--results", str(results), "--conf", str(conf)])
    assert before == {path: path.read_bytes() for path in conf.rglob("*.yaml")}


def test_the_protocol_is_told_where_its_select_split_may_be_reported_on(tmp_path: Path, conf: Path) -> None:
    path = conf / "recipe" / "minilm-l6" / "lora" / "stsb.yaml"
    rate = 2e-4, {(2e-4, 1): 80.0, (2e-4, 2): 81.0}, ["a"]
    assert "by the select split, seeds 1, 2" in tune.recipe(path, "holdout", rate)
    assert "by the select split of protocol=paper, seeds 1, 2" in tune.recipe(path, "paper", rate)


@pytest.mark.parametrize(
    ("key", "value"),
    [("precision", "bf16"), ("trainer.max_steps", 500), ("trainer.eval_every", 7), ("protocol", "dev"), ("seed", 3)],
)
def test_grids_of_other_settings_are_not_joined(tmp_path: Path, conf: Path, key: str, value: object) -> None:
    results = tmp_path / "results"
    made.study(results, "learning_rate", AXES)
    made.study(results, "learning_rate", AXES | {"trainer.learning_rate": [5e-5, 3.2e-3], key: [value]})
    what = {"seed": "seeds"}.get(key, key)
    with pytest.raises(UserError, match=f"different {what} for .*; keep the manifest of one"):
        tune.main(["--results", str(results), "--conf", str(conf)])


def test_half_a_grid_chooses_nothing(tmp_path: Path, conf: Path) -> None:
    made.study(tmp_path / "results", "learning_rate", AXES, leave_out=1)
    before = sorted(conf.rglob("*.yaml"))
    with pytest.raises(UserError, match=r"3/4 runs of sora on stsb are there; run python run\.py method=sora"):
        tune.main(["--results", str(tmp_path / "results"), "--conf", str(conf)])
    assert sorted(conf.rglob("*.yaml")) == before


def test_a_manifest_that_cannot_be_read_is_not_passed_over(tmp_path: Path, conf: Path) -> None:
    results = tmp_path / "results"
    for rates in ([2e-4, 8e-4], [5e-5, 3.2e-3]):
        manifest = made.study(results, "learning_rate", AXES | {"trainer.learning_rate": rates})
    path = results / "studies" / f"learning_rate-{manifest['hash']}.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match=f"learning_rate-{manifest['hash']}: cannot be used"):
        tune.main(["--results", str(results), "--conf", str(conf)])


def test_a_damaged_recipe_is_a_sentence(tmp_path: Path, conf: Path) -> None:
    (conf / "recipe" / "minilm-l6" / "sora" / "stsb.yaml").write_text("method: [")
    made.study(tmp_path / "results", "learning_rate", AXES)
    with pytest.raises(UserError, match=r"sora/stsb.yaml: cannot be read \(while parsing"):
        tune.main(["--results", str(tmp_path / "results"), "--conf", str(conf)])


@pytest.mark.parametrize(
    ("text", "rhos", "lost"),
    [
        ("optim: {name: adamw_hf}\n", False, "optim"),
        ("trainer: {learning_rate: 0.1, warmup: 0.5}\n", False, "trainer.warmup"),
        ("method: {threshold: 0.1, penalty: 0.5}\n", True, "method.penalty"),
    ],
)
def test_a_recipe_whose_values_would_be_lost_is_refused(
    tmp_path: Path, conf: Path, text: str, rhos: bool, lost: str
) -> None:
    path = conf / "recipe" / "minilm-l6" / "sora" / "stsb.yaml"
    path.write_text(f'unpublished: ["*"]\n{text}')
    rate = 2e-4, {(2e-4, 1): 80.0}, ["a"]
    with pytest.raises(UserError, match=f"sora/stsb.yaml: {lost} would be lost"):
        tune.recipe(path, "holdout", rate, (0.1, {(0.1, 1): 80.0}, ["b"]) if rhos else None)


def test_a_backbone_that_names_no_folder_is_refused(tmp_path: Path, conf: Path) -> None:
    manifest = made.manifest("learning_rate", AXES | {"backbone": ["../elsewhere"]})
    made.studies.write(tmp_path / "results", manifest)
    with pytest.raises(UserError, match=r"backbone '../elsewhere' names no folder of conf/recipe"):
        tune.main(["--results", str(tmp_path / "results"), "--conf", str(conf)])


def test_without_a_grid(tmp_path: Path, conf: Path) -> None:
    with pytest.raises(UserError, match="no learning_rate study here"):
        tune.main(["--results", str(tmp_path), "--conf", str(conf)])


def test_published_values_are_never_changed(tmp_path: Path, conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (conf / "recipe" / "minilm-l6" / "sora" / "stsb.yaml").write_text("unpublished: []\n")
    made.study(tmp_path / "results", "learning_rate", AXES)
    assert tune.main(["--results", str(tmp_path / "results"), "--conf", str(conf)]) == 0
    told = capsys.readouterr()
    assert "sora/stsb.yaml: has published values and is left alone" in told.err
    assert "sora/stsb.yaml" not in told.out
    assert "lora/stsb.yaml" in told.out, "the others are written"
    assert (conf / "recipe" / "minilm-l6" / "sora" / "stsb.yaml").read_text() == "unpublished: []\n"


def test_a_run_under_a_tuned_recipe_says_so(tmp_path: Path) -> None:
    (run,) = runs(tmp_path, "method=sora", "task=stsb", "tuned='three rates, seeds 1, 2'", backbone="minilm-l6")
    assert origin(run).get("tuned") == "three rates, seeds 1, 2"
    (run,) = runs(tmp_path, "method=sora", "task=stsb", "tuned=three rates", "recipe=none", backbone="minilm-l6")
    assert origin(run).get("tuned") is None


def test_the_page_of_a_study_says_by_which_trials_its_settings_were_chosen(tmp_path: Path) -> None:
    """A row of its own for each method whose trials differ, without the names of their studies."""
    made.study(tmp_path, "main_table", {"method": ["lora", "sora"], "task": ["stsb"], "seed": [0]})
    for method, words in (("lora", "A (studies/x)"), ("sora", "B (studies/y)")):
        recipe = {"name": "x", "budget": "", "unpublished": ["*"], "changed": [], "tuned": words}
        made.change(tmp_path, lambda record, recipe=recipe: record["provenance"].update(recipe=recipe), method)
    page = conditions(load(tmp_path).studies[0])
    assert "Settings were chosen by earlier trials, which each record names.\n" in page
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| STS-B")]
    assert [(row[2].strip(), row[-2].strip()) for row in rows] == [("LoRA", "A"), ("SoRA", "B")]
    for words, said in (("B", "names; the same for every method."), ("", "of 1 of 2 runs were chosen by earlier")):
        made.change(tmp_path, lambda record, words=words: record["provenance"]["recipe"].update(tuned=words), "lora")
        assert said in described(load(tmp_path).studies[0])
    made.change(tmp_path, lambda record: record["provenance"]["recipe"].update(tuned=""))
    assert "No recipe of these runs names trials" in described(load(tmp_path).studies[0])
