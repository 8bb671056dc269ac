"""From conf/ to runs: types, ranges, packs, what stands for what; every mistake names its key."""

import dataclasses
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException

from sora.cli.explain import explain
from sora.config import RunConfig
from sora.errors import UserError
from sora.method_config import METHODS, SoraConfig
from sora.options import GROUPS, register
from sora.runs.resolve import NOT_OF_A_RUN, build_runs
from tests.composing import CONF, TINY, composed, runs


def plain(**changes: Any) -> dict[str, Any]:
    """The smallest configuration without Hydra; ``changes``: ``group__key=value`` or ``key=value``."""
    values: dict[str, Any] = {
        "backbone": dict(TINY),
        "method": {"name": "sora"},
        "task": {"name": "rte", "labels": ["a", "b"]},
        "protocol": {"name": "paper"},
        "trainer": {},
        "schedule": {"kind": "none"},
    }
    for key, value in changes.items():
        group, _, leaf = key.rpartition("__")
        (values.setdefault(group, {}) if group else values)[leaf] = value
    return values


def refusal(**changes: Any) -> str:
    with pytest.raises(UserError) as refused:
        build_runs(plain(**changes))
    return str(refused.value)


# -- conf/ and the dataclasses -----------------------------------------------------------------


def choices(group: str) -> list[str]:
    return sorted({path.stem for path in (CONF / group).glob("*.yaml")} - {"own"})  # of files: tests/tasks/test_own.py


def test_every_file_of_conf_makes_a_run(tmp_path: Path) -> None:
    """Those of several groups at a time; the methods' are below, the launchers' in tests/cluster."""
    schedules, protocols, trackers = choices("schedule"), choices("protocol"), choices("tracker")
    for number, task in enumerate(choices("task")):
        schedule, protocol, tracker = (names[number % len(names)] for names in (schedules, protocols, trackers))
        words = [f"task={task}", f"schedule={schedule}", f"protocol={protocol}", f"tracker={tracker}"]
        (run,) = runs(tmp_path, *words)
        assert (run.task.name, run.protocol.name, run.tracker.name) == (task, protocol, tracker)
    assert number >= max(map(len, (schedules, protocols, trackers)))


@pytest.mark.parametrize("name", METHODS)
def test_every_key_is_composed_with_its_default(tmp_path: Path, name: str) -> None:
    """The backbone is a file of the user's own with three keys."""
    cfg = composed(tmp_path, f"method={name}", "recipe=none", "budget=none", "task=stsb")
    assert set(cfg) == {f.name for f in dataclasses.fields(RunConfig)} | set(NOT_OF_A_RUN) - {"experiment"}
    for group, cls in {**GROUPS, "method": METHODS[name]}.items():
        assert set(cfg[group]) == {f.name for f in dataclasses.fields(cls)}
        if group not in ("backbone", "task", "data", "protocol"):
            assert cfg[group] == dataclasses.asdict(cls(name) if group == "method" else cls())
    (run,) = build_runs(cfg)
    assert run.method.name == name


