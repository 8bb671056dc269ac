"""Runs from overrides without a command line: what ``python run.py <overrides>`` would train (torch-free)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hydra import compose, initialize_config_dir

from sora.config import RunConfig
from sora.resolve import build_runs

CONF = Path(__file__).resolve().parents[1] / "conf"


def runs_of(overrides: Iterable[str]) -> list[RunConfig]:
    """The runs of one job. Raises UserError, or HydraException or OmegaConfBaseException for a mistake of spelling."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build_runs(compose("config", list(overrides)))
