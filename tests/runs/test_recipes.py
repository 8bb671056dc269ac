"""Recipes apply where they should, and say what was published."""

import dataclasses
import functools
import math
import tempfile
from pathlib import Path

import pytest
import yaml

from sora import schedules
from sora.config import RunConfig
from sora.errors import UserError
from sora.method_config import AdaloraConfig, SoraConfig
from sora.runs.recipes import origin
from tests import tiny
from tests.composing import CONF, runs

FILES = sorted((CONF / "recipe").rglob("*.yaml")) + sorted((CONF / "budget").rglob("*.yaml"))
NAMES = [path.relative_to(CONF).with_suffix("").as_posix() for path in FILES]
OWN = [name.removeprefix("recipe/") for name in NAMES if name.startswith("recipe/") and not name.endswith("/none")]

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


# Table 8 of AdaLoRA: rate, epochs, gamma, t_i, Delta T, t_f; then its scripts: alpha, length, steps of warm-up (a ratio
# for MRPC), dropout of the classifier, decay.
ADALORA = {
    "mnli": (5e-4, 7, 0.1, 8000, 100, 50000, 16, 256, 1000, 0.15, 0),
    "rte": (1.2e-3, 50, 0.3, 600, 1, 1800, 32, 320, 200, 0.20, 0.01),
    "qnli": (1.2e-3, 5, 0.1, 2000, 100, 8000, 32, 512, 500, 0.1, 0.01),
    "mrpc": (1e-3, 30, 0.1, 600, 1, 1800, 32, 320, None, 0, 0.01),
    "qqp": (5e-4, 5, 0.1, 8000, 100, 25000, 16, 320, 2000, 0.15, 0.01),
    "sst2": (8e-4, 24, 0.1, 6000, 100, 22000, 16, 128, 1000, 0, 0.01),
    "cola": (5e-4, 25, 0.5, 800, 10, 3500, 32, 64, 100, 0.10, 0),
    "stsb": (2.2e-3, 25, 0.1, 800, 10, 2000, 32, 128, 100, 0.2, 0.1),
}
# our budgets: the training examples of protocol=holdout
HOLDOUT = {"cola": 7696, "mrpc": 3302, "rte": 2241, "sst2": 66349, "stsb": 5175, "sst2_10k": 9000}


@functools.cache
def composed_run(backbone: str, method: str, task: str) -> RunConfig:
    """What ``python run.py`` with these three trains; the second recipe of a task, <task>_best, is named."""
    words = [f"method={method}", f"task={task.removesuffix('_best')}", "protocol=holdout"]
    words += [f"recipe={backbone}/{method}/{task}"] if task.endswith("_best") else []
    with tempfile.TemporaryDirectory() as folder:
        (run,) = runs(Path(folder), *words, backbone=backbone)
    return run


