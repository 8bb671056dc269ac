"""What several test files need."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.typed import typed  # noqa: F401  (a fixture of several files)

ROOT = Path(__file__).resolve().parents[1]

# A busy machine is slow; that says nothing about the code.
settings.register_profile("sora", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sora")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked ``gpu`` where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder that holds ``data/glue``: SORA_TEST_SHARED, by default ``../shared``; a skip if absent."""
    folder = Path(os.environ.get("SORA_TEST_SHARED") or ROOT.parent / "shared").resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; SORA_TEST_SHARED names another folder")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _caches_of_these_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty hub cache without network, and a temporary cache of ours, also for commands that a test starts.

    huggingface_hub reads its variables when it is imported, so both the variables and what came of them are set.
    """
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_ASSETS_CACHE", "HF_HUB_CACHE"):
            folder = str(tmp_path_factory.mktemp(name))
            patch.setenv(name, folder)
            patch.setattr(constants, name, folder)
        folder = str(tmp_path_factory.mktemp("HF_DATASETS_CACHE"))
        patch.setenv("HF_DATASETS_CACHE", folder)
        if "datasets" in sys.modules:
            patch.setattr("datasets.config.HF_DATASETS_CACHE", folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(autouse=True)
def _gpu_for_those_who_ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not marked ``gpu`` trains on the CPU, also on a machine with a GPU, and so do commands that it starts."""
    if request.node.get_closest_marker("gpu"):
        return
    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(autouse=True)
def _no_data_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test says itself where its data and weights lie."""
    for name in ("SORA_DATA", "SORA_MODELS"):
        monkeypatch.delenv(name, raising=False)
