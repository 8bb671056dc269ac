"""The training that nothing disturbs, which the others are compared with."""

from __future__ import annotations

from typing import Any

import pytest

from scripts import chaos
from tests.faults.small import SMALL


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], dict[str, list[chaos.Span]]]:
    """What it leaves, and when each of its phases began and ended."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert chaos.run(folder, SMALL) == 0, (folder / "output.txt").read_text()
    return chaos.left(folder), chaos.spans(folder)
