"""The main street, through the command a user types: train, return at once, resume after kill -9, refuse clearly."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sora.methods.regime import data_dependence
from sora.runs import records
from sora.tasks import load
from sora.training.runner import run_pack
from tests import superglue
from tests.composing import runs

ROOT = Path(__file__).parents[2]
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
METRIC = "accuracy"
LIVE = 6 * 8 * (4 * (384 + 384) + 2 * (384 + 1536))  # low-rank weights of MiniLM-L6 at r = 8


def arguments(*overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "run.py"), *overrides]


def environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SORA_", "HF_H"))}
    return kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments(*overrides), cwd=folder, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )


def trained(folder: Path, *overrides: str) -> list[dict]:
    """The records that a command leaves in ``folder``, by seed."""
    done = run(folder, *overrides)
    assert done.returncode == 0, done.stderr
    return sorted(records.read_many(folder / "results"), key=lambda record: record["config"]["seed"])


def refused(folder: Path, *overrides: str) -> str:
    """The one sentence of a command that must fail with status 2."""
    done = run(folder, *overrides)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """Three seeds as one pack: folder, records, and the finished process."""
    folder = tmp_path_factory.mktemp("pack")
    done = run(folder, "method=sora", "seed=[0,1,2]", "method.threshold=5e-3", "backbone.dropout=0", *SMALL)
    assert done.returncode == 0, done.stderr
    return folder, sorted(records.read_many(folder / "results"), key=lambda r: r["config"]["seed"]), done


def test_a_pack_leaves_a_record_and_an_adapter_for_each_seed(pack):
    folder, found, done = pack
    assert [record["config"]["seed"] for record in found] == [0, 1, 2]
    for record in found:
        path = folder / "results/records/minilm-l6/synthetic_pair"
        path = path / f"sora-s{record['config']['seed']}-{record['run_id']}.json"
        assert path.is_file()
        assert f"results/records/minilm-l6/synthetic_pair/{path.name}" in done.stdout
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
        assert record["metrics"]["selected"]["step"] in (6, 12)
        best = max(entry["select"][METRIC] for entry in record["history"])
        assert record["metrics"]["selected"]["select"][METRIC] == best
        widths = {
            name: 1920 if ".attention." not in name and name.endswith("dense") else 768 for name in record["ranks"]
        }
        assert record["params"]["live"] == sum(rank * widths[name] for name, rank in record["ranks"].items())
        assert record["params"]["live"] < LIVE, "no rank died at so large a threshold"


def test_a_record_says_whether_the_data_chose_the_ranks(pack):
    """Regime, gates and no-data ranks; twelve steps at a threshold of six times the rate are the draw's alone."""
    folder, found, _ = pack
    for record in found:
        assert record["regime"] == {"rho": 6.25, "shrink": 0.06, "travel": 0.0048}
        null, names = record["no_data_ranks"], record["ranks"].keys()
        for ranks, drawn in ((record["ranks"], null["selected"]), (record["ranks_last"], null["last"])):
            assert list(ranks) == list(drawn) == list(names)
            assert data_dependence(ranks, drawn)["differ"] < 0.2
        gates = records.read_arrays(records.find(folder / "results", record["run_id"]))["gates"]
        assert (gates != 0).sum(axis=1).tolist() == list(record["ranks"].values())
        assert sum(record["history"][-1]["gate_histogram"][1:]) == sum(record["ranks_last"].values())
        log = (folder / "runs" / record["run_id"] / "log.txt").read_text()
        assert "regime: rho 6.25, shrink 0.06, travel 0.0048" in log.splitlines()[1]
        assert log.count("warning: no gate can be held up by the loss") == 1
    assert len({str(record["no_data_ranks"]) for record in found}) == 3, "each seed has its own draw"


