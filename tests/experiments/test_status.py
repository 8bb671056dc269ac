"""scripts/status.py through its command."""

import json
from pathlib import Path

import pytest

from experiments.progress import duration
from scripts import status
from sora.cluster.run_lock import run_locks
from sora.errors import UserError
from tests.experiments import made

AXES = {"method": ["lora", "sora"], "task": ["rte"], "seed": [0, 1, 2]}


def said(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert status.main(["--results", str(folder / "results"), "--runs", str(folder / "runs"), *options]) == 0
    return capsys.readouterr().out


def write_status(folder: Path, run_id: str, **content: str) -> None:
    path = folder / "runs" / run_id / "status.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"run_id": run_id, "time": "2024-05-01T00:00:00+00:00"} | content))


def test_every_state_of_a_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = made.study(tmp_path / "results", "mine", AXES, leave_out=3, items=20)
    failed, stopped, running = (run["run_id"] for run in manifest["runs"][3:])
    write_status(tmp_path, failed, status="failed", reason="UserError: out of memory")
    write_status(tmp_path, stopped, status="running")  # killed: nobody holds its lock
    write_status(tmp_path, running, status="running", pid=4711, host="node17")
    with run_locks({running: tmp_path / "runs" / running}):
        text = said(tmp_path, capsys)
    assert "6 runs: 3 done, 1 failed, 1 stopped, 1 running" in text
    assert f"failed: {failed} method=sora task=rte seed=0: UserError: out of memory" in text
    assert f"stopped: {stopped} " in text
    assert f"running: {running} method=sora task=rte seed=2: process 4711 on node17, since 2024-05-01" in text
    assert "python run.py method=sora task=rte seed=0" in text
    assert "seed=2\n" not in text  # it runs already
    assert "3 runs of a method and task that never finished" in text
    assert f"stopped: {running}" in said(tmp_path, capsys)  # released


def test_the_rest_costs_what_its_like_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = made.study(tmp_path / "results", "mine", AXES, leave_out=1, items=20)
    for run in manifest["runs"][3:5]:
        path = tmp_path / "results" / run["record"]
        content = json.loads(path.read_text())
        content["time"] = {"setup_s": 60.0, "train_s": 600.0, "eval_s": 60.0}
        content["pack"] = {"size": 2, "members": [content["run_id"], "0" * 12]}  # two runs share the time
        path.write_text(json.dumps(content))
    assert "the rest: about 6 min on cpu, going by" in said(tmp_path, capsys)
    assert [duration(value) for value in (45, 720, 12_240)] == ["45 s", "12 min", "3.4 h"]


def test_marks_and_unusable_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = made.study(tmp_path / "results", "main_table", AXES, items=20)
    made.write_run(tmp_path / "results", manifest["runs"][0]["axes"], 20, diverged_at=3)
    made.write_run(tmp_path / "results", manifest["runs"][1]["axes"], 20, partial=True)
    text = said(tmp_path, capsys)
    assert "6 runs: 5 done, 1 unusable (of those done, 1 diverged)" in text
    assert "refused, as it is about partial data" in text


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no such folder"):
        status.main(["--results", str(tmp_path / "nothing")])
    assert status.main(["--results", str(tmp_path), "--runs", str(tmp_path / "gone")]) == 0
    assert "gone: no such folder, so that no run seems to run now" in capsys.readouterr().err
    with pytest.raises(UserError, match="--study x: no manifest of that name"):
        status.main(["--results", str(tmp_path), "--study", "x"])
