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
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from scripts import prepare_data
from sora.backbones.prepared import MANIFEST, UNFINISHED, check_all
from sora.backbones.source import backbone_identity, tokenizer_folder
from sora.backbones.weights import read_state
from sora.cli.prepare import backbone_config, prepare
from sora.config import DataConfig, ProtocolConfig
from sora.errors import UserError
from sora.runs import records
from sora.tasks import load
from tests.hub_cache import DEBERTA, OVERRIDES, deberta_files, fill
from tests.tasks.test_snapshot import TASK, parquet, rte
from tests.typed import called

ROOT = Path(__file__).parents[2]
PAPER = ("method=sora", "task=rte", "seed=0")  # backbone=deberta-v3-base is the default
SHORT = (
    *OVERRIDES,
    "data.allow_partial=true",
    "trainer.max_steps=4",
    "trainer.eval_every=2",
    "trainer.checkpoint_every=2",
    "trainer.batch_size=2",
)
NO_SOCKETS = """
import socket

def refuse(*_, **__):
    raise OSError("no network in this test")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, hub: Path) -> Path:
    """The paper's command with that cache, whose network is off."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(hub / "hub"))
        done = called(folder, *PAPER, *SHORT)
    assert done.status == 0, done.err
    return folder


def test_the_papers_command_trains_from_the_hubs_cache(trained: Path) -> None:
    folder, record = trained, record_of(trained)
    assert record["config"]["backbone"]["name"] == "deberta-v3-base"
    assert record["data"]["sources"]["report"] == "RTE/dev.tsv"
    assert record["history"][-1]["step"] == 4
    adapter = load_file(folder / "runs" / record["run_id"] / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    config = json.loads((folder / "runs" / record["run_id"] / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "microsoft/deberta-v3-base"


def test_a_pickled_file_is_converted_once_and_a_damaged_conversion_again(trained: Path, hub: Path) -> None:
    """Into safetensors under its own hash, in its own precision; the identity stays that of the .bin."""
    sha256 = record_of(trained)["config"]["weights"]["sha256"]
    converted = Path(constants.HF_ASSETS_CACHE) / "sora-bench" / "weights" / f"{sha256}.safetensors"
    good = {name: tensor.clone() for name, tensor in load_file(converted).items()}
    assert {tensor.dtype for tensor in good.values()} == {torch.float16}
    before = converted.stat().st_mtime_ns
    pickled = next((hub / "hub").rglob("pytorch_model.bin"))
    for name, tensor in read_state([pickled], sha256, converted.parent).items():
        assert torch.equal(tensor, good[name])
    assert converted.stat().st_mtime_ns == before
    state = good | {"pooler.dense.bias": good["pooler.dense.bias"] + 1}
    save_file(state, converted)
    assert torch.equal(read_state([pickled], sha256, converted.parent)["pooler.dense.bias"], good["pooler.dense.bias"])
    assert all(torch.equal(tensor, good[name]) for name, tensor in load_file(converted).items())


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
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(constants, "HF_HUB_CACHE", str(hub / "hub"))
        patch.setattr(sys, "argv", ["x", str(out), "--task", "rte", "--backbone", "minilm-l6", "--allow-partial"])
        assert prepare_data.main() == 0
    assert f"export SORA_DATA='{out}' SORA_MODELS='{out / 'models'}' HF_HUB_OFFLINE=1" in printed.getvalue()
    return out


def test_a_prepared_folder_is_all_that_a_node_without_network_needs(prepared: Path, tmp_path: Path) -> None:
    """In a network namespace without interfaces; where the kernel forbids that, with connections that fail."""
    (blocked := tmp_path / "blocked").mkdir()
    (blocked / "sitecustomize.py").write_text(NO_SOCKETS)
    wrapper = ("unshare", "--map-root-user", "--net")
    allowed = (
        shutil.which("unshare") and not subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SORA_", "HF_", "PYTHON"))}
    places = {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "empty"), "PYTHONPATH": f"{ROOT}:{blocked}"}
    places |= {"SORA_DATA": str(prepared), "SORA_MODELS": str(prepared / "models"), "OMP_NUM_THREADS": "1"}
    call = [*(wrapper if allowed else ()), sys.executable, str(ROOT / "run.py"), *SMALL]
    done = subprocess.run(call, cwd=tmp_path, env=kept | places, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = record_of(tmp_path)
    assert record["data"]["sizes"] == {"train": 40, "select": 5, "report": 5, "train_subset": 40}
    pinned = backbone_config("minilm-l6").sha256["model.safetensors"]
    assert record["config"]["weights"] == {"sha256": pinned}


def test_the_manifest_lists_every_file(prepared: Path) -> None:
    listed = json.loads((prepared / MANIFEST).read_text())["files"]
    there = {path.relative_to(prepared).as_posix() for path in prepared.rglob("*") if path.is_file()}
    assert there == set(listed) | {MANIFEST}
    assert {"glue/rte/train-00000-of-00001.parquet", "models/minilm-l6/model.safetensors"} <= set(listed)
    content = (prepared / "models/minilm-l6/model.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == listed["models/minilm-l6/model.safetensors"]["sha256"]
    assert check_all(prepared) == len(listed)


def spoiled(folder: Path) -> str:
    """What a run from a spoiled folder says."""
    config = replace(backbone_config("minilm-l6"), dir=str(folder / "models"))

    def read_all() -> None:
        load(TASK, ProtocolConfig(), DataConfig(str(folder)))
        backbone_identity(config)
        tokenizer_folder(config)

    with pytest.raises(UserError) as caught:
        read_all()
    assert str(caught.value).endswith("run scripts/prepare_data.py again")
    return str(caught.value)


def test_a_folder_that_was_not_finished_is_refused(prepared: Path) -> None:
    (prepared / UNFINISHED).touch()
    try:
        assert spoiled(prepared).startswith(f"{prepared}: was not filled to the end")
    finally:
        (prepared / UNFINISHED).unlink()


def test_changed_files_are_named(prepared: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(prepared, tmp_path / "copy"))
    data = copy / "glue" / "rte" / "validation-00000-of-00001.parquet"
    content = data.read_bytes()
    data.write_bytes(content[:-4] + b"PAR0")
    assert spoiled(copy).startswith(f"{data}: missing, changed or added since")
    with pytest.raises(UserError, match="missing, changed or added since"):
        check_all(copy)
    data.unlink()
    with pytest.raises(UserError, match="missing, changed or added since"):
        check_all(copy)
    data.write_bytes(content)
    weights, vocabulary = (copy / "models" / "minilm-l6" / name for name in ("model.safetensors", "vocab.txt"))
    vocabulary.write_text("changed")
    assert spoiled(copy).startswith(f"{vocabulary}: missing, changed or added since")
    with weights.open("r+b") as file:
        file.write(b"fail")
    assert spoiled(copy).startswith(f"{weights}: missing, changed or added since")
    data.with_name("train-00000-of-00001.parquet").rename(data.with_name("train-00001-of-00002.parquet"))
    added = data.with_name("train-00000-of-00002.parquet")
    shutil.copy(data, added)
    assert spoiled(copy).startswith(f"{added}: missing, changed or added since")


def test_a_missing_backbone_is_named(prepared: Path) -> None:
    config = replace(backbone_config("deberta-v3-base"), dir=str(prepared / "models"))
    with pytest.raises(UserError, match=f"backbone.dir={prepared / 'models'}: no folder deberta-v3-base there"):
        backbone_identity(config)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"tasks": ["rt"]}, "task 'rt' has no file in conf/task"),
        ({"tasks": ["synthetic_pair"]}, "synthetic_pair is generated and needs no files"),
        ({"tasks": ["rte"]}, "rte/train-00000-of-00001.parquet: 2,490 expected, 40 found"),
        ({"tasks": ["cola"]}, "no cola/train-00000-of-00001.parquet of nyu-mll/glue: HF_HUB_OFFLINE is set"),
        ({"backbones": ["minilm"]}, "'minilm' has no file in conf/backbone; did you mean minilm-l6?"),
        ({"backbones": ["roberta-base"]}, "no weights for FacebookAI/roberta-base"),
        ({"backbones": ["minilm-l6"], "weights": {"roberta-base": "."}}, "weights are given for roberta-base"),
    ],
)
def test_what_cannot_be_prepared_is_said_before_anything_is_written(
    arguments: dict[str, Any], says: str, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub / "hub"))
    with pytest.raises(UserError, match=re.escape(says)):
        prepare(tmp_path / "out", **{"tasks": [], "backbones": []} | arguments)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_an_unfinished_folder(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "out"))

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub / "hub"))
    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(UserError, match=r"out: cannot be written \(No space left on device\); make room"):
        prepare(tmp_path / "out", ["rte"], [], allow_partial=True)
    with pytest.raises(UserError, match="was not filled to the end"):
        check_all(tmp_path / "out")


# -- what the hub's cache may get wrong --------------------------------------------------------------------------


def test_a_revision_that_is_not_there(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub / "hub"))
    with pytest.raises(UserError, match="no weights for microsoft/deberta-v3-base") as refused:
        backbone_identity(replace(backbone_config("deberta-v3-base"), revision="f" * 40))
    assert "its cache has revision 8ccc9b6f3619, not ffffffffffff (backbone.revision)" in str(refused.value)


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
