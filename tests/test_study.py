"""scripts/study.py: what it starts, in which order, what it takes from finished runs, and what it refuses.

Its commands are read and, instead of trained, recorded with select scores that the test chooses.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments import bootstrap
from experiments.labels import ARMS
from experiments.study import load
from scripts import study, tune
from sora.errors import UserError
from sora.runs import manifest as studies
from sora.runs import records
from tests.composing import CONF, composed
from tests.conftest import ROOT
from tests.experiments import made

Score = Callable[[Mapping[str, Any]], float]
LISTED = {"TASKS": "stsb", "SEEDS": "0,21,42,81,100,123"}


def typed(words: list[str]) -> tuple[str, str, dict[str, list[Any]], dict[str, str]]:
    """Study, arm, axes and fixed keys of a command."""
    keys = dict(word.split("=", 1) for word in words if "=" in word)
    name = keys.pop("experiment", None) or keys.pop("study.name")
    arm, packed = keys.pop("study.arm", ""), keys.pop("pack", "")
    for short in ("task", "seed"):
        if f"study.{short}s" in keys:
            keys[short] = keys.pop(f"study.{short}s").strip("[]")
    fixed = {key: keys.pop(key) for key in list(keys) if key.startswith(("backbone", "protocol", "precision", "paths"))}
    fixed |= {key: keys.pop(key) for key in ("method.source", "method.size", "recipe") if key in keys}
    axes: dict[str, list[Any]] = {}
    if packed:
        pairs = re.findall(r"seed: (\d+), method\.source: '(\w+)'", packed)
        axes |= {"seed": [int(seed) for seed, _ in pairs], "method.source": [source for _, source in pairs]}
    keys.setdefault("method", "sora")
    for key, text in keys.items():
        values = [yaml.safe_load(each) for each in text.split(",")]
        values = [float(each) if re.fullmatch(r"[\d.]+e-?\d+", str(each)) else each for each in values]
        if len(values) == 1 and key not in ("method", "task", "seed"):
            fixed[key] = text
        axes.setdefault(key, values)
    return name, arm, {key: axes[key] for key in axes if key not in fixed}, fixed


class World:
    """A results folder in which every command of the driver leaves records at once."""

    def __init__(self, folder: Path, score: Score) -> None:
        self.results, self.conf, self.score = folder / "results", folder / "conf", score
        shutil.copytree(CONF / "recipe", self.conf / "recipe")
        shutil.copytree(CONF / "budget", self.conf / "budget")
        self.commands: list[list[str]] = []

    def driver(self, **variables: str) -> study.Driver:
        world, found = self, study.driver({**LISTED, "RESULTS": str(self.results), **variables}, False)

        class Recorded(study.Driver):
            def start(self, *words: str) -> None:
                world.commands.append([*words])
                if words[0] == "scripts/tune.py":
                    assert tune.main([*words[1:3], "--conf", str(world.conf), *words[3:]]) == 0
                elif words[0] == "run.py":
                    world.record([*words])

        return Recorded(**vars(found))

    def record(self, words: list[str]) -> None:
        name, arm, axes, fixed = typed(words)
        places = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
        if "method.source" in axes:
            pairs = dict(zip(axes["seed"], axes["method.source"], strict=True))
            places = [place for place in places if pairs[place["seed"]] == place["method.source"]]
        runs = []
        for place in places:
            settings = {"trainer.learning_rate": 1e-3} | place
            settings |= {key: float(fixed[key]) for key in fixed if key in ("trainer.learning_rate", "method.rho")}
            salt = arm or name
            path = made.write_run(self.results, settings, items=60, salt=salt)
            record = records.read(path)
            record["metrics"]["selected"]["select"]["pearson"] = self.score(settings) / 100
            records.write(path, record, records.read_arrays(path, record))
            runs.append(made.entry(settings, salt) | {"axes": place, "command": " ".join(words)})
        kept = {key: text for key, text in fixed.items() if not key.startswith("paths")}
        studies.write(self.results, studies.make(name, axes, kept | ({studies.ARM: arm} if arm else {}), runs))

    def grids(self, method: str) -> list[tuple[str, str]]:
        """Seeds and rates of the learning-rate studies of a method, in their order."""
        mine = [words for words in self.commands if f"method={method}" in words and "experiment=learning_rate" in words]
        return [
            (
                next(word for word in words if word.startswith("study.seeds=")).split("=")[1],
                next(word for word in words if word.startswith("trainer.learning_rate=")).split("=")[1],
            )
            for words in mine
        ]

    def recipe(self, method: str, name: str = "stsb") -> dict[str, Any]:
        found = yaml.safe_load((self.conf / "recipe" / "minilm-l6" / method / f"{name}.yaml").read_text())
        return dict(found)


SCORES = {  # method -> learning rate -> points on seed 1; on seed 2 as many, but for BitFit
    "lora": {2.5e-4: 70, 5e-4: 80, 1e-3: 82, 2e-3: 84, 4e-3: 81},
    "sora": {5e-4: 80, 1e-3: 83, 2e-3: 81},
    "adalora": {1.25e-4: 70, 2.5e-4: 79, 5e-4: 85, 1e-3: 82, 2e-3: 84},
    "adapter": {5e-4: 80, 1e-3: 83, 2e-3: 81},
    "bitfit": {2.5e-4: 60, 5e-4: 80.0, 1e-3: 80.2, 2e-3: 78, 1.25e-4: 50},
    "full": {5e-5: 80, 1e-4: 83, 2e-4: 81},
}
RHO_SCORES = {0.0: 83.0, 0.05: 84.0, 0.15: 83.5, 0.35: 82.0}


def score(settings: Mapping[str, Any]) -> float:
    if isinstance(settings.get("method.rho"), float | int) and "trainer.learning_rate" not in settings:
        raise AssertionError(settings)
    if settings.get("study") == "rho":
        return RHO_SCORES[settings["method.rho"]]
    points = float(SCORES.get(settings["method"], {}).get(settings["trainer.learning_rate"], 50.0))
    if settings["method"] == "sora" and settings["trainer.learning_rate"] == 1e-3 and "method.rho" in settings:
        points = RHO_SCORES[settings["method.rho"]]
    if settings["method"] == "bitfit" and settings["seed"] == 2:
        points += {5e-4: 1.0, 1e-3: 0.0, 2e-3: 0.0}.get(settings["trainer.learning_rate"], 0.0)
    return points


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(study, "CONF", tmp_path / "conf")
    monkeypatch.setattr(bootstrap, "MOST", 2_000)
    return World(tmp_path, score)


@pytest.fixture(scope="module")
def whole_grids(tmp_path_factory: pytest.TempPathFactory) -> World:
    """After the steps tune and choose."""
    with pytest.MonkeyPatch.context() as patch:
        found = World(tmp_path_factory.mktemp("tuned"), score)
        patch.setattr(study, "CONF", found.conf)
        assert found.driver(STEPS="tune,choose").all() == 0
    return found


@pytest.fixture
def tuned(whole_grids: World, world: World) -> World:
    """A copy of it to go on with."""
    for name in ("results", "conf"):
        shutil.rmtree(getattr(world, name), ignore_errors=True)
        shutil.copytree(getattr(whole_grids, name), getattr(world, name))
    world.commands = [*whole_grids.commands]
    return world


def test_a_grid_is_extended_until_its_best_rate_is_inside(whole_grids: World) -> None:
    world = whole_grids
    assert world.grids("lora") == [("[1]", "0.0005,0.001,0.002"), ("[1]", "0.004")]
    assert world.grids("adalora") == [("[1]", "0.0005,0.001,0.002"), ("[1]", "0.00025")]
    assert world.grids("full") == [("[1]", "5e-05,0.0001,0.0002")]
    chosen = {method: world.recipe(method)["trainer"]["learning_rate"] for method in SCORES}
    assert chosen == {"lora": 2e-3, "sora": 1e-3, "adalora": 5e-4, "adapter": 1e-3, "bitfit": 5e-4, "full": 1e-4}


def test_seed_2_decides_between_close_neighbours(whole_grids: World) -> None:
    """1e-3 leads 5e-4 by 0.2 on seed 1; with seed 2, 5e-4 is 0.3 ahead, and its other neighbour is tried on both."""
    world = whole_grids
    assert world.grids("bitfit") == [
        ("[1]", "0.0005,0.001,0.002"),
        ("[2]", "0.0005,0.001,0.002"),
        ("[1]", "0.00025"),
        ("[2]", "0.00025"),
    ]
    assert "seeds 1, 2" in world.recipe("bitfit")["tuned"]
    assert world.recipe("bitfit")["trainer"]["learning_rate"] == 5e-4


def test_best_and_small_thresholds_become_recipes(whole_grids: World) -> None:
    world = whole_grids
    best, small = world.recipe("sora", "stsb_best"), world.recipe("sora")
    assert best["method"] == {"threshold": 5e-05}
    assert best["recipe"] == "minilm-l6/sora/stsb_best"
    assert small["method"] == {"threshold": 0.00015}, "83.5 is within half a point of 84"
    assert small["trainer"] == best["trainer"] == {"learning_rate": 1e-3}
    assert "rho of 0, 0.05, 0.15, 0.35" in small["tuned"]


def test_the_same_command_goes_on(tuned: World) -> None:
    tuned.commands.clear()
    tuned.driver(STEPS="tune,choose").all()
    assert [words[0] for words in tuned.commands] == ["scripts/tune.py"]


def test_arms_are_made_from_the_runs_of_the_same_seed(tuned: World) -> None:
    world = tuned
    assert world.driver(STEPS="arms").all() == 0
    (whole,) = [s for s in load(world.results).studies if s.name == "main_table"]
    assert set(whole.runs["arm"]) == set(ARMS)
    counts = whole.runs.groupby("arm").size()
    assert {arm: counts[arm] for arm in study.REPEATED} == dict.fromkeys(study.REPEATED, 6)
    assert counts["lora_own"] == counts["lora_svd"] == counts["full"] == 3
    small = whole.runs[whole.runs["arm"] == "sora_small"].set_index("seed")["run_id"]
    for arm, pattern in study.PATTERNS.items():
        (words,) = [words for words in world.commands if f"study.arm={arm}" in words]
        assert f"method.pattern={pattern}" in words
        assert "trainer.learning_rate=0.002" in words, "LoRA's"
        seeds = (0, 21, 42) if arm == "lora_own" else (0, 21, 42, 81, 100, 123)
        pack = ", ".join(f"{{seed: {seed}, method.source: '{small[seed]}'}}" for seed in seeds)
        assert f"pack=[{pack}]" in words
    (cut,) = [words for words in world.commands if "study.arm=lora_svd" in words and "seed=21" in words]
    assert f"method.size='{small[21]}'" in cut
    ranks = [
        rank
        for seed in (0, 21, 42)
        for rank in records.read(records.finished(world.results)[small[seed]])["ranks"].values()
    ]
    (adalora,) = [words for words in world.commands if "study.arm=adalora_small" in words]
    assert f"method.r={round(sum(ranks) / len(ranks))}" in adalora


def test_an_arm_without_its_source_is_a_sentence(tuned: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert tuned.driver(STEPS="arms", ARMS="lora_own").all() == 1
    told = capsys.readouterr().err
    assert "lora_own on stsb: is made from sora_small's run of seed 0, which has no record in" in told
    assert "run STEPS=arms ARMS=sora_small TASKS=stsb" in told


def test_no_arm_trains_at_a_rate_that_nothing_chose(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.driver(STEPS="arms", ARMS="sora_small,bitfit").all() == 1
    assert world.commands == []
    told = capsys.readouterr().err
    assert "bitfit on stsb: no grid has chosen its learning rate; run STEPS=tune,choose TASKS=stsb" in told
    assert "sora on stsb: no grid has chosen" in told


def test_rhos_at_another_rate_choose_nothing(tuned: World) -> None:
    world = tuned
    monkey = {**SCORES["sora"], 5e-4: 90.0, 2.5e-4: 70}
    world.score = lambda settings: monkey.get(settings["trainer.learning_rate"], 0.0)
    words = ["run.py", "experiment=learning_rate", "study.tasks=[stsb]", "study.seeds=[1]", "method=sora"]
    words += ["method.rho=0.15", "trainer.learning_rate=0.0005,0.001,0.002", "backbone=minilm-l6"]
    world.record([*words, "backbone.pooling=mean", "protocol=holdout", "precision=fp32"])
    with pytest.raises(UserError, match=r"at 0.001: SoRA's rate on stsb is 0.0005 now"):
        tune.main(["--results", str(world.results), "--conf", str(world.conf), "--tasks", "stsb"])


def test_a_run_that_leaves_no_score_does_not_go_on_for_ever(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    driver = world.driver(STEPS="tune")
    driver.start = lambda *words: world.commands.append([*words])  # type: ignore[method-assign]
    assert driver.all() == 1
    assert "though its command ended well" in capsys.readouterr().err
    assert len(world.grids("lora")) == 1


def test_a_list_runs_nothing_and_names_what_it_cannot_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study.subprocess, "run", lambda *_, **__: pytest.fail("a command was run"))
    assert study.driver({**LISTED, "RESULTS": str(tmp_path / "none")}, True).all() == 0
    told = capsys.readouterr().out
    assert [line[2:] for line in told.splitlines() if line[2:] in study.STEPS] == [*study.STEPS]
    assert "{seed: 21, method.source: " in told
    assert "<sora_small of seed 21>" in told
    assert not (tmp_path / "none").exists()


def test_every_key_of_a_listed_sweep_is_known(tmp_path: Path) -> None:
    """Hydra refuses a key that the configuration does not have. Each distinct set of keys is composed once."""
    listing = study.driver({"TASKS": "cola", "STEPS": "tune,arms,studies"}, True)
    seen: dict[tuple[str, ...], list[str]] = {}
    listing.start = lambda *words: seen.setdefault(  # type: ignore[method-assign]
        tuple(word.split("=")[0] for word in words), [*words]
    )
    listing.all()
    assert len(seen) > 8
    for words in seen.values():
        plain = [word if "[" in word else word.split(",")[0] for word in words[1:] if "<" not in word and word != "-m"]
        composed(tmp_path, *(word for word in plain if not word.startswith("backbone=")), backbone="minilm-l6")


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"STEPS": "maintable"}, "STEPS: got maintable, must be some of tune, choose"),
        ({"TASKS": "cola,wnli"}, "TASKS: got wnli, must be some of cola"),
        ({"ARMS": "sora"}, "ARMS: got sora, must be some of lora_r8"),
        ({"SEEDS": "0,1"}, "SEEDS: 1 is a seed of the tuning; report others"),
        ({"SEEDS": "0,0"}, "SEEDS: got 0,0, must be whole numbers, each once"),
        ({"SEEDS": "a"}, "SEEDS: got a, must be whole numbers"),
        ({"BACKBONE": "minilm"}, "BACKBONE: got minilm, which has no budgets"),
    ],
)
def test_variables_that_are_none(variables: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        study.driver(variables, True)


def test_without_a_choice_the_tasks_are_those_whose_gates_hold() -> None:
    assert study.driver({}, True).tasks == ["cola", "sst2_10k"]
    assert study.driver({"BACKBONE": "deberta-v3-base"}, True).tasks == ["cola"], "of the others it has no budget"
    with pytest.raises(UserError, match="BACKBONE: got mpnet-base, which has no budgets in conf/budget"):
        study.driver({"BACKBONE": "mpnet-base"}, True)


def test_grids_and_seeds_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    assert "5e-4, 1e-3, 2e-3 for LoRA, AdaLoRA, SoRA, adapter and BitFit; 5e-5, 1e-4, 2e-4 for full" in page
    assert study.GRIDS["lora"] == (5e-4, 1e-3, 2e-3)
    assert study.GRIDS["full"] == (5e-5, 1e-4, 2e-4)
    assert "rho = xi / lr = 0.15; then rho in {0, 0.05, 0.15, 0.35}" in page
    assert (study.RHO, study.RHOS) == (0.15, (0, 0.05, 0.15, 0.35))
    assert study.driver({}, True).seeds == [0, 21, 42, 81, 100, 123]
    assert "0, 21, 42, 81, 100, 123" in page
