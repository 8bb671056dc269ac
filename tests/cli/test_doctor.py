"""The doctor on a healthy case, and on one planted fault at a time: it names that fault, and only that."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.doctor import main
from sora.backbones import Head
from sora.backbones.source import tokenizer_folder
from sora.cli import doctor
from sora.cli.prepare import backbone_config
from sora.errors import UserError
from sora.runs.compose import runs_of
from tests.tasks.test_load import write

SMALL = (  # MiniLM's tokenizer over a small encoder of random weights
    "backbone=minilm-l6",
    "backbone.weights=random",
    "backbone.arch.num_hidden_layers=1",
    "backbone.arch.hidden_size=32",
    "backbone.arch.num_attention_heads=2",
    "backbone.arch.intermediate_size=32",
    "task=synthetic_pair",
    "recipe=none",
    "trainer.batch_size=4",
    "seed=[0,1]",
)
NAMES = ["device", "data", "tokenizer", "disk", "memory", "regime", "tracker", "trainable", "determinism"]


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    torch.use_deterministic_algorithms(False)


def examined(capsys: pytest.CaptureFixture[str], *words: str, status: int) -> dict[str, tuple[str, str]]:
    """Name of each check -> its level and what it said."""
    assert main([*SMALL, *words]) == status
    lines = [line.split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert [name for _, name, _ in lines] == NAMES
    return {name: (level, text) for level, name, text in lines}


def failed(verdicts: dict[str, tuple[str, str]]) -> dict[str, str]:
    return {name: text for name, (level, text) in verdicts.items() if level == "FAIL"}


def a_case(*words: str) -> doctor.Case:
    return doctor.Case(runs_of([*SMALL, *words]))


def test_a_healthy_case(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = examined(capsys, "deterministic=true", status=0)
    assert {name for name, (level, _) in found.items() if level != "ok"} == {"trainable"}
    assert found["trainable"][1].endswith("; backbone.weights=random: no result of a pretrained minilm-l6")
    assert found["tokenizer"][1] == "30,522 tokens; 7 golden texts get the ids they must"
    rank = 6 * 8 + 8 * (8 * 32 + 2 * (32 + 32))  # gates; low-rank factors of six matrices of 32 x 32
    head = 32 * 32 + 32 + 2 * 32 + 2
    assert found["trainable"][1].startswith(f"{rank + head:,} weights a run, {head:,} of the head")
    assert found["determinism"][1].endswith("(deterministic=true)")
    assert not list(tmp_path.iterdir()), "it writes nothing"


@pytest.mark.parametrize("words", [("method=probe",), ("method=zero_shot", "task=synthetic_graded")])
def test_a_method_without_steps_is_healthy(words: tuple[str, ...]) -> None:
    untrained = [word for word in SMALL if not word.startswith("trainer.")]
    run = doctor.Case(runs_of([*untrained, *words, "seed=0"]))
    name = words[0]
    assert doctor._trainable(run) == ("ok", f"{name} takes no optimiser steps")
    assert doctor._determinism(run) == ("ok", "there is no step to repeat")


def test_a_head_in_half_precision_and_a_check_that_breaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(*arguments: Any, **named: Any) -> Head:
        head = Head(*arguments, **named)
        head.out.data = head.out.data.half()
        return head

    monkeypatch.setattr("sora.training.pack.Head", half)
    monkeypatch.setattr("sora.cli.doctor.load_tokenizer", lambda config: 1 / 0)
    found = examined(capsys, status=1)
    assert failed(found).keys() == {"tokenizer", "trainable"}
    assert found["tokenizer"][1] == "ZeroDivisionError: division by zero"
    assert found["trainable"][1].endswith("1 trainable tensors are not torch.float32: head.out is torch.float16")
    assert found["determinism"] == ("skipped", "needs trainable")


def test_a_broken_tokenizer_and_missing_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One that keeps accents, and so differs on a few words only: nothing would crash."""
    folder = tmp_path / "models" / "minilm-l6"
    source = tokenizer_folder(backbone_config("minilm-l6"))
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    content = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(content | {"strip_accents": False}))
    write(tmp_path / "RTE", {"train": 2489, "dev": 277})
    found = examined(capsys, f"backbone.dir={tmp_path / 'models'}", "task=rte", f"data.dir={tmp_path}", status=1)
    assert failed(found).keys() == {"tokenizer", "data"}
    assert "1 of 7 golden texts get other ids, such as 'naïve café" in found["tokenizer"][1]
    assert "RTE/train.tsv: 2,490 expected, 2,489 found" in found["data"][1]
    assert found["memory"] == ("skipped", "needs data")
    level, text = doctor._data(a_case("task=rte", f"data.dir={tmp_path}", "data.allow_partial=true"))
    assert (level, text.rpartition("; ")[2]) == ("note", "partial: train 2,490 expected, 2,489 found")


def test_a_threshold_that_no_gate_can_outrun() -> None:
    few = ("trainer.max_steps=100", "trainer.learning_rate=1e-3")
    level, text = doctor._regime(a_case(*few, "method.threshold=2e-3"))
    assert level == "note"
    assert text.startswith("no gate can be held up by the loss: ranks will follow the initial draw (rho 2, shrink 0.2")
    assert doctor._regime(a_case(*few, "method=lora")) == ("ok", "no gates that a threshold zeroes")


def test_weights_and_biases_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wandb.login", lambda **options: False)
    with pytest.raises(UserError, match="WANDB_API_KEY"):
        doctor._tracker(a_case("tracker=wandb", "tracker.mode=online"))
    assert doctor._tracker(a_case("tracker=wandb", "tracker.mode=offline"))[1].startswith(
        "metrics.jsonl and W&B, offline"
    )


def test_a_driver_without_a_torch_that_can_use_it_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr("sora.cli.doctor.has_driver", lambda: False)
    assert doctor._device(a_case())[0] == "ok"
    monkeypatch.setattr("sora.cli.doctor.has_driver", lambda: True)
    level, text = doctor._device(a_case())
    assert level == "note"
    assert text.endswith(f"a driver of NVIDIA, but torch {torch.__version__} is built without CUDA")
    assert doctor._device(a_case("device=cpu"))[0] == "ok"
    with pytest.raises(UserError, match="device=cuda"):
        doctor._device(a_case("device=cuda"))


def test_a_disk_must_hold_the_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    case, usage = a_case(), namedtuple("usage", "total used free")
    weights = 2 * doctor.estimate.trainable(case.run) * 4
    for free, level in ((weights * (doctor.KEEP + 1) * doctor.ROW_COPIES, "FAIL"), (2 * weights * 50, "ok")):
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: usage(1 << 40, 0, free))
        assert doctor._disk(case)[0] == level


def test_a_place_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "closed").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "closed")
    for name in ("file", "closed"):
        level, text = doctor._disk(a_case(f"paths.runs={tmp_path / name}/runs"))
        assert (level, text.partition(" is no ")[0]) == ("FAIL", f"paths.runs: {tmp_path / name}")


def test_own_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "my conf" / "task").mkdir(parents=True)
    (tmp_path / "my conf" / "task" / "mine.yaml").write_text("defaults: [synthetic_pair]\nname: mine\n")
    found = examined(capsys, "task=mine", "--config-dir", "my conf", status=0)
    assert found["data"][1].startswith("mine: train ")