def test_a_dry_run_says_the_regime(tmp_path):
    done = run(tmp_path, "method=sora", "method.threshold=5e-3", "dry_run=true", *SMALL)
    assert json.loads(done.stdout)["regime"] == {"rho": 6.25, "shrink": 0.06, "travel": 0.0048}
    done = run(tmp_path, "method=lora", "dry_run=true", *SMALL)
    assert "regime" not in json.loads(done.stdout)


def test_the_logits_beside_the_record_give_its_metrics(pack):
    folder, found, _ = pack
    (config,) = runs(folder, *SMALL[1:], "method=sora", backbone="minilm-l6")
    splits = load(config.task, config.protocol, config.data).splits
    assert splits["report"].ids.tolist() != sorted(splits["report"].ids.tolist()), "an order that could be lost"
    for record in found:
        arrays = records.read_arrays(records.find(folder / "results", record["run_id"]))
        for split in ("select", "report"):
            predicted = arrays[f"{split}_logits"].astype(np.float64).argmax(1)
            accuracy = float(np.mean(predicted == arrays[f"{split}_labels"]))
            assert accuracy == record["metrics"]["selected"][split][METRIC]
            assert arrays[f"{split}_ids"].tolist() == splits[split].ids.tolist()
            assert len(arrays[f"{split}_ids"]) == record["data"]["sizes"][split]