def test_a_file_of_the_users_own_may_repeat_every_key_or_give_a_few(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    every = dataclasses.asdict(METHODS["sora"]("sora")) | {"r": 4}
    texts = {"every": every, "few": {"name": "sora", "r": 4}, "built": {"defaults": ["sora", "_self_"], "r": 4}}
    for name, values in texts.items():
        (tmp_path / "method" / f"{name}.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    found = [runs(tmp_path, f"method={name}", "method.r=5", "recipe=none")[0] for name in texts]
    assert found[0] == found[1] == found[2] == runs(tmp_path, "method.r=5", "recipe=none")[0]
    assert runs(tmp_path, "method=built", "method.threshold=1e-3")[0].method.threshold == 1e-3  # type: ignore[attr-defined]


def test_a_wrong_key_or_value_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    for text, said in (
        ("epoch: 3", "trainer/odd.yaml: trainer.epoch: no such key; did you mean epochs?"),
        ("epochs: many", "trainer/odd.yaml: trainer.epochs: got 'many', must be a number > 0"),
    ):
        (tmp_path / "trainer" / "odd.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(HydraException) as refused:
            composed(tmp_path, "trainer=odd")
        assert explain(refused.value).startswith(said)


def test_hydras_copies_of_its_sources_share_the_store() -> None:
    register()
    store = ConfigStore.instance()
    assert deepcopy([store])[0] is store
    node = store.load("options.yaml").node
    node.seed = 7
    assert store.load("options.yaml").node.seed == 0, "what is read is a copy"


def test_the_folder_of_the_data_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SORA_DATA", raising=False)
    assert runs(tmp_path)[0].data.dir is None
    monkeypatch.setenv("SORA_DATA", "/somewhere")
    assert runs(tmp_path)[0].data.dir == "/somewhere"
    assert runs(tmp_path, "data.dir=/else")[0].data.dir == "/else"


# -- what stands for what ----------------------------------------------------------------------


def test_no_null_is_left_that_stands_for_something() -> None:
    (run,) = build_runs(plain(seed=5, task__max_length=200))
    assert isinstance(run.method, SoraConfig)
    assert run.trainer.learning_rate == 8e-4
    assert run.trainer.max_length == 200
    assert (run.seeds.init, run.seeds.data) == (5, 5)
    for fidelity, expected in {
        "authors": ("constant", "authors", "adam", "mean"),
        "paper": ("lr_scaled", "soft", "gradient", "off"),
    }.items():
        (run,) = build_runs(plain(method__fidelity=fidelity))
        method = run.method
        assert isinstance(method, SoraConfig)
        assert (method.threshold_rule, method.prox, method.gate_update, method.penalty_rule) == expected


def test_a_switch_that_is_given_wins_over_fidelity_and_targets_are_a_set() -> None:
    (run,) = build_runs(plain(method__fidelity="paper", method__prox="authors", method__targets=["b", "a", "b"]))
    assert isinstance(run.method, SoraConfig)
    assert (run.method.prox, run.method.gate_update, run.method.targets) == ("authors", "gradient", ["a", "b"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"trainer__learning_rate": "1e-3"}, 1e-3),  # YAML 1.1 reads 1e-3 as text
        ({"trainer__max_steps": "1000"}, 1000),
        ({"trainer__bucketing": "False"}, False),
        ({"trainer__clip": "-0.0"}, 0.0),
    ],
)
def test_values_take_the_type_of_their_field(change: dict[str, Any], expected: object) -> None:
    (run,) = build_runs(plain(**change))
    value = getattr(run.trainer, next(iter(change)).partition("__")[2])
    assert (value, type(value), str(value)) == (expected, type(expected), str(expected))


# -- packs -------------------------------------------------------------------------------------


def test_a_list_of_seeds_is_a_pack_in_its_order() -> None:
    assert [run.seed for run in build_runs(plain(seed=[3, 0, 7]))] == [3, 0, 7]


@pytest.mark.parametrize("seeds", [{"seeds": None}, {"seeds": {"data": 4}}])
def test_an_entry_of_a_pack_may_be_in_a_group_that_was_left_out(seeds: dict[str, Any]) -> None:
    (run,) = build_runs(plain(seed=3, pack=[{"seeds.init": 1}], **seeds))
    assert (run.seeds.init, run.seeds.data) == (1, 4 if seeds["seeds"] else 3)


def test_an_entry_of_a_pack_changes_what_it_names() -> None:
    entries = [{"seed": 4, "method.threshold": 1e-5}, {"method.threshold": "5e-5"}]
    first, second = build_runs(plain(seed=2, pack=entries))
    assert (first.seed, first.method.threshold) == (4, 1e-5)  # type: ignore[attr-defined]
    assert (second.seed, second.method.threshold) == (2, 5e-5)  # type: ignore[attr-defined]
    assert dataclasses.replace(first, seed=2, seeds=second.seeds, method=second.method) == second


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": []}, "seed: got an empty list"),
        ({"seed": [1, 2, 1]}, "seed: entries 0 and 2 (from 0) are the same run"),
        ({"seed": [0, 1], "method": {"name": "full"}}, "seed: method=full cannot be packed"),
        ({"seed": [0, 1], "pack": [{"seed": 0}]}, "seed: a list of seeds and pack were both given"),
        ({"pack": []}, "pack: must be a list such as"),
        ({"pack": [{"method.treshold": 0.1}]}, "did you mean method.threshold?"),
        ({"pack": [{"method.r": 4}]}, "pack: got 'method.r', but method=sora can pack one of seed"),
        ({"pack": [{"seed": 0}, {"seed": 1}], "method": {"name": "full"}}, "method=full can pack no key at all"),
        ({"pack": [{"seeds.init": 0}], "seeds": 5}, "seeds: got 5, must be a group of keys"),
    ],
)
def test_packs_that_cannot_be(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(**changes)


# -- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": -1}, "seed: got -1, must be an integer >= 0"),
        ({"seed": True}, "seed: got True, must be an integer >= 0"),
        ({"trainer__batch_size": 8.0}, "trainer.batch_size: got 8.0, must be an integer >= 1"),
        ({"trainer__epochs": 10**400}, "trainer: the number has too many digits, must be below 1e308"),
        ({"trainer__epochs": float("nan")}, "trainer.epochs: got nan, must be a number > 0"),
        ({"trainer__batch_size": None}, "trainer.batch_size: got null, must be an integer >= 1"),
        ({"trainer__bucketing": "maybe"}, "trainer.bucketing: got 'maybe', must be true or false"),
        ({"trainer__max_steps": 0}, "trainer.max_steps: got 0, must be an integer >= 1 and <= 1000000000 or null"),
        ({"trainer__warmup_ratio": 1}, "trainer.warmup_ratio: got 1.0, must be a number >= 0 and < 1"),
        ({"trainer__batchsize": 4}, "trainer.batchsize: no such key; did you mean batch_size?"),
        ({"precision": "fp23"}, "must be one of fp32, tf32, bf16; did you mean fp32?"),
        (
            {"method__name": "sorra"},
            "method.name: got 'sorra', must be one of ... lora, sora ... did you mean sora?",
        ),
        ({"method": {"name": "lora", "threshold": 1}}, "method.threshold: no such key; the keys are alpha, "),
        ({"method": {"name": "adalora", "r": 13}}, "method.r: got 13, must be at most method.init_r=12"),
        ({"task__score_range": [1], "task__labels": []}, "task.score_range: got [1.0], must be the lowest"),
        ({"task__sizes": {"train": -3}}, "task.sizes.train: got -3, must be an integer >= 1"),
        ({"backbone__name": "minilm-l6", "backbone__hub": "me/x"}, "backbone=minilm-l6 is sentence-transformers/"),
        ({"method__targets": []}, "method.targets: got an empty list"),
        ({"method__targets": [[1]]}, "method.targets: got [[1]], must be a list of texts or null"),
        ({"trainer__max_length": 513}, "backbone=tiny reads at most 512 tokens"),
        ({"backbone__weights": "randm"}, "backbone.weights: got 'randm', must be pretrained, random or"),
        ({"backbone": {"family": "bert"}}, "backbone.name: missing"),
        ({"schedule__levels": [0.1]}, "schedule.levels: given, but schedule.kind=none has no levels"),
        ({"trainer": "default"}, "trainer: got 'default', must be a group of keys"),
        ({"sead": 1}, "sead: no such key; did you mean seed?"),
        ({"method": {"name": "peft", "options": 5}}, "method.options: got 5, must be a group of PEFT's keys, or null"),
        ({"method": {"name": "masked_lora", "ranks": {"a": "x"}}}, "method.ranks.a: got x, must be from 0 to"),
    ],
)
def test_a_mistake_names_its_key_and_the_way_out(changes: dict[str, Any], said: str) -> None:
    for part in said.split(" ... "):
        assert part in refusal(**changes)