@pytest.mark.parametrize("name", OWN)
def test_a_recipe_is_taken_up_and_names_itself(name: str) -> None:
    run = composed_run(*name.split("/"))
    assert run.recipe == name
    values = yaml.safe_load((CONF / "recipe" / f"{name}.yaml").read_text(encoding="utf-8"))
    applied = dataclasses.asdict(run)
    for group, value in values.items():
        for key, each in value.items() if isinstance(value, dict) else ():
            if isinstance(each, dict):
                assert each.items() <= applied[group][key].items()
                continue
            expected = type(applied[group][key])(each)  # YAML 1.1 reads 8e-4 as text
            assert applied[group][key] == expected, (group, key)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_value_has_its_source_beside_it(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# @package _global_"
    values = [line for line in lines if line.startswith("  ") and not line.rstrip().endswith(":")]
    for line in values:
        assert "  # " in line or "override /" in line, line
    # and a comment that owns up to a value of ours is also told to the program
    told = (yaml.safe_load("\n".join(lines)) or {}).get("unpublished", [])
    for line in values if path.is_relative_to(CONF / "recipe") else ():
        key = line.split(":")[0].strip()
        ours = "not published" in line or "# ours" in line
        assert not ours or "*" in told or f"method.{key}" in told, line


@pytest.mark.parametrize("task", EPOCHS)
def test_the_published_settings_of_sora_and_lora(task: str) -> None:
    sora, lora = (composed_run("deberta-v3-base", method, task) for method in ("sora", "lora"))
    rates = {"sora": 1.2e-3 if task == "rte" else 8e-4, "lora": LORA_RATES[task]}
    for run in (sora, lora):
        trainer = run.trainer
        assert (trainer.epochs, trainer.batch_size) == (EPOCHS[task], 32 if task == "rte" else 8)
        assert (trainer.learning_rate, trainer.optimizer) == (rates[run.method.name], "adamw_hf")
    assert isinstance(sora.method, SoraConfig)
    assert (sora.method.r, sora.method.penalty, sora.method.threshold) == (8, 0.1, THRESHOLDS.get(task, 1e-4))
    assert (sora.trainer.weight_decay, sora.trainer.warmup_ratio, sora.trainer.clip) == (0.1, 0.06, 0.1)


@pytest.mark.parametrize("task", ADALORA)
def test_the_published_settings_of_adalora(task: str) -> None:
    lr, epochs, gamma, t_i, interval, t_f, alpha, length, warmup, dropout, decay = ADALORA[task]
    run = composed_run("deberta-v3-base", "adalora", task)
    trainer, method = run.trainer, run.method
    assert isinstance(method, AdaloraConfig)
    assert (trainer.learning_rate, trainer.epochs, trainer.batch_size) == (lr, epochs, 32)
    assert (trainer.max_length, trainer.weight_decay, trainer.clip) == (length, decay, 1.0)
    assert (method.r, method.init_r, method.alpha) == (8, 12, alpha)
    assert (method.orthogonality, method.beta1, method.beta2) == (gamma, 0.85, 0.85)
    assert (method.warmup, method.interval, method.final) == (t_i, interval, t_f)
    assert run.backbone.arch["cls_dropout"] == dropout
    # Published phases must fit the steps they are for: those for SQuAD do not.
    total = schedules.total_steps(run.task.sizes["train"], 32, epochs, None)
    assert t_i + t_f < total
    expected = math.ceil(0.1 * total) if warmup is None else warmup
    assert schedules.warmup_steps(total, trainer.warmup_ratio) == expected


@pytest.mark.parametrize(
    ("method", "task", "rate", "epochs", "batch", "length"),
    [
        ("bitfit", "mnli", 8e-4, 10, 100, 256),
        ("adapter", "cola", 8e-4, 20, 8, 128),
        ("full", "mnli", 5e-5, 10, 80, 256),
    ],
)
def test_the_other_scripts(method: str, task: str, rate: float, epochs: int, batch: int, length: int) -> None:
    run = composed_run("deberta-v3-base", method, task)
    trainer = run.trainer
    assert (trainer.learning_rate, trainer.epochs, trainer.batch_size) == (rate, epochs, batch)
    assert (trainer.max_length, trainer.optimizer) == (length, "adamw_hf")
    assert origin(run)["unpublished"] == []


@pytest.mark.parametrize("task", HOLDOUT)
def test_our_budget_is_the_same_for_every_method_and_the_loss_can_hold_a_gate_up_in_it(task: str) -> None:
    full, sora = (composed_run("minilm-l6", method, task) for method in ("full", "sora"))
    trainer, rate = sora.trainer, sora.trainer.learning_rate or 0.0
    for key in ("epochs", "batch_size", "eval_every", "max_steps", "optimizer"):
        assert getattr(full.trainer, key) == getattr(trainer, key), key
    assert (sora.budget, origin(sora)["changed"], origin(sora)["unpublished"]) == (f"minilm-l6/{task}", [], ["*"])
    steps = schedules.total_steps(HOLDOUT[task], trainer.batch_size, trainer.epochs, trainer.max_steps)
    assert -(-steps // (trainer.eval_every or steps)) == 10
    assert isinstance(sora.method, SoraConfig)
    assert sora.method.threshold / rate <= 0.5
    assert rate * steps / 2 >= 0.5


def test_a_method_without_a_recipe_trains_as_long_as_sora() -> None:
    run = composed_run("deberta-v3-base", "peft", "rte")
    assert (run.recipe, run.trainer.epochs, run.trainer.batch_size) == ("", EPOCHS["rte"], 32)


def test_the_command_line_wins_over_the_recipe_and_none_switches_it_off(tmp_path: Path) -> None:
    def found(*words: str, backbone: str = "deberta-v3-base") -> tuple[str, str, float, int]:
        (run,) = runs(tmp_path, "task=rte", *words, backbone=backbone)
        return run.recipe, run.budget, run.trainer.epochs, run.trainer.batch_size

    assert found("trainer.epochs=3")[::2] == ("deberta-v3-base/sora/rte", 3.0)
    assert found("recipe=none", backbone="minilm-l6") == ("", "", 20.0, 8), "nor a budget without a recipe"
    assert found("budget=none", backbone="minilm-l6")[:3] == ("minilm-l6/sora/rte", "", 20.0)
    assert found(backbone="tiny") == ("", "", 20.0, 8), "where nothing is published there is no recipe"
    borrowed = found("recipe=deberta-v3-base/sora/rte", backbone="tiny")
    assert borrowed == ("deberta-v3-base/sora/rte", "", 50.0, 32)


def test_a_run_tells_what_nobody_published(tmp_path: Path) -> None:
    def told(*overrides: str, backbone: str = "deberta-v3-base") -> dict[str, object]:
        return origin(runs(tmp_path, *overrides, backbone=backbone)[0])

    files = {"name": "deberta-v3-base/sora/cola", "budget": "deberta-v3-base/cola"}
    assert told("task=cola") == files | {"unpublished": [], "changed": []}
    assert told("task=mnli")["unpublished"] == ["method.threshold"]
    assert told("task=rte", "method=adalora")["unpublished"] == ["method.alpha"]
    assert told("task=rte", "method=full")["unpublished"] == ["*"]
    assert told("task=cola", "recipe=none") == {"name": "", "budget": "", "unpublished": ["*"], "changed": []}
    # what the command line changes, in whatever way, and what it only repeats or what decides no number
    changed = told(
        *("task=cola", "method.fidelity=paper", "trainer.batch_size=8", "trainer.max_steps=30", "head=frozen"),
        *("trainer.log_every=3", "backbone.dropout=0", "seed=3", "paths.runs=elsewhere", "method.penalty=9"),
    )["changed"]
    switches = ["gate_update", "penalty_rule", "prox", "threshold_rule"]  # the paper's reading has no penalty to change
    assert changed == [
        "backbone.dropout",
        "head",
        *(f"method.{name}" for name in switches),
        "trainer.max_steps",
        "trainer.optimizer",
    ]
    assert told("task=rte", "trainer.learning_rate=1e-3", "method=lora")["changed"] == ["trainer.learning_rate"]
    assert told("task=rte", "method=adalora", backbone="tiny")["changed"] == []
    # the recipe itself sets a part of the architecture, as AdaLoRA's script does
    assert told("task=cola", "method=adalora")["changed"] == []
    assert told("task=cola", "method=adalora", "backbone.arch.cls_dropout=0")["changed"] == ["backbone.arch"]


def test_a_run_whose_defaults_could_not_train_says_what_was_changed() -> None:
    """The task's own length is more than this backbone reads."""
    (run,) = tiny.runs(task={"max_length": 128}, trainer={"max_length": 32})
    assert "trainer.max_length" in origin(run)["changed"]
    with pytest.raises(UserError, match="reads at most 64 tokens"):
        tiny.runs(task={"max_length": 128})
