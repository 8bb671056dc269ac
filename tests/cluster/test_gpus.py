"""One process for each GPU, with pretend devices: nothing but CUDA_VISIBLE_DEVICES tells them apart."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from joblib import Parallel, delayed

from sora.cluster import gpus as cluster_gpus
from sora.cluster.gpus import OnFreeGpu, gpus_of, take
from sora.errors import UserError
from sora.runs import records
from tests.cluster.jobs import run
from tests.typed import SMALL


class Pack:
    """A pretend training that waits until ``together`` of them run at once, and notes where it ran."""

    def __init__(self, folder: Path, together: int) -> None:
        self.folder, self.together = folder, together

    def __call__(self, number: int) -> tuple[int, str, int]:
        (self.folder / f"began-{number}").touch()
        limit = time.monotonic() + 60
        while number < self.together and len(list(self.folder.glob("began-*"))) < self.together:
            assert time.monotonic() < limit, "the packs did not run at once"
            time.sleep(0.02)
        return number, os.environ["CUDA_VISIBLE_DEVICES"], os.getpid()


def test_packs_run_at_once_each_process_on_a_gpu_of_its_own(tmp_path: Path) -> None:
    Plugins.instance()  # Hydra's scan of its plugins executes their files anew: what a process holds must survive it
    gpus = ["0", "3", "GPU-5f"]
    for name in ("locks", "packs"):
        (tmp_path / name).mkdir()
    job = OnFreeGpu(Pack(tmp_path / "packs", len(gpus)), gpus, tmp_path / "locks")
    done = Parallel(n_jobs=len(gpus), backend="loky", batch_size=1)(delayed(job)(number) for number in range(8))
    used = {process: gpu for _, gpu, process in done}
    assert [number for number, _, _ in done] == list(range(8))
    assert sorted(gpu for _, gpu, _ in done[:3]) == sorted(gpus), "the first three run at once, on three GPUs"
    assert len(set(used.values())) == len(used) == 3, "a process keeps its GPU, and shares it with none"


def _hold(locks: Path, place: object) -> None:
    place.put(take(["a", "b"], locks))  # type: ignore[attr-defined]
    time.sleep(600)


def test_the_gpu_of_a_process_that_died_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_gpus, "_held", [])
    context = multiprocessing.get_context("spawn")
    place = context.Queue()
    process = context.Process(target=_hold, args=(tmp_path, place))
    process.start()
    assert place.get(timeout=120) == "a"
    assert take(["a", "b"], tmp_path) == "b"
    process.kill()
    process.join()
    assert take(["a", "b"], tmp_path) == "a"
    for lock in cluster_gpus._held:
        lock.close()


def test_which_gpus_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus_of(None) == ["0", "1"]
    assert gpus_of([2, "MIG-1"]) == ["2", "MIG-1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5")
    assert gpus_of(None) == ["4", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"CUDA_VISIBLE_DEVICES is empty\); cluster.gpus=\[0,1\] names them"):
        gpus_of(None)
    with pytest.raises(UserError, match="each GPU once"):
        gpus_of([0, 0])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="nvidia-smi lists none"):
        gpus_of(None)


@pytest.mark.slow
def test_a_sweep_over_two_gpus(tmp_path: Path) -> None:
    """The whole command: two packs, two processes, two pretend GPUs; without device=auto it insists on real ones."""
    sweep = ("-m", "cluster=gpus", "cluster.gpus=[3,7]", "hydra.sweeper.max_pack=1", *SMALL, "method=lora", "seed=0,1")
    done = run(tmp_path, *sweep, "device=auto", "trainer.max_steps=1")
    assert done.returncode == 0, done.stderr
    used = [line.rpartition(" ")[2] for line in done.stderr.splitlines() if ": GPU " in line]
    assert set(used) <= {"3", "7"}
    assert 1 <= len(used) == len(set(used))  # one, where the first process was through before the second had started
    assert len(records.read_many(tmp_path / "results" / "records")) == 2
