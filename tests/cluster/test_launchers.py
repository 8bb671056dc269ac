"""Where jobs run, without a cluster: joblib for real, and what is said where a launcher or Slurm is missing."""

from __future__ import annotations

import json
import shlex
import signal
import sys

import pytest
from hydra.errors import MissingConfigException

from sora.cli.explain import explain
from sora.cli.slurm_job import Command
from sora.cluster import code_snapshot
from sora.cluster.signals import Preempted
from sora.runs import records
from tests.cluster.jobs import ROOT, run, start
from tests.typed import SMALL, called


def test_joblib_trains_what_can_be_and_counts_what_cannot(tmp_path):
    """Two packs side by side, one of which must fail."""
    (tmp_path / "results/records/minilm-l6").mkdir(parents=True)
    (tmp_path / "results/records/minilm-l6/synthetic_single").write_text("a file where a folder must be")
    sweep = ("-m", "cluster=joblib", *SMALL, "method=lora", "task=synthetic_pair,synthetic_single", "seed=0,1")
    done = run(tmp_path, *sweep)
    assert done.returncode == 2
    assert "1 of 2 jobs did not finish" in done.stderr
    assert "set paths.results to a folder that can" in done.stderr
    assert "Traceback" not in done.stderr
    found = records.read_many(tmp_path / "results/records")
    assert [(r["config"]["task"]["name"], r["config"]["seed"]) for r in found] == [
        ("synthetic_pair", 0),
        ("synthetic_pair", 1),
    ]


def test_the_line_to_go_on_with_is_the_command_here(tmp_path):
    """Stopped by TERM before the first step: status 75, and status.json has the line that trains the run."""
    words = (*SMALL, "method=bitfit", "seed=3", "trainer.max_steps=400", "trainer.log_every=1")
    process = start(tmp_path, *words)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("training 1 run"):
            process.send_signal(signal.SIGTERM)
            break
    _, err = process.communicate(timeout=240)
    assert process.returncode == 75, err
    assert "error: stopped by signal SIGTERM; the same command continues from the newest checkpoint" in err
    (path,) = tmp_path.glob("runs/*/status.json")
    status = json.loads(path.read_text())
    assert status["status"] == "preempted"
    assert status["resume"].startswith(f"cd {tmp_path} && python ")
    again = shlex.split(status["resume"].partition(" && ")[2])[2:]
    done = called(tmp_path, *again, "dry_run=true")
    assert json.loads(done.out)["run_id"] == path.parent.name, done.err


def test_without_slurm_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = called(tmp_path, "-m", "cluster=slurm", *SMALL, "method=lora")
    assert done.status == 2
    assert "error: cluster=slurm: the jobs could not be submitted" in done.err


def test_a_launcher_that_is_not_installed_names_its_extra():
    error = MissingConfigException("", "hydra/launcher/ray", ["basic", "joblib"])
    assert explain(error) == (
        "hydra/launcher=ray: the package hydra-ray-launcher is not installed; pip install -e '.[ray]'"
    )


def test_a_snapshot_is_named_by_what_it_holds_and_taken_once(tmp_path):
    first = code_snapshot.take(tmp_path)
    kept = (first / "run.py").stat().st_mtime_ns
    assert code_snapshot.take(tmp_path) == first
    assert (first / "run.py").stat().st_mtime_ns == kept
    assert [path for path in tmp_path.iterdir() if path != first] == []
    for part in ("sora/cli/main.py", "conf/config.yaml", "hydra_plugins/sora_packed/packed_sweeper.py"):
        assert (first / part).read_bytes() == (ROOT / part).read_bytes()
    assert not list(first.rglob("__pycache__"))
    for cleared in ("sora/cli/main.py", "snapshot.json"):  # as a cluster does with what is old
        content = (first / cleared).read_bytes()
        (first / cleared).unlink()
        assert code_snapshot.take(tmp_path) == first
        assert (first / cleared).read_bytes() == content


def test_a_job_is_the_command_of_its_sweep(monkeypatch):
    """Its words come through submitit as they are, the flags for the user's own files first."""
    monkeypatch.setattr("sora.cli.main.main", lambda: None)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    words = ["--config-dir", "/own", "hydra.searchpath=[file:///more]", "method=mine", "seed=0"]
    Command()(words)
    assert sys.argv[1:] == [*words, "hydra.mode=RUN"]


@pytest.mark.parametrize(("number", "handed"), [(signal.SIGUSR1, 1), (signal.SIGUSR2, 1), (signal.SIGTERM, 0)])
def test_only_usr1_and_usr2_ask_for_another_turn(number, handed, monkeypatch):
    calls = []

    def stopped():
        raise Preempted(number)

    monkeypatch.setattr("sora.cli.main.main", stopped)
    monkeypatch.setattr(sys, "argv", ["pytest"])
    before = signal.signal(signal.SIGUSR2, lambda *_: calls.append(1))
    try:
        with pytest.raises(SystemExit) as stop:
            Command()(["method=lora"])
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert stop.value.code == 75
    assert len(calls) == handed
