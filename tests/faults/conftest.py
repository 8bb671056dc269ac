"""The training that nothing disturbs, which the others are compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import chaos
from tests.faults.small import SMALL


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert chaos.run(folder, SMALL) == 0, (folder / "output.txt").read_text()
    return folder