@pytest.mark.parametrize(
    ("schedule", "method", "said"),
    [
        (
            {"start": 0, "spacing": "exp_linear"},
            {},
            "schedule.spacing=exp_linear: lays no levels from 0 to 0.001",
        ),
        ({"stop": 1e-5}, {}, "schedule.stop: got 1e-05, must be above schedule.start=0.0001"),
        ({"levels": [2e-4, 1e-4]}, {}, "schedule.levels: got [0.0002, 0.0001], must rise from level to level"),
        ({"levels": [1e-4, -1]}, {}, "schedule.levels: got [0.0001, -1.0], must be a list of numbers >= 0"),
        ({"levels": [1e-5]}, {}, "schedule.levels: got 1e-05 first, must be at least method.threshold=0.0001"),
        ({"kind": "one_shot", "levels": [0.5, 1.5]}, {}, "schedule.levels: got 1.5, must be at most 1"),
        ({}, {"name": "lora"}, "schedule.kind=sparsify: method=lora has no gates to zero; choose method=sora"),
        ({"lr": "authors_zero"}, {"threshold_rule": "lr_scaled"}, "set method.threshold_rule=constant or another"),
    ],
)
def test_schedules_that_cannot_be(schedule: dict[str, Any], method: dict[str, Any], said: str) -> None:
    assert said in refusal(schedule={"kind": "sparsify"} | schedule, method={"name": "sora"} | method)


def test_positions_bound_the_length_only_where_they_are_absolute() -> None:
    roberta = TINY | {"family": "roberta", "arch": {"hidden_size": 32, "max_position_embeddings": 514}}
    assert build_runs(plain(backbone=roberta, trainer__max_length=512))
    assert "at most 512 tokens" in refusal(backbone=roberta, trainer__max_length=513)
    relative = TINY | {"arch": TINY["arch"] | {"position_biased_input": False}}
    assert build_runs(plain(backbone=relative, trainer__max_length=2048))


def test_a_backbone_says_what_it_is() -> None:
    said = refusal(backbone=TINY | {"arch": {}})
    assert said.startswith("backbone.arch: backbone=tiny has no hidden_size; give the keys of its config.json")
