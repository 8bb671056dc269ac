"""What several test files need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder that holds ``data/glue``: SORA_TEST_SHARED, by default ``../shared``; a skip if absent."""
    folder = Path(os.environ.get("SORA_TEST_SHARED") or ROOT.parent / "shared").resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; SORA_TEST_SHARED names another folder")
    return folder


@pytest.fixture(autouse=True)
def _no_data_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test says itself where its data lies."""
    monkeypatch.delenv("SORA_DATA", raising=False)
