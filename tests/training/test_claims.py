"""A run belongs to one process at a time, on every machine that shares the folder, and a dead holder is replaced."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sora.errors import TakenOver, UserError
from sora.training import claims
from sora.training.claims import claimed
from sora.training.preemption import Preemption

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from sora.training.claims import claimed
with claimed({"abc": Path(sys.argv[1])}):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The machines here beat fast, and are given up early."""
    monkeypatch.setattr(claims, "BEAT_S", 0.02)
    monkeypatch.setattr(claims, "STALE_S", 0.5)


@pytest.fixture
def holder(tmp_path):
    """Another process that holds run abc in ``tmp_path``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def owner(folder):
    (path,) = (folder / "claim").glob("*.json")
    return path, json.loads(path.read_text())


def seen_from_elsewhere(folder):
    """Make the claim in ``folder`` that of another machine, whose processes cannot be seen from here."""
    path, values = owner(folder)
    path.write_text(json.dumps(values | {"machine": "another boot", "host": "node17"}))
    return path


def test_a_live_holder_is_named_and_keeps_the_run(tmp_path, holder):
    with pytest.raises(UserError, match=rf"another process is training run abc \(process {holder.pid} on .*wait"):
        claimed({"abc": tmp_path}).__enter__()
    assert owner(tmp_path)[1]["pid"] == holder.pid


def test_a_killed_holder_is_replaced_at_once(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(claims, "STALE_S", 600.0)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with claimed({"abc": tmp_path}) as mine:
        mine.verify()
        assert owner(tmp_path)[1]["pid"] == os.getpid()


def test_a_number_that_was_given_to_another_process_is_no_life_sign(tmp_path, holder):
    path, values = owner(tmp_path)
    path.write_text(json.dumps(values | {"started": "1"}))
    with claimed({"abc": tmp_path}):
        pass


def test_a_released_run_is_free_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "STALE_S", 600.0)
    for _ in range(3):
        with claimed({"abc": tmp_path}):
            pass
    assert [path.name for path in (tmp_path / "claim").iterdir()] == ["00000003.json"]


def test_another_machines_heartbeat_is_respected(tmp_path):
    with claimed({"abc": tmp_path}):  # beats every 0.02 s
        seen_from_elsewhere(tmp_path)
        with pytest.raises(UserError, match="on node17"):
            claimed({"abc": tmp_path}).__enter__()


def test_who_holds_a_run_on_a_machine_that_is_silent_for_long(tmp_path, monkeypatch):
    """Its clock may be another one: ten times as long as a claim needs to be given up."""
    monkeypatch.setattr(claims, "STALE_S", 60.0)
    silent = claims.Claims()
    silent.claims["abc"] = claims._acquire(tmp_path / "claim", "abc")
    path = seen_from_elsewhere(tmp_path)
    for seconds, host in ((0, "node17"), (500, "node17"), (700, None)):
        os.utime(path, (time.time() - seconds,) * 2)
        found = claims.holder(tmp_path)
        assert (found and found["host"]) == host


def test_another_machine_without_heartbeat_is_replaced_and_its_late_return_refused(tmp_path):
    late = claims.Claims()  # never started: a machine that hangs
    late.claims["abc"] = claims._acquire(tmp_path / "claim", "abc")
    seen_from_elsewhere(tmp_path)
    with claimed({"abc": tmp_path}) as mine:
        mine.verify()
        with pytest.raises(UserError, match="run abc was taken over by another process"):
            late.verify()
        late.__exit__()
        mine.verify()


def test_who_lost_a_run_leaves_its_status_to_the_other(tmp_path, monkeypatch):
    from sora.training import runner
    from tests import tiny  # imports torch, which the processes of the next test need not wait for

    (run,) = tiny.runs(paths={"runs": str(tmp_path / "runs"), "results": str(tmp_path / "results")})
    job = runner.Job(run, "abc", {})

    def train_packs(waiting, data, command, held, preemption):
        (job.folder / "claim" / "00000009.json").write_text("{}")  # another process takes the run over
        job.set_status("running", pid=12345)
        held.verify()

    monkeypatch.setattr(runner, "_train_packs", train_packs)
    with pytest.raises(TakenOver, match="run abc was taken over"):
        runner._train([job], None, "python run.py", Preemption())
    told = json.loads((job.folder / "status.json").read_text())
    assert (told["status"], told["pid"]) == ("running", 12345)


def test_an_unwritten_claim_is_waited_for_and_then_replaced(tmp_path):
    """A process killed between making its file and writing its name."""
    (tmp_path / "claim").mkdir()
    (tmp_path / "claim" / "00000007.json").touch()
    with claimed({"abc": tmp_path}):
        assert owner(tmp_path)[0].name == "00000008.json"


def test_a_pack_is_held_whole_or_not_at_all(tmp_path):
    with claimed({"b": tmp_path / "b"}), pytest.raises(UserError, match="run b"):
        claimed({"a": tmp_path / "a", "b": tmp_path / "b", "c": tmp_path / "c"}).__enter__()
    assert owner(tmp_path / "a")[1] == {"released": True}
    assert not (tmp_path / "c").exists()


def contend(folder, start, results):
    """Try once; while holding, leave a mark that no other holder may find."""
    start.wait()
    try:
        with claimed({"abc": folder}):
            (folder / "mark").touch(exist_ok=False)
            time.sleep(0.05)
            (folder / "mark").unlink()
            results.put("held")
    except UserError:
        results.put("refused")
    except FileExistsError:
        results.put("two at once")


@pytest.mark.parametrize("left_behind", ["nothing", "a dead process"])
def test_of_many_at_once_never_two_hold(tmp_path, left_behind):
    if left_behind == "a dead process":
        done = subprocess.run(
            [sys.executable, "-c", HOLDER.replace("time.sleep(600)", "import os; os._exit(9)"), str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
        )
        assert done.returncode == 9
    context = multiprocessing.get_context("forkserver")
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=contend, args=(tmp_path, start, results)) for _ in range(12)]
    for process in processes:
        process.start()
    start.set()
    outcomes = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert "two at once" not in outcomes
    assert "held" in outcomes


def test_a_folder_that_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "claim").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"claim: cannot be read \(Not a directory\).*paths\.runs"):
        claimed({"abc": tmp_path}).__enter__()
