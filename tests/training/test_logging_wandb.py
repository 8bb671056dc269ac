"""tracker=wandb: what an offline W&B run holds, read back from its file; keys; nothing when it is off."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sora.config import TrackerConfig
from sora.runs import records
from sora.training.logging import Tracker, read_metrics
from sora.training.logging.wandb import WandbLogger
from tests.oracles.wandb_log import read
from tests.typed import SMALL, Outcome, called

KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567"


@contextlib.contextmanager
def terminal(path: Path) -> Iterator[None]:
    """Send what would be on the terminal into a file, also that of the process which W&B starts."""
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    with path.open("wb") as file:
        for descriptor in kept:
            os.dup2(file.fileno(), descriptor)
        try:
            yield
        finally:
            for descriptor, old in kept.items():
                os.dup2(old, descriptor)
                os.close(old)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Two seeds through the command, with a key in the environment."""
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("HF_TOKEN", f"hf_{KEY}")
        with terminal(folder / "terminal.txt"):
            done = called(folder, "method=sora", "seed=[0,1]", "tracker=wandb", *SMALL, "trainer.log_every=3")
    assert done.status == 0, done.err
    return folder, done


def files(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))


def whole_run(path: Path) -> dict[str, Any]:
    """Read a run once W&B's own process has written its end, which may be after ``finish``."""
    for _ in range(600):
        if (found := read(path))["exit_code"] is not None:
            break
        time.sleep(0.1)
    return found


def test_a_wandb_run_holds_what_the_record_and_metrics_hold(pack: tuple[Path, Outcome]) -> None:
    folder, _ = pack
    found = {logged["run"]["id"]: logged for logged in map(whole_run, files(folder / "runs"))}
    written = {record["run_id"]: record for record in records.read_many(folder / "results")}
    assert set(found) == set(written)
    for run_id, logged in found.items():
        record = written[run_id]
        assert logged["run"]["name"] == f"sora-s{record['config']['seed']}-{run_id}"
        assert logged["run"]["project"] == "sora-bench"
        assert logged["run"]["tags"] == ["minilm-l6", "paper", "sora", "synthetic_pair"]
        assert logged["exit_code"] == 0
        assert {key: value for key, value in logged["config"].items() if key != "_wandb"} == record["config"]
        for which, split in (("selected", "report"), ("last", "select")):
            expected = record["metrics"][which][split]["accuracy"]
            assert logged["summary"][f"metrics/{which}/{split}/accuracy"] == expected
        assert logged["summary"]["status"] == "ok"
        assert logged["summary"]["params/trainable"] == record["params"]["trainable"]
        for name, rank in record["ranks"].items():
            assert logged["summary"][f"ranks/{name}"] == rank
        history = {line["_step"]: line for line in logged["history"]}
        lines = read_metrics(folder / "runs" / run_id / "metrics.jsonl")
        assert {line["step"] for line in lines} == set(history) == {3, 6}
        for line in lines:
            assert history[line["step"]][f"{line['kind']}/loss"] == line["loss"]
            if line["kind"] == "eval":
                assert history[line["step"]]["eval/select/accuracy"] == line["select"]["accuracy"]
    groups = {logged["run"]["group"] for logged in found.values()}
    assert groups == {f"pack-{next(r['run_id'] for r in written.values() if r['config']['seed'] == 0)}"}


def test_no_key_reaches_a_file_or_the_terminal(pack: tuple[Path, Outcome]) -> None:
    folder, done = pack
    everything = [path for path in folder.rglob("*") if path.is_file()]
    assert folder / "terminal.txt" in everything
    assert any(path.suffix == ".wandb" for path in everything)
    assert any(path.name == "debug.log" for path in everything)
    for path in everything:
        assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in done.out + done.err


def test_a_resumed_run_is_one_whole_wandb_run(tmp_path: Path) -> None:
    """Killed at step 4, continued from the checkpoint of step 2; a value that is not finite among the lines."""
    folder = tmp_path / "run"
    described = [{"id": "0123456789ab", "name": "sora-s0", "config": {"seed": 0}, "tags": []}]

    def session(steps: list[int], resume_at: int | None) -> Tracker:
        logger = WandbLogger(TrackerConfig("wandb"), described, tmp_path)
        tracker = Tracker([folder], ["seed 0"], 6, interactive=False, remotes=[logger])
        if resume_at is not None:
            tracker.resume_at(resume_at)
        for step in steps:
            tracker.log(0, step, "train", loss=float("nan") if step == 1 else 1 / step)
        return tracker

    session([1, 2, 3, 4], None).close(stopped_by="SIGTERM")
    (stopped,) = files(tmp_path)
    assert whole_run(stopped)["exit_code"] == 1
    tracker = session([3, 4, 5, 6], resume_at=2)
    tracker.summarize(0, status="ok", metrics={"selected": {"step": 6}})
    tracker.close()
    (whole,) = files(tmp_path)
    found = whole_run(whole)
    assert [line["_step"] for line in found["history"]] == [1, 2, 3, 4, 5, 6]
    assert math.isnan(found["history"][0]["train/loss"])
    assert found["history"][5]["train/loss"] == 1 / 6
    assert found["summary"]["metrics/selected/step"] == 6
    assert found["exit_code"] == 0


def test_what_was_sent_already_is_kept(tmp_path: Path) -> None:
    sent, unsent = (f"offline-run-2024010{day}_000000-0123456789ab" for day in (1, 2))
    for name in (sent, unsent):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    (tmp_path / "wandb" / sent / "run-0123456789ab.wandb.synced").touch()
    (tmp_path / "wandb" / "offline-run-20240102_000000-ba9876543210").mkdir()
    WandbLogger(TrackerConfig("wandb"), [], tmp_path)._forget("0123456789ab")
    left = sorted(path.name for path in (tmp_path / "wandb").iterdir())
    assert left == [sent, "offline-run-20240102_000000-ba9876543210"]


def test_online_needs_a_key_which_is_found_without_a_network(tmp_path: Path) -> None:
    """In a process of its own: W&B remembers a key."""
    program = f"""
import os
from sora.config import TrackerConfig
from sora.training.logging.wandb import check_key
check_key(TrackerConfig("wandb"))
try:
    check_key(TrackerConfig("wandb", mode="online"))
except Exception as error:
    print(error)
os.environ["WANDB_API_KEY"] = "{KEY}"
check_key(TrackerConfig("wandb", mode="online"))
"""
    where = {name: value for name, value in os.environ.items() if name != "WANDB_API_KEY"}
    where |= {"NETRC": str(tmp_path / "netrc")}
    done = subprocess.run([sys.executable, "-c", program], env=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tracker.mode=online: W&B has no key; run wandb login, set"), done.stdout
