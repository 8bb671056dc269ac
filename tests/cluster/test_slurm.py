"""Sweeps on a real Slurm of one node, which scripts/ci/slurm.sh starts: make test-cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sora.cluster import code_snapshot
from sora.cluster.run_lock import holder
from sora.runs import records
from tests.cluster.jobs import ROOT, environment, run, start, wait_for
from tests.typed import SMALL

pytestmark = pytest.mark.slurm
SLURM = ("cluster=slurm", "hydra.launcher.cpus_per_task=1")
ENDLESS = ("trainer.max_steps=1000000", "trainer.eval_every=1000000", "trainer.checkpoint_every=1000000")


def tool(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def slurm():
    """Skips where no Slurm answers; nothing of a failed test stays in the queue."""
    if shutil.which("sinfo") is None or not os.environ.get("SLURM_CONF"):
        pytest.skip(os.environ.get("SORA_NO_SLURM") or "no Slurm: scripts/ci/slurm.sh start, as root, starts one")
    wait_for(lambda: tool("sinfo", "-h", "-o", "%T").strip() == "idle")
    yield
    tool("scancel", "--user", "root")


def submitted(folder: Path, *words: str, code: Path = ROOT) -> list[str]:
    """Submit a sweep; the ids of its jobs."""
    done = run(folder, "-m", *SLURM, *SMALL, *words, code=code)
    assert done.returncode == 0, done.stderr
    return re.search(r"submitted to Slurm: (.*)", done.stderr)[1].split(", ")


def state(job: str) -> dict[str, str]:
    """What scontrol shows of a job."""
    return dict(re.findall(r"(\w+)=(\S*)", tool("scontrol", "show", "job", "-o", job)))


def ended(job: str) -> dict[str, str]:
    """The job's state once it is over."""

    def over() -> dict[str, str] | None:
        now = state(job)
        return None if now["JobState"] in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING") else now

    return wait_for(over)


def printed(folder: Path, job: str) -> str:
    return "\n".join(path.read_text() for path in sorted((folder / "runs/.slurm" / job).glob("*.out")))


def in_training(folder: Path, count: int = 1) -> list[Path]:
    """Folders of ``count`` runs, once their first step is done."""

    def begun() -> list[Path] | None:
        found = [path.parent for path in folder.glob("runs/*/metrics.jsonl") if path.stat().st_size]
        return found if len(found) >= count else None

    return wait_for(begun)


def test_jobs_finish_and_run_what_was_submitted(tmp_path):
    """Two packs, submitted and held; then the code they were submitted from breaks."""
    code = code_snapshot.take(tmp_path / "code")
    jobs = submitted(
        tmp_path, "method=lora,bitfit", "seed=0,1", "+hydra.launcher.additional_parameters.hold=true", code=code
    )
    assert len(jobs) == 2
    assert {state(job)["JobState"] for job in jobs} == {"PENDING"}, "the command returns before the jobs begin"
    (code / "sora" / "cli" / "main.py").write_text("raise RuntimeError('edited after submission')\n")
    (code / "conf" / "config.yaml").write_text("edited: after submission\n")
    for job in jobs:
        tool("scontrol", "release", job)
    for job in jobs:
        assert ended(job)["JobState"] == "COMPLETED", printed(tmp_path, job)
    found = records.read_many(tmp_path / "results/records")
    assert sorted((r["config"]["method"]["name"], r["config"]["seed"]) for r in found) == [
        ("bitfit", 0),
        ("bitfit", 1),
        ("lora", 0),
        ("lora", 1),
    ]
    assert {record["pack"]["size"] for record in found} == {2}
    assert {record["provenance"]["git"] for record in found} == {code_snapshot.commit()}
    assert not any(os.uname().nodename in path.read_text() for path in (tmp_path / "results").rglob("*.json"))


