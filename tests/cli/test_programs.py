"""The programs of scripts/ at what people type in their first week: one sentence and exit status 2."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sora.cli import programs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A user's folder with files of every wrong kind."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        ("export", ["nothing", "out"], "nothing: no run of that id in runs"),
        ("export", ["half"], "the following arguments are required: OUT"),
        ("status", ["--results=nowhere"], "nowhere: no such folder"),
        ("tables", ["--results=~nobody-here/x"], "there is no user nobody-here"),
        ("tables", ["--studies", "x"], "unrecognized arguments: --studies x"),
        ("prepare_data", ["out"], "name what is to be fetched"),
        ("prepare_data", ["out", "--backbone", "minilm-l7"], "did you mean minilm-l6?"),
        ("doctor", ["task=rtee"], "did you mean rte?"),
        ("doctor", ["method=probe", "trainer.epochs=3"], "trainer.epochs: method=probe takes no optimiser steps"),
        (
            "doctor",
            ["schedule=one_shot", "schedule.start=0.2"],
            "schedule.start: has no effect, as schedule.levels are",
        ),
        ("doctor", ["tracker.project=x"], "tracker.project: has no effect without tracker="),
        ("doctor", ["-m", "task=cb"], "the doctor looks at one job"),
        ("doctor", ["--config-dir", "none"], "--config-dir none: no such folder"),
        ("submission", ["glue", "--results", "nowhere"], "nowhere"),
        ("merge_results", ["full"], "full: has neither records/ nor studies/"),
        ("tune", ["--results", "full"], "full: no learning_rate study here"),
    ],
)
def test_a_program_refuses_in_one_sentence(
    program: str,
    words: list[str],
    said: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    assert started(program, words, monkeypatch) == 2
    printed = capfd.readouterr()
    assert said in printed.err
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1, printed.err
    assert sorted(place.rglob("*")) == before, "nothing is left behind"


@pytest.mark.parametrize("name", ["matplotlib", "statsmodels"])
def test_a_command_without_its_extra_names_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(runpy, "run_path", missing)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as left:
        programs.tables()
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: needs {name}, which is not installed; pip install")


@pytest.mark.parametrize(("program", "what"), [("demo", "subprocess.run"), ("bench", "sora.runs.compose.runs_of")])
def test_an_interrupt_is_one_sentence(
    program: str, what: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(what, interrupted)
    assert started(program, [], monkeypatch) == 130
    assert capfd.readouterr().err == "error: interrupted\n"


def started(program: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit status of a script, as ``python scripts/<program>.py <words>`` runs it, in this process."""
    monkeypatch.setattr("sora.cli.console.outlive_reader", lambda: None)
    monkeypatch.setattr(sys, "argv", [f"scripts/{program}.py", *words])
    run: Callable[..., object] = runpy.run_path
    with pytest.raises(SystemExit) as left:
        run(str(ROOT / "scripts" / f"{program}.py"), run_name="__main__")
    return int(left.value.code or 0)
