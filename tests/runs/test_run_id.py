"""The name of a run: what changes it, what must not, and that it never changes by accident."""

import dataclasses
import hashlib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from sora.config import RunConfig
from sora.method_config import METHODS, SoraConfig
from sora.runs.resolve import build_runs, plain_values
from sora.runs.run_id import recorded_config, run_id, science_config
from tests.composing import composed, runs

DATA = "d" * 64
WEIGHTS = {"sha256": "e" * 64}
FIDELITIES = ("authors", "paper")


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """SoRA on RTE as the command line composes it, without a recipe."""
    return plain_values(composed(tmp_path_factory.mktemp("conf"), "recipe=none"))


@pytest.fixture
def run(values: dict[str, Any]) -> RunConfig:
    (result,) = build_runs(values)
    return result


def changed(values: dict[str, Any], override: str) -> RunConfig:
    """The run with ``key=value``."""
    key, _, text = override.partition("=")
    *groups, leaf = key.split(".")
    values = deepcopy(values)
    node = values
    for group in groups:
        node = node[group]
    node[leaf] = yaml.safe_load(text)
    (result,) = build_runs(values)
    return result


def identity(run: RunConfig) -> str:
    return run_id(run, DATA, WEIGHTS)


def test_the_golden_science_and_its_name(run: RunConfig) -> None:
    """A change here renames every published record: raise a `version` instead."""
    science = science_config(run, DATA, WEIGHTS)
    assert science == {
        "backbone": {"name": "tiny", "arch": {"hidden_size": 32, "max_position_embeddings": 512}},
        "method": {
            "name": "sora",
            "gate_update": "adam",
            "penalty_rule": "mean",
            "prox": "authors",
            "threshold_rule": "constant",
        },
        "task": {"name": "rte", "labels": ["entailment", "not_entailment"]},
        "trainer": {"learning_rate": 8e-4, "max_length": 320, "optimizer": "adamw_hf"},
        "seeds": {"init": 0, "data": 0},
        "data": DATA,
        "weights": WEIGHTS,
    }
    # By hand, so that a change of the canonical form cannot pass unseen.
    text = (
        '{"backbone":{"arch":{"hidden_size":32,"max_position_embeddings":512},"name":"tiny"},'
        f'"data":"{DATA}",'
        '"method":{"gate_update":"adam","name":"sora","penalty_rule":"mean","prox":"authors",'
        '"threshold_rule":"constant"},'
        '"seeds":{"data":0,"init":0},'
        '"task":{"labels":["entailment","not_entailment"],"name":"rte"},'
        '"trainer":{"learning_rate":0.0008,"max_length":320,"optimizer":"adamw_hf"},'
        f'"weights":{{"sha256":"{WEIGHTS["sha256"]}"}}}}'
    )
    assert json.loads(text) == science
    assert identity(run) == hashlib.sha256(text.encode()).hexdigest()[:12]


@pytest.mark.parametrize(
    "override",
    [
        "paths.runs=elsewhere",
        "paths.results=elsewhere",
        "data.dir=/data",
        "data.allow_partial=true",
        "resume=never",
        "predict=true",
        "dry_run=true",
        "deterministic=true",
        "trainer.log_every=7",
        "trainer.checkpoint_every=7",
        "backbone.weights=random",  # the identity of the weights speaks for them
        "backbone.note=x",
        "method.fidelity=authors",
        "method.prox=authors",  # what fidelity says anyway
        "method.penalty_rule=mean",
        "method.learning_rate=0.0008",
        "trainer.learning_rate=8e-4",  # the method's own
        "trainer.max_length=320",  # the task's own
        "task.max_length=320",
        "task.source=elsewhere",
        "task.folder=rte",
        "task.sizes.train=7",  # how many there are shows in the data's hash
        "trainer.epochs=20",
        "seeds.init=0",
        "schedule.epochs=7",  # without levels, nothing
        "seed=[0]",
        "pack=[{seed: 0}]",
    ],
)
def test_what_does_not_decide_the_numbers_does_not_change_the_name(
    run: RunConfig, values: dict[str, Any], override: str
) -> None:
    assert identity(changed(values, override)) == identity(run)


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "seeds.init=1",
        "seeds.data=1",
        "head=frozen",
        "precision=bf16",
        "protocol.name=dev",
        "task.labels=[a, b]",
        "method.r=4",
        "method.alpha=8",
        "method.threshold=1e-5",
        "method.prox=soft",
        "method.fidelity=paper",
        "method.penalty=0.2",
        "method.clip=own",
        "method.targets=[query]",
        "trainer.epochs=3",
        "trainer.max_steps=3",
        "trainer.max_length=128",
        "trainer.learning_rate=1e-3",
        "trainer.bucketing=false",
        "trainer.eval_every=7",
        "trainer.train_subset=never",
        "trainer.clip=0",
        "backbone.dropout=0.0",
        "backbone.pooling=mean",
        "backbone.tokenizer=hf",
        "backbone.arch.hidden_size=64",
        "method.version=2",
        "task.version=2",
        "protocol.version=2",
        "task.select_metric=f1",
    ],
)
def test_what_decides_the_numbers_changes_the_name(run: RunConfig, values: dict[str, Any], override: str) -> None:
    assert identity(changed(values, override)) != identity(run)