def test_a_job_reads_the_users_own_files(tmp_path):
    """From another folder than the command's: a relative --config-dir would not be found there. The command waits."""
    (tmp_path / "own/method").mkdir(parents=True)
    (tmp_path / "own/method/mine.yaml").write_text("defaults: [lora, _self_]\nr: 3\n")
    words = ("-m", "--config-dir", "own", *SLURM, *SMALL, "method=mine", "seed=0", "cluster.wait=true")
    done = run(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    (record,) = records.read_many(tmp_path / "results/records")
    assert record["config"]["method"]["r"] == 3


def test_a_mistake_is_the_jobs_failure(tmp_path):
    (tmp_path / "results/records").mkdir(parents=True)
    (tmp_path / "results/records/minilm-l6").write_text("a file where a folder must be")
    (job,) = submitted(tmp_path, "method=lora", "seed=0")
    assert (ended(job)["JobState"], state(job)["ExitCode"]) == ("FAILED", "2:0")
    assert "error: " in printed(tmp_path, job)
    assert "set paths.results to a folder that can" in printed(tmp_path, job)


def test_a_cancelled_job_leaves_a_checkpoint_and_stays_cancelled(tmp_path):
    (job,) = submitted(tmp_path, "method=lora", "seed=0", *ENDLESS, "trainer.log_every=1")
    (folder,) = in_training(tmp_path)
    tool("scancel", job)
    assert ended(job)["JobState"] == "CANCELLED"
    status = wait_for(lambda: (s := json.loads((folder / "status.json").read_text()))["status"] != "running" and s)
    assert status["status"] == "preempted"
    assert "SIGTERM" in status["reason"]
    assert list((folder / "checkpoint").glob("step-*.json"))
    assert holder(folder) is None
    assert state(job)["JobState"] == "CANCELLED", "not put back into the queue"


@pytest.mark.slow
def test_at_the_time_limit_a_job_goes_on_later(tmp_path):
    limit = ("hydra.launcher.timeout_min=3", "hydra.launcher.signal_delay_s=60")
    (job,) = submitted(tmp_path, "method=lora", "seed=0", *ENDLESS, "trainer.log_every=1", *limit)
    (folder,) = in_training(tmp_path)
    wait_for(lambda: int(state(job)["Restarts"]) >= 1)
    resumed = wait_for(lambda: re.search(r"resumed at step (\d+) of", (folder / "log.txt").read_text()))
    assert int(resumed[1]) > 0
    assert "SIGUSR2" in (folder / "log.txt").read_text()


def test_two_sweeps_at_once_over_one_study(tmp_path):
    """Each run is trained by one job; the other finds it locked, or finished."""
    sweep = ("-m", *SLURM, *SMALL, "method=lora,bitfit", "seed=0,1")
    both = [start(tmp_path, *sweep) for _ in range(2)]
    jobs = []
    for process in both:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        jobs += re.search(r"submitted to Slurm: (.*)", err)[1].split(", ")
    assert len(jobs) == 4
    outcomes = {job: ended(job)["JobState"] for job in jobs}
    for job, outcome in outcomes.items():
        assert outcome == "COMPLETED" or "another process is training run" in printed(tmp_path, job)
    assert list(outcomes.values()).count("COMPLETED") >= 2
    found = records.read_many(tmp_path / "results/records")
    assert len(found) == 4
    assert len(list((tmp_path / "results/studies").glob("*.json"))) == 1
    for record in found:
        log = (tmp_path / "runs" / record["run_id"] / "log.txt").read_text()
        assert log.count("training 2 runs as one pack") == 1
        lines = (tmp_path / "runs" / record["run_id"] / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines if '"eval"' in line] == [3, 6]


def test_a_plain_array_of_the_jobs_that_a_dry_run_lists(tmp_path):
    listed = run(ROOT, "-m", *SMALL, "method=lora,bitfit", "seed=0,1", f"paths.results={tmp_path}/results",
                 f"paths.runs={tmp_path}/runs", "--dry-run")  # fmt: skip
    assert listed.returncode == 0, listed.stderr
    (tmp_path / "jobs.txt").write_text(listed.stdout)
    count = len(listed.stdout.splitlines())
    assert count == 2
    sbatch = ("sbatch", f"--array=1-{count}", f"--output={tmp_path}/%a.out", str(ROOT / "scripts/array.sbatch"))
    done = subprocess.run(
        [*sbatch, str(tmp_path / "jobs.txt")], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    array = done.stdout.split()[-1]
    for number in (1, 2):
        assert ended(f"{array}_{number}")["JobState"] == "COMPLETED", (tmp_path / f"{number}.out").read_text()
    assert len(records.read_many(tmp_path / "results/records")) == 4