def test_the_same_command_returns_at_once_and_names_the_record(pack):
    folder, found, _ = pack
    before = {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*.*")}
    again = run(folder, "method=sora", "seed=[0,1,2]", "method.threshold=5e-3", "backbone.dropout=0", *SMALL)
    assert again.returncode == 0
    for record in found:
        (path,) = (folder / "results").rglob(f"*{record['run_id']}.json")
        assert str(path.relative_to(folder)) in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*.*")} == before


def test_a_seed_of_the_pack_alone_gives_the_same_record(pack, tmp_path):
    """In fp32 the sums of a pack are blocked differently, so equal within rounding; float64 is tested to 1e-9."""
    _, together, _ = pack
    (alone,) = trained(tmp_path, "method=sora", "seed=1", "method.threshold=5e-3", "backbone.dropout=0", *SMALL)
    packed = together[1]
    assert alone["run_id"] == packed["run_id"]
    assert alone["config"] == packed["config"]
    assert alone["ranks"] == packed["ranks"]
    for mine, theirs in zip(alone["history"], packed["history"], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert mine["select"][METRIC] == pytest.approx(theirs["select"][METRIC], abs=5e-3)
    logits = [
        records.read_arrays(records.find(folder / "results", alone["run_id"]))["report_logits"]
        for folder in (tmp_path, pack[0])
    ]
    np.testing.assert_allclose(logits[0].astype(float), logits[1].astype(float), atol=2e-3)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_other_methods(method, tmp_path):
    (record,) = trained(tmp_path, f"method={method}", "seed=5", *SMALL)
    assert record["config"]["method"]["name"] == method
    artefact = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    assert (tmp_path / "runs" / record["run_id"] / "adapter" / artefact).is_file()
    assert record["params"]["live"] == {"lora": LIVE, "full": 22_565_376}[method]


def test_kill_9_and_the_same_command_again(tmp_path):
    """Exactly the uninterrupted record, with dropout, after a kill between two checkpoints."""
    command = ("method=sora", "seed=[0,1]", *SMALL, "trainer.max_steps=30", "trainer.eval_every=7")
    (whole := tmp_path / "whole").mkdir()
    (parts := tmp_path / "parts").mkdir()
    uninterrupted = trained(whole, *command)
    process = subprocess.Popen(
        arguments(*command), cwd=parts, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list(parts.glob("runs/*/checkpoint/step-*.json"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
    again = run(parts, *command)
    assert again.returncode == 0, again.stderr
    continued = sorted(records.read_many(parts / "results"), key=lambda record: record["config"]["seed"])
    (step,) = continued[0]["provenance"]["resumed_at"]
    assert step in range(8, 29, 4)
    assert f"resumed at step {step} of 30" in again.stderr
    for one, other in zip(uninterrupted, continued, strict=True):
        assert records.science(one) == records.science(other)
        first, second = ((folder / "runs" / one["run_id"] / "metrics.jsonl").read_bytes() for folder in (whole, parts))
        assert first == second


def test_a_schedule_without_gates_is_refused(tmp_path):
    said = refused(tmp_path, "method=lora", "schedule=sparsify", *SMALL)
    assert "schedule.kind=sparsify: method=lora has no gates to zero; choose method=sora" in said
    said = refused(tmp_path, "schedule=sparsify", "schedule.spacing=exp_linear", "schedule.start=0", *SMALL)
    assert "schedule.start: got 0, must be above 0 with schedule.spacing=exp_linear" in said


def test_a_damaged_record_is_not_called_finished(tmp_path):
    command = ("method=lora", *SMALL, "trainer.max_steps=2")
    trained(tmp_path, *command)
    (path,) = (tmp_path / "results").rglob("*.json")
    path.write_text(path.read_text()[:100])
    done = run(tmp_path, *command)
    assert done.returncode == 2
    assert "finished" not in done.stdout
    assert "damaged JSON" in done.stderr
    assert "move it away and run again" in done.stderr
    path.rename(tmp_path / "away")
    assert run(tmp_path, *command).returncode == 0


def test_a_missing_test_set_is_told_before_the_training(tmp_path):
    for told in ("predict=true", "dry_run=true predict=true"):
        assert "task synthetic_pair has no test split; leave predict out" in refused(tmp_path, *told.split(), *SMALL)
    assert not (tmp_path / "runs").is_dir() or not list((tmp_path / "runs").glob("*/status.json"))


def test_resume_never_starts_afresh(tmp_path):
    command = ("method=lora", *SMALL, "trainer.max_steps=200")
    process = subprocess.Popen(
        arguments(*command), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list(tmp_path.glob("runs/*/checkpoint/step-*.json")) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    short = ("method=lora", *SMALL, "trainer.max_steps=200", "resume=never", "dry_run=true")
    assert json.loads(run(tmp_path, *short).stdout)["steps"] == 200
    assert list(tmp_path.glob("runs/*/checkpoint/step-*.json")), "a dry run must touch nothing"
    done = run(tmp_path, *short[:-1])
    assert done.returncode == 0, done.stderr
    assert "resumed at step" not in done.stdout + done.stderr
    (record,) = records.read_many(tmp_path / "results")
    assert record["provenance"]["resumed_at"] == []


def test_two_processes_do_not_train_the_same_run(tmp_path):
    command = ("method=lora", *SMALL, "trainer.max_steps=5000")
    first = subprocess.Popen(
        arguments(*command), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not list(tmp_path.glob("runs/*/metrics.jsonl")) and first.poll() is None:
            time.sleep(0.01)
        assert "another process is training run" in refused(tmp_path, *command)
    finally:
        first.kill()
        first.wait()


def test_dry_run_is_one_line_of_json(tmp_path):
    done = run(tmp_path, "method=sora", "seed=[0,1]", "dry_run=true", *SMALL)
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.strip().splitlines())
    assert first["run_id"] != second["run_id"]
    assert first["params"]["gates"] == 6 * 6 * 8
    assert first["sizes"]["report"] > 0
    assert first["matrices"] == len(first["targets"]) == 36
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not left, "a dry run writes nothing"


def test_a_dry_run_speaks_of_low_rank_matrices_where_there_are_some(tmp_path):
    (line,) = run(tmp_path, "method=bitfit", "dry_run=true", *SMALL).stdout.strip().splitlines()
    assert not {"matrices", "targets"} & json.loads(line).keys()
    assert not {"low_rank", "gates"} & json.loads(line)["params"].keys()


@pytest.mark.slow
def test_the_papers_counts_on_deberta_v3_base(tmp_path, shared):
    done = run(
        tmp_path,
        "method=sora",
        "task=rte",
        "backbone=deberta-v3-base",
        "backbone.weights=random",
        "head=frozen",
        "dry_run=true",
        f"data.dir={shared / 'data' / 'glue'}",
    )
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["params"]["low_rank"] == line["params"]["live"] == 1_327_104
    assert line["params"]["gates"] == 576
    assert line["params"]["trainable"] == 1_327_680  # as measured on the authors' own injection
    assert line["params"]["head"] == 0
    assert line["matrices"] == 72


@pytest.mark.slow
@pytest.mark.parametrize("task", ["rte", "cola", "mrpc", "stsb", "sst2"])
def test_real_glue(task, tmp_path, shared):
    """In this process: what is tried is the data, not the command."""
    short = ("trainer.max_steps=2", "trainer.eval_every=2", "trainer.batch_size=2", "trainer.max_length=16")
    words = ("method=sora", f"task={task}", f"data.dir={shared / 'data'}", "data.allow_partial=false", "protocol=paper")
    (record,) = run_pack(superglue.tiny_runs(tmp_path, *words, *short), "test")
    expected = {"rte": 139, "cola": 522, "mrpc": 204, "stsb": 750, "sst2": 872}[task]
    assert record["data"]["sizes"]["report"] == expected
    metrics = set(record["metrics"]["selected"]["report"])
    assert (
        metrics
        == {
            "rte": {"accuracy"},
            "cola": {"matthews"},
            "mrpc": {"accuracy", "f1"},
            "stsb": {"pearson", "spearman"},
            "sst2": {"accuracy"},
        }[task]
    )


BAD = [
    (("method=sorra",), "did you mean.*sora"),
    (("task=synthetic_pair", "trainer.batchsize=4"), "trainer.batch_size"),
    (("trainer.batch_size=0",), r"trainer.batch_size.*>= 1"),
    (("method=full", "seed=[0,1]"), "seed.*cannot be packed"),
    (("method.targets=[nothing]",), "nothing.*query"),
    (("method.targets=[attention.self]",), "method.targets.*attention.self, which is no linear layer"),
    (("method=peft", "method.options={lora_alhpa: 16}"), "method.options.lora_alhpa.*did you mean lora_alpha"),
    (("seed=-1",), "seed.*>= 0"),
    (("precision=fp16",), "precision.*fp32"),
    (("task=rte", "data.dir=/nowhere"), "/nowhere.*RTE"),
    (("task=rte",), "data.dir"),
    (("backbone=deberta-v3-base",), "backbone.weights|backbone=minilm-l6"),
    (("backbone.weights=/nowhere",), "backbone.weights.*folder"),
    (("paths.results=/dev/null/x",), "/dev/null"),
]


@pytest.mark.parametrize(("overrides", "expected"), BAD, ids=[" ".join(o) for o, _ in BAD])
def test_bad_input_is_one_sentence(overrides, expected, tmp_path):
    keys = {override.split("=")[0] for override in overrides}
    common = [item for item in SMALL if item.split("=")[0] not in keys]
    sentence = refused(tmp_path, *common, *overrides)
    assert re.search(expected, sentence), sentence


def test_a_malformed_row_is_named_by_file_and_line(tmp_path):
    folder = tmp_path / "glue" / "RTE"
    folder.mkdir(parents=True)
    rows = ["index\tsentence1\tsentence2\tlabel", "0\tA cat.\tAn animal.\tentailment", "1\tA cat.\tA dog.\tperhaps"]
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    (folder / "dev.tsv").write_text("\n".join(rows[:2]) + "\n")
    common = [item for item in SMALL if not item.startswith("task=")]
    sentence = refused(tmp_path, "task=rte", f"data.dir={tmp_path / 'glue'}", "data.allow_partial=true", *common)
    assert "RTE/train.tsv:3" in sentence
    assert "perhaps" in sentence
    assert "entailment" in sentence
