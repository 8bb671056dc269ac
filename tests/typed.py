"""The command line in this process: for real, or with a runner that only takes notes."""

import contextlib
import io
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
SMALL = (  # trains in a second: MiniLM's tokenizer over a random encoder of one narrow layer
    "backbone=minilm-l6",
    "backbone.weights=random",
    "backbone.arch.num_hidden_layers=1",
    "backbone.arch.hidden_size=24",
    "backbone.arch.intermediate_size=32",
    "task=synthetic_pair",
    "recipe=none",
    "task.sizes={train: 60, validation: 40}",
    "trainer.max_steps=6",
    "trainer.batch_size=4",
    "trainer.eval_every=3",
)


def called(folder: Path, *words: str) -> Outcome:
    """``python run.py <words>`` in ``folder``, for real, in this process."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HYDRA_FULL_ERROR", "0")
        patch.setattr(sys, "argv", ["run.py", *words])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()
            except SystemExit as left:
                status = left.code if isinstance(left.code, int) else 1
    return Outcome(status, out.getvalue(), err.getvalue())


def refused(folder: Path, *words: str) -> str:
    """The one sentence of a command that must fail with status 2."""
    done = called(folder, *words)
    assert done.status == 2, done
    (line,) = done.err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """``typed(*arguments, then=...)``: the command in this process, with a runner that only takes notes."""
    folder = config_dir(tmp_path / "conf")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, then: Callable[[list[RunConfig]], None] = lambda runs: None) -> Outcome:
        packs: list[list[RunConfig]] = []
        commands: list[str] = []

        def run_pack(runs: list[RunConfig], command: str) -> list[dict[str, Any]]:
            packs.append(runs)
            commands.append(command)
            then(runs)
            return []

        runner = types.ModuleType("sora.training.runner")
        runner.run_pack = run_pack  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "sora.training.runner", runner)
        done = called(Path.cwd(), "--config-dir", str(folder), *arguments, "backbone=tiny")
        return Outcome(done.status, done.out, done.err, packs, commands)

    return run
