"""The main street, through the command: train, return at once, start afresh, refuse clearly. Kills: tests/faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sora.cluster.run_lock import run_locks
from sora.runs import data_dependence, records
from sora.tasks import load
from sora.training import checkpoint
from sora.training.runner import run_pack
from tests import superglue
from tests.composing import runs
from tests.typed import Outcome, called, refused

SMALL = (
    "backbone=minilm-l6",
    "task=synthetic_pair",
    "recipe=none",
    "task.sizes={train: 60, validation: 40}",
    "trainer.max_steps=12",
    "trainer.batch_size=4",
    "trainer.eval_every=6",
    "trainer.checkpoint_every=4",
    "trainer.log_every=3",
)
NARROW = (  # in place of the pretrained weights, where only the way of a run matters
    "backbone.weights=random",
    "backbone.arch.num_hidden_layers=1",
    "backbone.arch.hidden_size=24",
    "backbone.arch.intermediate_size=32",
)
METRIC = "accuracy"
LIVE = 6 * 8 * (4 * (384 + 384) + 2 * (384 + 1536))  # low-rank weights of MiniLM-L6 at r = 8
PACK = ("method=sora", "seed=[0,1,2]", "method.threshold=5e-3", "backbone.dropout=0", *SMALL)
Pack = tuple[Path, list[dict[str, Any]], Outcome]


def trained(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    """The records that a command leaves in ``folder``, by seed."""
    done = called(folder, *overrides)
    assert done.status == 0, done.err
    return sorted(records.read_many(folder / "results"), key=lambda record: record["config"]["seed"])


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """Three seeds as one pack: folder, records, and what the command printed."""
    folder = tmp_path_factory.mktemp("pack")
    done = called(folder, *PACK)
    assert done.status == 0, done.err
    return folder, sorted(records.read_many(folder / "results"), key=lambda r: r["config"]["seed"]), done


def test_a_pack_leaves_a_record_and_an_adapter_for_each_seed(pack: Pack) -> None:
    folder, found, done = pack
    assert [record["config"]["seed"] for record in found] == [0, 1, 2]
    for record in found:
        path = folder / "results/records/minilm-l6/synthetic_pair"
        path = path / f"sora-s{record['config']['seed']}-{record['run_id']}.json"
        assert path.is_file()
        assert f"results/records/minilm-l6/synthetic_pair/{path.name}" in done.out
        run_folder = folder / "runs" / record["run_id"]
        assert json.loads((run_folder / "status.json").read_text())["status"] == "ok"
        for name in ("config.yaml", "metrics.jsonl", "log.txt", "adapter/adapter_config.json"):
            assert (run_folder / name).is_file(), name
        assert [path.name for path in (run_folder / "checkpoint").iterdir()] == ["selected.safetensors"], (
            "checkpoints of a finished run only fill disks"
        )
        assert record["status"] == "ok"
        assert record["flags"]["synthetic"]
        assert record["pack"]["size"] == 3
        assert [entry["step"] for entry in record["history"]] == [6, 12]
        assert record["metrics"]["last"]["step"] == 12
        best = max(entry["select"][METRIC] for entry in record["history"])
        assert record["metrics"]["selected"]["select"][METRIC] == best
        widths = {
            name: 1920 if ".attention." not in name and name.endswith("dense") else 768 for name in record["ranks"]
        }
        assert record["params"]["live"] == sum(rank * widths[name] for name, rank in record["ranks"].items())
        assert record["params"]["live"] < LIVE, "no rank died at so large a threshold"


def test_a_record_says_whether_the_data_chose_the_ranks(pack: Pack) -> None:
    """Regime, gates and no-data ranks; tests/methods/test_regime.py has the numbers themselves."""
    folder, found, _ = pack
    for record in found:
        assert record["regime"] == {"rho": 6.25, "shrink": 0.06, "travel": 0.0048}
        null = record["no_data_ranks"]
        assert list(null["selected"]) == list(null["last"]) == list(record["ranks_last"]) == list(record["ranks"])
        assert data_dependence(record["ranks"], null["selected"])["differ"] < 0.2, (
            "at such a threshold the draw decides"
        )
        gates = records.read_arrays(records.find(folder / "results", record["run_id"]))["gates"]  # type: ignore[arg-type]
        assert (gates != 0).sum(axis=1).tolist() == list(record["ranks"].values())
        log = (folder / "runs" / record["run_id"] / "log.txt").read_text()
        assert "regime: rho 6.25, shrink 0.06, travel 0.0048" in log.splitlines()[1]
        assert log.count("warning: no gate can be held up by the loss") == 1


def test_the_logits_beside_the_record_give_its_metrics(pack: Pack) -> None:
    folder, found, _ = pack
    (config,) = runs(folder, *SMALL[1:], "method=sora", backbone="minilm-l6")
    splits = load(config.task, config.protocol, config.data).splits
    assert splits["report"].ids.tolist() != sorted(splits["report"].ids.tolist()), "an order that could be lost"
    for record in found:
        arrays = records.read_arrays(records.find(folder / "results", record["run_id"]))  # type: ignore[arg-type]
        for split in ("select", "report"):
            predicted = arrays[f"{split}_logits"].astype(np.float64).argmax(1)
            accuracy = float(np.mean(predicted == arrays[f"{split}_labels"]))
            assert accuracy == record["metrics"]["selected"][split][METRIC]
            assert arrays[f"{split}_ids"].tolist() == splits[split].ids.tolist()
            assert len(arrays[f"{split}_ids"]) == record["data"]["sizes"][split]


def test_the_same_command_returns_at_once_and_names_the_record(pack: Pack) -> None:
    folder, found, _ = pack
    before = {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*.*")}
    again = called(folder, *PACK)
    assert again.status == 0
    for record in found:
        (path,) = (folder / "results").rglob(f"*{record['run_id']}.json")
        assert str(path.relative_to(folder)) in again.out
    assert {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*.*")} == before


def test_a_damaged_record_is_not_called_finished(tmp_path: Path) -> None:
    command = ("method=lora", *SMALL, *NARROW, "trainer.max_steps=2")
    trained(tmp_path, *command)
    (path,) = (tmp_path / "results").rglob("*.json")
    path.write_text(path.read_text()[:100])
    done = called(tmp_path, *command)
    assert done.status == 2
    assert "finished" not in done.out
    assert "damaged JSON" in done.err
    assert "move it away and run again" in done.err
    path.rename(tmp_path / "away")
    assert called(tmp_path, *command).status == 0


def test_resume_never_starts_afresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("method=lora", *SMALL, *NARROW)
    save = checkpoint.save

    def stopped(*arguments: Any, **named: Any) -> None:
        save(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", stopped)
        assert called(tmp_path, *command).status == 130
    called(tmp_path, *command, "resume=never", "dry_run=true")
    assert list(tmp_path.glob("runs/*/checkpoint/step-*.json")), "a dry run must touch nothing"
    done = called(tmp_path, *command, "resume=never")
    assert done.status == 0, done.err
    (record,) = records.read_many(tmp_path / "results")
    assert record["provenance"]["resumed_at"] == []


def test_a_run_that_another_process_holds_is_refused(tmp_path: Path) -> None:
    command = ("method=lora", *SMALL, *NARROW)
    run_id = json.loads(called(tmp_path, *command, "dry_run=true").out)["run_id"]
    with run_locks({run_id: tmp_path / "runs" / run_id}):
        assert f"another process is training run {run_id}" in refused(tmp_path, *command)


def test_a_dry_run_shows_the_sizes_then_a_line_of_json_a_run(tmp_path: Path) -> None:
    done = called(tmp_path, "method=sora", "method.threshold=5e-3", "seed=[0,1]", "dry_run=true", *SMALL)
    first, second = map(json.loads, done.out.strip().splitlines())
    assert first["run_id"] != second["run_id"]
    assert first["params"]["gates"] == 6 * 6 * 8
    assert first["sizes"]["report"] > 0
    assert first["matrices"] == len(first["targets"]) == 36
    assert first["regime"] == {"rho": 6.25, "shrink": 0.06, "travel": 0.0048}
    assert done.err.splitlines()[0] == (
        f"run {first['run_id']}: sora on synthetic_pair with minilm-l6, protocol paper, seed 0; 12 steps; "
        "60 train, 20 select, 20 report, 60 train_subset; "
        f"{first['params']['trainable']:,} parameters train, {first['params']['head']:,} of them the head's"
        "; regime: rho 6.25, shrink 0.06, travel 0.0048"
    )
    assert done.err.splitlines()[1].startswith("warning: no gate can be held up by the loss")
    assert done.err.splitlines()[1] == f"warning: {first['warning']}"
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not left, "a dry run writes nothing"
    plain = json.loads(called(tmp_path, "method=bitfit", "dry_run=true", *SMALL, *NARROW).out)
    assert not {"matrices", "targets", "regime", "warning"} & plain.keys()
    assert not {"low_rank", "gates"} & plain["params"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["cola", "stsb"])  # all have their sizes and ids in tests/frozen.json
def test_real_glue(task: str, tmp_path: Path, shared: Path) -> None:
    """In this process: what is tried is the data, not the command."""
    short = ("trainer.max_steps=2", "trainer.eval_every=2", "trainer.batch_size=2", "trainer.max_length=16")
    words = ("method=sora", f"task={task}", f"data.dir={shared / 'data'}", "data.allow_partial=false", "protocol=paper")
    (record,) = run_pack(superglue.tiny_runs(tmp_path, *words, *short), "test")
    size, metrics = {"cola": (522, {"matthews"}), "stsb": (750, {"pearson", "spearman"})}[task]
    assert record["data"]["sizes"]["report"] == size
    assert set(record["metrics"]["selected"]["report"]) == metrics


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["method.targets=[nothing]"], "nothing ... query"),
        (["method.targets=[attention.self]"], "method.targets ... matches no linear layer"),
        (["method=peft", "method.options={lora_alhpa: 16}"], "method.options.lora_alhpa ... did you mean lora_alpha"),
        (["task=rte", "data.dir=/nowhere"], "/nowhere ... RTE"),
        (["task=rte"], "data.dir"),
        (["backbone=deberta-v3-base"], "backbone=minilm-l6"),
        (["paths.results=/dev/null/x"], "/dev/null"),
        (["predict=true"], "task synthetic_pair has no test split; leave predict out"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(overrides: list[str], expected: str, tmp_path: Path) -> None:
    keys = {override.split("=")[0] for override in overrides}
    common = [item for item in SMALL if item.split("=")[0] not in keys]
    if "task" in keys:
        common = [item for item in common if not item.startswith("task.")]
    sentence = refused(tmp_path, *common, *overrides)
    for part in expected.split(" ... "):
        assert part in sentence