@pytest.mark.parametrize(
    ("words", "version"),
    [
        (("method=lora", "method.dropout=0.1", "backbone=deberta-v3-base"), 2),
        (("method=peft", "method.options={lora_dropout: 0.1}", "backbone=deberta-v3-base"), 2),
        (("method=lora", "backbone=deberta-v3-base"), 1),
        (("method=lora", "method.dropout=0.1", "backbone=roberta-base"), 1),
    ],
)
def test_dropout_on_relative_embeddings_is_of_the_second_version(
    tmp_path: Path, words: tuple[str, ...], version: int
) -> None:
    """Its masks no longer depend on how far a batch is padded."""
    assert runs(tmp_path, "recipe=none", "task=rte", *words)[0].method.version == version


def test_the_optimiser_names_a_run_by_what_it_is_not_by_who_asked_for_it(tmp_path: Path) -> None:
    """SoRA's authors train with transformers' old AdamW; torch's is what a name does not speak of."""
    asked, plain, paper, same = (
        runs(tmp_path, "recipe=none", "task=rte", f"method.fidelity={fidelity}", *words)[0]
        for fidelity in FIDELITIES
        for words in (("trainer.optimizer=adamw_hf",), ("trainer.optimizer=adamw",))
    )
    (authors,), (by_paper,) = (runs(tmp_path, "recipe=none", "task=rte", f"method.fidelity={f}") for f in FIDELITIES)
    assert identity(authors) == identity(asked) != identity(plain)
    assert identity(by_paper) == identity(same) != identity(paper)
    assert "optimizer" not in science_config(plain, DATA, WEIGHTS)["trainer"]
    assert recorded_config(plain, WEIGHTS)["trainer"]["optimizer"] == "adamw"
    assert {name for name, cls in METHODS.items() if cls(name).optimizer() != "adamw"} == {"sora"}


def test_standardized_targets_change_the_name_and_plain_ones_do_not(tmp_path: Path) -> None:
    plain, standard = (
        runs(tmp_path, "recipe=none", "task=stsb", f"task.standardize={each}")[0] for each in ("false", "true")
    )
    assert identity(plain) != identity(standard)
    assert "standardize" not in science_config(plain, DATA, WEIGHTS)["task"]


def test_rho_is_another_way_to_type_a_threshold(tmp_path: Path) -> None:
    typed = ("method=sora", "trainer.learning_rate=7e-4")
    (given,), (meant,) = runs(tmp_path, *typed, "method.rho=0.15"), runs(tmp_path, *typed, "method.threshold=1.05e-4")
    assert isinstance(given.method, SoraConfig)
    assert given.method.threshold == 1.05e-4
    assert run_id(given, DATA, WEIGHTS) == run_id(meant, DATA, WEIGHTS)
    packed = runs(tmp_path, *typed, "pack=[{method.rho: 0}, {method.rho: 0.35}, {method.threshold: 1.05e-4}]")
    assert [run.method.threshold for run in packed] == [0.0, 2.45e-4, 1.05e-4]


def test_an_option_added_later_renames_nothing(run: RunConfig) -> None:
    """A field that the run was made without, at the default it is introduced with."""

    def extended(value: float) -> RunConfig:
        cls = type(run.method)
        added = dataclasses.make_dataclass(
            cls.__name__, [("ramp", float, dataclasses.field(default=0.5))], bases=(cls,)
        )
        return dataclasses.replace(run, method=added(**dataclasses.asdict(run.method), ramp=value))

    assert identity(extended(0.5)) == identity(run)
    assert identity(extended(0.6)) != identity(run)


def test_levels_name_a_run_by_what_they_are_not_by_how_they_were_written(values: dict[str, Any]) -> None:
    def named(**schedule: Any) -> str:
        (run,) = build_runs(values | {"schedule": schedule})
        return identity(run)

    sparsify, levels = {"kind": "sparsify"}, [1e-4, 2e-4, 3e-4]
    spaced = named(**sparsify, stop=3e-4, count=3)
    assert named(**sparsify, levels=levels) == spaced
    assert named(**sparsify, levels=levels, count=7) == spaced
    assert named(**sparsify, levels=levels, lr="authors_zero") != spaced
    one_shot = named(kind="one_shot", levels=[0.5])
    assert named(kind="one_shot", levels=[0.5], lr="constant") == one_shot
    by_steps = named(**sparsify, steps=7)
    assert named(**sparsify, steps=7, epochs=2) == by_steps
    assert len({named(), spaced, by_steps, named(**sparsify), one_shot}) == 5
