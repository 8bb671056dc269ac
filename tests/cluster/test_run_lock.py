"""A run belongs to one process at a time, and a killed holder's lock is free at once."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from sora.cluster.run_lock import LOCK, holder, run_locks
from sora.errors import UserError

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from sora.cluster.run_lock import run_locks
with run_locks({"abc": Path(sys.argv[1])}):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds run abc in ``tmp_path``, with its status.json."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    status = {"status": "running", "pid": process.pid, "host": "node17", "time": "2024-05-01T00:00:00+00:00"}
    (tmp_path / "status.json").write_text(json.dumps(status))
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_live_holder_is_named_and_keeps_the_run(tmp_path, other):
    owner = f"process {other.pid} on node17, since 2024-05-01T00:00:00+00:00"
    for _ in range(2):
        with pytest.raises(UserError) as refused:
            run_locks({"abc": tmp_path}).__enter__()
        assert str(refused.value) == (
            f"{tmp_path}: another process is training run abc ({owner}); wait for it, or leave this run out"
        )
        assert holder(tmp_path) == owner


def test_who_only_looks_refuses_no_training(tmp_path):
    look = FileLock(tmp_path / LOCK, thread_local=False)
    look.acquire()
    over = threading.Timer(0.1, look.release)
    over.start()
    with run_locks({"abc": tmp_path}):
        pass
    over.join()


def test_a_killed_holder_is_replaced_at_once(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert holder(tmp_path) is None
    with run_locks({"abc": tmp_path}):
        pass


def test_a_released_run_is_free_at_once(tmp_path):
    for _ in range(3):
        with run_locks({"abc": tmp_path}):
            assert holder(tmp_path) == "its status.json does not name it"
        assert holder(tmp_path) is None


def test_a_pack_is_held_whole_or_not_at_all(tmp_path):
    with run_locks({"b": tmp_path / "b"}):
        with pytest.raises(UserError, match="run b"):
            run_locks({"a": tmp_path / "a", "b": tmp_path / "b", "c": tmp_path / "c"}).__enter__()
        assert holder(tmp_path / "a") is None
    assert not (tmp_path / "c").exists()
    assert holder(tmp_path / "c") is None, "a run that nobody began"
    assert not (tmp_path / "c").exists()


def contend(folder, start, results):
    """Try once; while holding, leave a mark that no other holder may find."""
    start.wait()
    try:
        with run_locks({"abc": folder}):
            (folder / "mark").touch(exist_ok=False)
            time.sleep(0.05)
            (folder / "mark").unlink()
            results.put("held")
    except UserError:
        results.put("refused")
    except FileExistsError:
        results.put("two at once")


def test_of_many_at_once_after_one_that_died_never_two_hold(tmp_path):
    dying = HOLDER.replace("time.sleep(600)", "import os; os._exit(9)")
    assert subprocess.run([sys.executable, "-c", dying, str(tmp_path)], cwd=ROOT, check=False).returncode == 9
    context = multiprocessing.get_context("forkserver")
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=contend, args=(tmp_path, start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    outcomes = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert "two at once" not in outcomes
    assert "held" in outcomes


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/abc/\.lock: cannot be locked \(Not a directory\).*paths\.runs"):
        run_locks({"abc": tmp_path / "file" / "abc"}).__enter__()


def test_without_flock_the_file_itself_is_the_lock(tmp_path, monkeypatch):
    """What some network file systems answer; a second process is refused as well."""

    def missing(file, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", missing)
    with (
        pytest.warns(UserWarning, match="flock not supported"),
        run_locks({"abc": tmp_path}),
        pytest.raises(UserError, match="another process is training run abc"),
    ):
        run_locks({"abc": tmp_path}).__enter__()
    with pytest.warns(UserWarning, match="flock not supported"), run_locks({"abc": tmp_path}):
        pass
