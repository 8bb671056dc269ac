"""Through the commands a user types: the paper's setting from the hub's cache, a prepared folder without network."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from huggingface_hub import constants
from safetensors.torch import load_file

from scripts import prepare_data
from sora.backbones.prepared import MANIFEST, check_all
from sora.backbones.source import backbone_identity, tokenizer_folder, weights_files
from sora.cli.prepare import backbone_config, prepare
from sora.config import DataConfig, ProtocolConfig
from sora.errors import UserError
from sora.runs import records
from sora.tasks import load
from tests.backbones.folders import save_model
from tests.hub_cache import DEBERTA, OVERRIDES, deberta_files, fill
from tests.tasks.test_snapshot import TASK, parquet, rte
from tests.typed import called

PAPER = ("method=sora", "task=rte", "seed=0")  # backbone=deberta-v3-base is the default
SHORT = (
    *OVERRIDES,
    "data.allow_partial=true",
    "trainer.max_steps=4",
    "trainer.eval_every=2",
    "trainer.checkpoint_every=2",
    "trainer.batch_size=2",
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A HF_HOME whose hub cache holds a small DeBERTaV3 in half precision and a small RTE under their real names."""
    home = tmp_path_factory.mktemp("home")
    config = backbone_config("deberta-v3-base")
    fill(home / "hub", config.hub, config.revision, deberta_files(config.arch | DEBERTA))
    folder = parquet(rte(), home / "snapshot")
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}
    fill(home / "hub", TASK.hub, TASK.revision, files, "dataset")
    return home


def record_of(folder: Path) -> dict[str, Any]:
    (record,) = records.read_many(folder / "results")
    return record


