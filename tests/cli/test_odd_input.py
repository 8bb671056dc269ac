"""What people type in their first week, through the programs: one sentence and exit status 2, before any work."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.typed import TOY, Command

ROOT = Path(__file__).parents[2]
OWN = ("task=own", "data.text=[a]", "data.label=y")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A user's folder with files of every wrong kind."""
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    (tmp_path / "empty conf").mkdir()
    (tmp_path / "broken" / "task").mkdir(parents=True)
    (tmp_path / "broken" / "task" / "mine.yaml").write_text("name: [mine\n", encoding="utf-8")
    (tmp_path / "good.csv").write_text("a,y\nfine,1\nbad,0\nfine,1\nbad,0\n", encoding="utf-8")
    (tmp_path / "other.csv").write_text("a,y\nnice,1\nawful,0\nnice one,1\nso bad,0\n", encoding="utf-8")
    (tmp_path / "latin.csv").write_bytes("a,y\nschön,1\n".encode("latin-1"))
    (tmp_path / "head.csv").write_text("a,y\n", encoding="utf-8")
    (tmp_path / "one.csv").write_text("a,y\nfine,1\nbad,1\n", encoding="utf-8")
    for name, status in (("half", "running"), ("bad", None)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        text = json.dumps({"status": status, "run_id": name}) if status else "{"
        (tmp_path / "runs" / name / "status.json").write_text(text, encoding="utf-8")
    return tmp_path


def files(train: str) -> str:
    return f"data.files={{train: {train}, validation: other.csv}}"


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=cb", "--config-dir", "nowhere"], "nowhere"),
        (["task=cb", "--config-dir", "file"], "file"),
        (["task=cb", "--config-dir"], "--config-dir backbone=tiny: no such folder"),
        (["task=mine", "--config-dir", "broken"], "mine.yaml, line "),
        (["task=cb", "-cfg", "job"], "-cfg: no such flag"),
        (["--seed", "3"], "--seed: no such flag"),
        (["--help=me"], "--help: takes no value"),
        (["--task", "cb"], "--task: no such flag"),
        (["seed", "=", "3"], "seed: cannot be read"),
        (["task=cb,rte"], "task: got several values; -m task=cb,rte is a sweep"),
        (["device=gpu"], "device: got 'gpu', must be one of auto, cuda, cpu"),
        (["device=cuda:1"], "device: got 'cuda:1', must be one of auto, cuda, cpu"),
        (["data.dir=~nobody-here/glue"], "there is no user nobody-here; write the whole path"),
        (["paths.cache=~nobody-here"], "paths.cache: got '~nobody-here'"),
        (["paths.runs=file"], "paths.runs"),
        (["paths.runs=file/below"], "paths.runs"),
        (["-m", "cluster=gpus", "cluster.gpus=[0,0]", *TOY], "cluster.gpus: got 0, 0, must be each GPU once"),
        (["-m", "cluster=gpus", "cluster.gpus=[]", *TOY], "(cluster.gpus is empty); cluster.gpus=[0,1] names them"),
        (["cluster=gpus"], "cluster=gpus: one run trains here; add -m"),
        (["cluster=gpu"], "cluster=gpu: no such choice ... did you mean gpus?"),
        (["++backbone.weights=nowhere"], "backbone.weights: got 'nowhere'"),
        (["++backbone.weights=file"], "backbone.weights: got 'file'"),
        (["-m", "data.dir=a,a", *TOY], "data.dir: a is given twice"),
        (["predict=perhaps"], "predict: got 'perhaps'"),
        (["trainer.max_steps=1.5"], "trainer.max_steps: got 1.5"),
        (["task="], "task"),
        (["study.name=my study", "-m", *TOY], "study.name: got 'my study'"),
        ([*OWN, "data.files={train: nowhere.csv, validation: good.csv}"], "nowhere.csv"),
        ([*OWN, files("latin.csv")], "latin.csv"),
        ([*OWN, files("head.csv")], "head.csv"),
        ([*OWN, files("one.csv")], "has one label, '1', in every row"),
        ([*OWN, files("file")], "file"),
        (["task=own", "data.text=[b]", "data.label=y", files("good.csv")], "good.csv"),
        (["task=own", "data.text=[a]", "data.label=größe", files("good.csv")], "größe"),
        (["task=own", "data.text=[a]", "data.label=y"], "data.files"),
    ],
)
def test_a_command_is_refused_in_one_sentence(typed: Command, words: list[str], said: str) -> None:
    from sora.tasks import load

    done = typed(*words, then=lambda runs: load(runs[0].task, runs[0].protocol, runs[0].data) and None)
    assert done.status == 2, done
    lines = [line for line in done.err.splitlines() if not line.startswith(("task own", "study "))]
    assert [line[:7] for line in lines] == ["error: "], done.err
    for part in said.split(" ... "):
        assert part in done.err
    assert "Traceback" not in done.err
    assert not list(Path().glob("~*"))


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        ("export", ["nothing", "out"], "nothing: no run of that id in runs"),
        ("export", ["half", "out"], "the run is running, not finished"),
        ("export", ["bad", "out"], "status.json: cannot be read"),
        ("export", ["half"], "the following arguments are required: OUT"),
        ("export", ["half", "~nobody-here/out"], "there is no user nobody-here"),
        ("export", ["full", "out"], "full: no run of that id in runs, and no folder that holds a status.json"),
        ("status", ["--results=nowhere"], "nowhere: no such folder"),
        ("status", ["--commands", "many"], "argument --commands: invalid int value: 'many'"),
        ("tables", ["--results=~nobody-here/x"], "there is no user nobody-here"),
        ("tables", ["--studies", "x"], "unrecognized arguments: --studies x"),
        ("prepare_data", ["out"], "name what is to be fetched"),
        ("prepare_data", ["out", "--task", "rtee"], "'rtee' has no file in conf/task"),
        ("prepare_data", ["out", "--backbone", "minilm-l7"], "did you mean minilm-l6?"),
        ("prepare_data", ["out", "--task", "rte", "--config-dir", "nowhere"], "--config-dir nowhere: no such folder"),
        ("doctor", ["task=rtee"], "did you mean rte?"),
        ("doctor", ["task=cb", "--config-dir"], "--config-dir: needs a value"),
        ("doctor", ["-m", "task=cb"], "-m: the doctor looks at one job"),
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


def started(program: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit status of a script, as ``python scripts/<program>.py <words>`` runs it, in this process."""
    monkeypatch.setattr("sora.cli.console.outlive_reader", lambda: None)
    monkeypatch.setattr(sys, "argv", [f"scripts/{program}.py", *words])
    run: Callable[..., object] = runpy.run_path
    with pytest.raises(SystemExit) as left:
        run(str(ROOT / "scripts" / f"{program}.py"), run_name="__main__")
    return int(left.value.code or 0)
