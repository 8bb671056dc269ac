"""The command line in this process, with a runner that only takes notes."""

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sora.cli import main as cli
from sora.config import RunConfig
from tests.composing import config_dir


@dataclass
class Outcome:
    """What a command did."""

    status: int
    out: str
    err: str
    packs: list[list[RunConfig]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


Command = Callable[..., Outcome]
TOY = ("task=synthetic_pair", "++backbone.weights=random")  # needs no files: a sweep names its runs before it starts


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """``typed(*arguments, then=...)``: the command in this process, with a runner that only takes notes."""
    folder = config_dir(tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def run(*arguments: str, then: Callable[[list[RunConfig]], None] = lambda runs: None) -> Outcome:
        outcome = Outcome(0, "", "")

        def run_pack(runs: list[RunConfig], command: str) -> list[dict[str, Any]]:
            outcome.packs.append(runs)
            outcome.commands.append(command)
            then(runs)
            return []

        runner = types.ModuleType("sora.training.runner")
        runner.run_pack = run_pack  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "sora.training.runner", runner)
        monkeypatch.setattr(sys, "argv", ["run.py", "--config-dir", str(folder), *arguments, "backbone=tiny"])
        try:
            cli.main()
        except SystemExit as left:
            outcome.status = left.code if isinstance(left.code, int) else 1
        outcome.out, outcome.err = capfd.readouterr()
        return outcome

    return run
