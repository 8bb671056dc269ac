"""What a run is told of the machine: bf16 where the processor has no kernels for it, and the record's device."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
import torch
from torch.utils import deterministic

from sora.errors import UserError
from sora.training import device
from sora.training.runner import run_pack
from tests.superglue import tiny_runs

CPU = torch.device("cpu")
WORDS = "precision=bf16: this processor (AVX2) has no fast products in bf16"


@pytest.fixture
def old_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "bf16_kernels", lambda: False)
    monkeypatch.setattr(device, "capability", lambda: "AVX2")


@pytest.mark.usefixtures("old_processor")
def test_only_bf16_on_a_processor_without_kernels_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.slow("bf16", CPU).startswith(WORDS)
    assert [device.slow(precision, CPU) for precision in ("fp32", "tf32")] == ["", ""]
    assert device.slow("bf16", torch.device("cuda")) == ""
    monkeypatch.setattr(device, "bf16_kernels", lambda: True)
    assert device.slow("bf16", CPU) == ""


@pytest.mark.usefixtures("old_processor")
def test_a_training_says_so_once_and_names_device_and_threads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    steps = ("method=lora", "trainer.max_steps=1", "trainer.batch_size=2", "precision=bf16", "device=cpu")
    (record,) = run_pack(tiny_runs(tmp_path, "task=synthetic_pair", "recipe=none", *steps), "test")
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.startswith(f"device=cpu: cpu {platform.machine()} AVX2, {threads} thread")
    assert "\n".join(lines).count(WORDS) == 1
    assert record["provenance"]["device"] == f"cpu {platform.machine()} AVX2"
    assert record["provenance"]["threads"] == threads
    assert "device" not in record["config"], "it is where the run was made, not what it is"


def test_deterministic_forbids_other_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is put back
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(False)
        device.choose_device(False)
        assert not torch.are_deterministic_algorithms_enabled()
        device.choose_device(True)
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert not deterministic.fill_uninitialized_memory  # twice the launches, for memory that nothing reads
        device.choose_device(False)  # of the next run in this process
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(before)


def test_auto_takes_the_gpu_and_cuda_insists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [device.choose_device(False, wanted).type for wanted in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert device.choose_device(False, "auto") == device.choose_device(False, "cpu") == CPU
    with pytest.raises(UserError, match=r"device=cuda: torch \S+ is built without CUDA; mend that, or set device=auto"):
        device.choose_device(False, "cuda")
    steps = ("method=lora", "trainer.max_steps=1", "device=cuda")
    with pytest.raises(UserError, match="device=cuda"):
        run_pack(tiny_runs(tmp_path, "task=synthetic_pair", "recipe=none", *steps), "test")
    assert not list(tmp_path.glob("**/status.json")), "nothing may say that such a run was begun"
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"sees no GPU \(CUDA_VISIBLE_DEVICES=''\)"):
        device.choose_device(False, "cuda")


@pytest.mark.parametrize(("busy", "idle"), [([0, 0, 0, 0], 4), ([100, 0, 0, 0], 3), ([60, 60, 60, 0], 2)])
def test_idle_cores_are_counted(busy: list[int], idle: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among those that the process may use: here all but the last of five."""
    monkeypatch.setattr("psutil.cpu_percent", lambda interval, percpu: [*busy, 0])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert device.idle_cores() == idle


@pytest.mark.parametrize(("idle", "threads"), [(0, 1), (1, 1), (3, 3), (9, 4)])
def test_a_run_takes_the_threads_that_are_free(monkeypatch: pytest.MonkeyPatch, idle: int, threads: int) -> None:
    said = taken(monkeypatch, idle)
    assert said[0] == threads
    assert said[1].startswith(f"{threads} thread{'s' if threads > 1 else ''} ({idle} of ")


def test_a_count_that_was_given_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken(monkeypatch, 1, OMP_NUM_THREADS="4") == (4, "4 threads (OMP_NUM_THREADS=4)")
    assert taken(monkeypatch, 1, at_import=8) == (4, "4 threads")
    assert taken(monkeypatch, 1, on="cuda") == (4, "4 threads")


def taken(
    monkeypatch: pytest.MonkeyPatch, idle: int, at_import: int = 4, on: str = "cpu", **variables: str
) -> tuple[int, str]:
    """Threads after, and what is said, where torch has four and ``idle`` cores are idle."""
    for name in device.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(device, "THREADS_AT_IMPORT", at_import)
    monkeypatch.setattr(device, "idle_cores", lambda: idle)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        said = device.take_free_threads(torch.device(on))
        return torch.get_num_threads(), said
    finally:
        torch.set_num_threads(threads)
