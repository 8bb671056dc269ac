"""What several test files need."""

from __future__ import annotations

import gc
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.typed import typed  # noqa: F401  (a fixture of several files)

ROOT = Path(__file__).resolve().parents[1]

# A busy machine is slow; that says nothing about the code.
settings.register_profile("sora", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sora")


# Whoever names one of these trains a model, composes or runs whole commands, or starts a process.
WORK = {"Loop", "run_pack", "cli", "compose", "runs_of", "subprocess", "multiprocessing", "logistic"}
# Folders and files that are full of such work, or build whole studies.
WORKING = ("cluster", "faults", "experiments", "test_study", "test_logging_wandb")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark ``trains`` what is left out of make check: tests that do such work, or whose fixtures do."""
    seen: dict[Callable[..., Any], bool] = {}
    for item in items:
        fixtures = [found[-1].func for found in item._fixtureinfo.name2fixturedefs.values()]  # type: ignore[attr-defined]
        working = item.path.parent.name in WORKING or item.path.stem in WORKING
        if working or any(works(each, seen) for each in (item.function, *fixtures)):  # type: ignore[attr-defined]
            item.add_marker(pytest.mark.trains)


def pytest_collection_finish() -> None:
    """Take all that was imported out of the garbage collector's rounds, which would read it anew after every pack."""
    gc.freeze()


def works(function: Callable[..., Any], seen: dict[Callable[..., Any], bool]) -> bool:
    """Tell whether a function of the tests names some WORK, or calls a function of the tests that does."""
    function = inspect.unwrap(function)
    if not isinstance(function, FunctionType) or not function.__module__.startswith("tests"):
        return False
    if function not in seen:
        seen[function] = False  # a function that calls itself
        names = names_in(function.__code__)
        places = [function.__globals__]
        places += [vars(each) for name in names if isinstance(each := function.__globals__.get(name), ModuleType)]
        called = [place[name] for place in places for name in names if callable(place.get(name))]
        seen[function] = bool(names & WORK) or any(works(each, seen) for each in called)
    return seen[function]


def names_in(code: CodeType) -> set[str]:
    """Collect the names that a function uses, and those of the functions inside it."""
    inner = [names_in(each) for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*inner)


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
def _no_power_is_lost() -> Iterator[None]:
    """Files are not forced to disk: nothing here outlives a loss of power, and a disk is slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


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