def test_the_papers_command_trains_from_the_hubs_cache(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With that cache, whose network is off: weights of a pickled file in half precision."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub / "hub"))
    done = called(tmp_path, *PAPER, *SHORT)
    assert done.status == 0, done.err
    record, adapter = record_of(tmp_path), next(tmp_path.glob("runs/*/adapter"))
    assert record["config"]["backbone"]["name"] == "deberta-v3-base"
    assert record["data"]["sources"]["report"] == "RTE/dev.tsv"
    assert record["history"][-1]["step"] == 4
    trained = load_file(adapter / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "microsoft/deberta-v3-base"


# -- a prepared folder -------------------------------------------------------------------------------------------


SMALL = (
    "backbone=minilm-l6",
    "method=sora",
    "task=rte",
    "recipe=none",
    "data.allow_partial=true",
    "trainer.max_steps=2",
    "trainer.batch_size=2",
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, hub: Path) -> Path:
    """A folder filled from the hub's cache and the pip package, whose name a shell must quote."""
    out = tmp_path_factory.mktemp("prepared") / "of mine"
    printed = io.StringIO()
    (out / "models" / "minilm-l6").mkdir(parents=True)
    (out / "models" / "minilm-l6" / ".model.safetensors.0.tmp").write_bytes(b"of a copy that was killed")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(constants, "HF_HUB_CACHE", str(hub / "hub"))
        patch.setattr(sys, "argv", ["x", str(out), "--task", "rte", "--backbone", "minilm-l6", "--allow-partial"])
        assert prepare_data.main() == 0
    assert f"export SORA_DATA='{out}' SORA_MODELS='{out / 'models'}' HF_HUB_OFFLINE=1" in printed.getvalue()
    return out


def test_a_prepared_folder_is_all_that_a_node_without_network_needs(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an empty cache of the hub, and connections that fail."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(f"socket.socket.{name}", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("SORA_DATA", str(prepared))
    monkeypatch.setenv("SORA_MODELS", str(prepared / "models"))
    done = called(tmp_path, *SMALL)
    assert done.status == 0, done.err
    record = record_of(tmp_path)
    assert record["data"]["sizes"] == {"train": 40, "select": 5, "report": 5, "train_subset": 40}
    pinned = backbone_config("minilm-l6").sha256["model.safetensors"]
    assert record["config"]["weights"] == {"sha256": pinned}


def test_a_backbone_of_ones_own_may_build_on_another(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [deberta-v3-base, _self_]\nname: mine\narch: {hidden_size: 8}\n")
    mine, base = backbone_config("mine", tmp_path), backbone_config("deberta-v3-base")
    assert mine == replace(base, name="mine", arch=base.arch | {"hidden_size": 8})


def test_a_folder_of_parquet_without_a_test_split_is_copied(tmp_path: Path) -> None:
    """As a run accepts it."""
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": ["entailment", "not_entailment"], "idx": [0, 1]}
    for split in ("train", "validation"):
        path = tmp_path / "in" / "glue" / "rte" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(rows).to_parquet(path)
    assert prepare(tmp_path / "out", ["rte"], [], data_dir=str(tmp_path / "in"), allow_partial=True) == 2


def test_the_manifest_lists_every_file(prepared: Path) -> None:
    listed = json.loads((prepared / MANIFEST).read_text())["files"]
    there = {path.relative_to(prepared).as_posix() for path in prepared.rglob("[!.]*") if path.is_file()}
    assert there == set(listed) | {MANIFEST}
    assert check_all(prepared) == len(listed)


def _changed(path: Path) -> Path:
    path.unlink()  # it is a link
    path.write_bytes(b"changed")
    return path


def _missing(path: Path) -> Path:
    path.unlink()
    return path


def _one_shard_more(path: Path) -> Path:
    path.rename(path.with_name("train-00001-of-00002.parquet"))
    shutil.copy(path.with_name("train-00001-of-00002.parquet"), path.with_name("train-00000-of-00002.parquet"))
    return path.with_name("train-00000-of-00002.parquet")


def read(folder: Path) -> None:
    """Read what a run reads from a prepared folder."""
    load(TASK, ProtocolConfig(), DataConfig(str(folder)))
    config = replace(backbone_config("minilm-l6"), dir=str(folder / "models"))
    tokenizer_folder(config)
    weights_files(config)


@pytest.mark.parametrize(
    ("spoil", "file"),
    [
        (_changed, "glue/rte/validation-00000-of-00001.parquet"),
        (_one_shard_more, "glue/rte/train-00000-of-00001.parquet"),
        (_changed, "models/minilm-l6/vocab.txt"),
        (_missing, "models/minilm-l6/tokenizer_config.json"),
        (_changed, "models/minilm-l6/model.safetensors"),
        (_missing, "models/minilm-l6/model.safetensors"),
    ],
)
def test_a_folder_that_differs_from_its_manifest_is_refused(
    spoil: Callable[[Path], Path], file: str, prepared: Path, tmp_path: Path
) -> None:
    """By the run that reads the file, and by --check: also one that was not filled to the end."""
    copy = Path(shutil.copytree(prepared, tmp_path / "copy", copy_function=os.link))
    (copy / "models" / "minilm-l6" / "README.md").write_text("of no file that a run reads")
    read(copy)
    wrong = spoil(copy / file)
    said = rf"{re.escape(str(wrong))}: missing, changed or added since .*run scripts/prepare_data.py again"
    with pytest.raises(UserError, match=said):
        read(copy)
    with pytest.raises(UserError, match="missing, changed or added since"):
        check_all(copy)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"tasks": ["rt"]}, "task 'rt' has no file in conf/task"),
        ({"tasks": ["synthetic_pair"]}, "task synthetic_pair is generated; leave it out"),
        ({"tasks": ["rte"]}, "rte/train-00000-of-00001.parquet: 2,490 expected, 40 found"),
        ({"tasks": ["cola"]}, "no cola/train-00000-of-00001.parquet of nyu-mll/glue: HF_HUB_OFFLINE is set"),
        ({"backbones": ["minilm"]}, "'minilm' has no file in conf/backbone; did you mean minilm-l6?"),
        ({"backbones": ["roberta-base"]}, "no weights in FacebookAI/roberta-base: HF_HUB_OFFLINE is set"),
    ],
)
def test_what_cannot_be_prepared_is_said_before_anything_is_written(
    arguments: dict[str, Any], says: str, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub / "hub"))
    with pytest.raises(UserError, match=re.escape(says)):
        prepare(tmp_path / "out", **{"tasks": [], "backbones": []} | arguments)
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_at_hand_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From SORA_MODELS, other than the folder that is filled; its YAML is read as Hydra reads it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    save_model(tmp_path / "have" / "mine")
    yaml = tmp_path / "conf" / "backbone" / "mine.yaml"
    yaml.parent.mkdir(parents=True)
    yaml.write_text("name: mine\nfamily: auto\nhub: org/mine\npooling: auto\narch: {layer_norm_eps: 1e-12}\n")
    assert backbone_config("mine", yaml.parent).arch == {"layer_norm_eps": 1e-12}
    out = tmp_path / "out"
    monkeypatch.setenv("SORA_MODELS", str(tmp_path / "have"))
    prepare(out, [], ["mine"], config_dir=str(tmp_path / "conf"))
    weights = "mine/model.safetensors"
    assert (out / "models" / weights).read_bytes() == (tmp_path / "have" / weights).read_bytes()
    monkeypatch.setenv("SORA_MODELS", str(out / "models"))
    with pytest.raises(UserError, match="in org/mine: HF_HUB_OFFLINE is set"):
        prepare(out, [], ["mine"], config_dir=str(tmp_path / "conf"))


def test_a_full_disk_leaves_an_unfinished_folder(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "out"))

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub / "hub"))
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(UserError, match=r"out: cannot be written \(No space left on device\); make room"):
        prepare(tmp_path / "out", ["rte"], [], allow_partial=True)
    with pytest.raises(UserError, match="missing, changed or added since"):
        check_all(tmp_path / "out")


def test_weights_damaged_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub names a large file by its sha256, so a changed one is noticed without a pin in conf/."""
    config = backbone_config("roberta-base")
    snapshot = fill(tmp_path, config.hub, config.revision, {"model.safetensors": b"weights"})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    named = hashlib.sha256(b"weights").hexdigest()
    assert backbone_identity(config) == {"sha256": named}
    (snapshot / "model.safetensors").resolve().write_bytes(b"other weights")
    with pytest.raises(UserError, match=f"but the hub says {named[:12]}...; the file is damaged"):
        backbone_identity(config)
