"""Recipes apply where they should, and say what was published."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from sora.config import SoraConfig
from tests.composing import CONF, composed, runs

FILES = sorted((CONF / "recipe").rglob("*.yaml"))
NAMES = [path.relative_to(CONF / "recipe").with_suffix("").as_posix() for path in FILES]
OWN = [name for name in NAMES if name != "none"]

# Appendix A: epochs; 8e-4, RTE 1.2e-3. Threshold: Table 6 for the two tasks it covers.
EPOCHS = {"cola": 20, "mrpc": 20, "stsb": 20, "rte": 50, "sst2": 10, "qqp": 10, "mnli": 10, "qnli": 10}
THRESHOLDS = {"cola": 5e-5, "stsb": 3e-4}
LORA_RATES = {
    "cola": 8e-5,
    "sst2": 1e-4,
    "mrpc": 1e-4,
    "qqp": 3e-4,
    "stsb": 1e-4,
    "mnli": 3e-4,
    "qnli": 3e-4,
    "rte": 1.2e-3,
}


@pytest.mark.parametrize("name", OWN)
def test_a_recipe_is_taken_up_and_names_itself(tmp_path: Path, name: str) -> None:
    backbone, method, task = name.split("/")
    (run,) = runs(tmp_path, f"method={method}", f"task={task}", backbone=backbone)
    assert run.recipe == name
    values = yaml.safe_load((CONF / "recipe" / f"{name}.yaml").read_text(encoding="utf-8"))
    applied = dataclasses.asdict(run)
    for group, value in values.items():
        for key, each in value.items() if isinstance(value, dict) else ():
            expected = type(applied[group][key])(each)  # YAML 1.1 reads 8e-4 as text
            assert applied[group][key] == expected, (group, key)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_value_has_its_source_beside_it(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# @package _global_"
    for line in lines:
        if line.startswith("  ") and not line.rstrip().endswith(":"):
            assert "  # " in line, line


@pytest.mark.parametrize("task", EPOCHS)
def test_the_published_settings_of_sora(tmp_path: Path, task: str) -> None:
    (run,) = runs(tmp_path, "method=sora", f"task={task}", backbone="deberta-v3-base")
    assert run.trainer.epochs == EPOCHS[task]
    assert run.trainer.learning_rate == (1.2e-3 if task == "rte" else 8e-4)
    assert run.trainer.batch_size == (32 if task == "rte" else 8)
    assert isinstance(run.method, SoraConfig)
    assert (run.method.r, run.method.penalty) == (8, 0.1)
    assert run.method.threshold == THRESHOLDS.get(task, 1e-4)
    assert (run.trainer.weight_decay, run.trainer.warmup_ratio, run.trainer.clip) == (0.1, 0.06, 0.1)


@pytest.mark.parametrize("task", LORA_RATES)
def test_the_published_settings_of_lora(tmp_path: Path, task: str) -> None:
    (run,) = runs(tmp_path, "method=lora", f"task={task}", backbone="deberta-v3-base")
    assert run.trainer.learning_rate == LORA_RATES[task]
    assert run.trainer.epochs == EPOCHS[task]
    assert run.trainer.batch_size == (32 if task == "rte" else 8)


def test_where_nothing_is_published_there_is_no_recipe(tmp_path: Path) -> None:
    cfg = composed(tmp_path, "method=full", "task=rte", backbone="deberta-v3-base")
    assert cfg.recipe == ""
    (run,) = runs(tmp_path, "method=sora", "task=rte")  # backbone tiny
    assert (run.recipe, run.trainer.epochs) == ("", 20.0)


def test_the_command_line_wins_over_the_recipe_and_none_switches_it_off(tmp_path: Path) -> None:
    (run,) = runs(tmp_path, "task=rte", "trainer.epochs=3", backbone="deberta-v3-base")
    assert (run.recipe, run.trainer.epochs, run.trainer.batch_size) == ("deberta-v3-base/sora/rte", 3.0, 32)
    (run,) = runs(tmp_path, "task=rte", "recipe=none", backbone="deberta-v3-base")
    assert (run.recipe, run.trainer.epochs, run.trainer.batch_size) == ("", 20.0, 8)


def test_another_backbone_can_borrow_a_recipe(tmp_path: Path) -> None:
    (run,) = runs(tmp_path, "task=cola", "recipe=deberta-v3-base/sora/rte")
    assert (run.recipe, run.trainer.epochs, run.task.name) == ("deberta-v3-base/sora/rte", 50.0, "cola")
