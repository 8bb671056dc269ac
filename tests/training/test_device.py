"""What a run is told of the machine: bf16 where the processor has no kernels for it, and the record's device."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import deterministic

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
def test_only_bf16_on_a_processor_is_slow() -> None:
    assert device.slow("bf16", CPU).startswith(WORDS)
    assert [device.slow(precision, CPU) for precision in ("fp32", "tf32")] == ["", ""]
    assert device.slow("bf16", torch.device("cuda")) == ""


def test_a_processor_with_kernels_gets_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "bf16_kernels", lambda: True)
    assert device.slow("bf16", CPU) == ""


@pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="oneDNN's rule is known here for x86-64 alone"
)
def test_kernels_follow_the_processors_flags() -> None:
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    assert device.bf16_kernels() == ({"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= set(flags))


@pytest.mark.usefixtures("old_processor")
def test_a_training_says_so_once_and_the_record_names_the_processor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = ("method=lora", "trainer.max_steps=1", "trainer.batch_size=2", "precision=bf16")
    (record,) = run_pack(tiny_runs(tmp_path, "task=synthetic_pair", "recipe=none", *steps), "test")
    assert capsys.readouterr().err.count(WORDS) == 1
    assert record["provenance"]["device"] == f"cpu {platform.machine()} AVX2"


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
