"""Commands as text: printed ones run as they stand, published ones name no place of the machine they were typed on."""

import shlex
import subprocess
from pathlib import Path

import pytest

from sora.runs.commands import from_here, here, in_script, portable, published, without_paths
from tests.typed import TOY, Command


@pytest.mark.parametrize(
    ("word", "published"),
    [
        ("paths.results=/home/me/r", "paths.results=PATH"),
        ("paths.results='/home/me and you/r'", "paths.results=PATH"),
        ('paths.results="/home/me/r(1)"', "paths.results=PATH"),
        ("data.dir=~/glue", "data.dir=PATH"),
        ("data.dir='~/my glue'", "data.dir=PATH"),
        ("hydra.searchpath=[file:///home/me/conf]", "hydra.searchpath=[PATH]"),
        ("x=[/a/b,'/c d/e',f]", "x=[PATH,PATH,f]"),
        ("method.options={r: 8, file: /home/me/x}", "method.options={r: 8, file: PATH}"),
        ("task=rte", "task=rte"),
        ("paths.results=elsewhere/r", "paths.results=elsewhere/r"),
        ("source=https://example.org/x", "source=https://example.org/x"),
    ],
)
def test_absolute_paths_are_replaced(word: str, published: str) -> None:
    assert without_paths(word) == published


def test_the_lines_of_a_dry_run_make_the_runs_of_the_sweep(
    typed: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    own = tmp_path / "my conf #1"
    (own / "task").mkdir(parents=True)
    (own / "backbone").mkdir()
    (own / "backbone" / "tiny.yaml").write_text("name: tiny\narch: {hidden_size: 32}\n", encoding="utf-8")
    (own / "task" / "mine.yaml").write_text("defaults: [synthetic_pair]\n", encoding="utf-8")
    words = ["-m", "task=mine", TOY[1], "seed=0,1", "method=lora,sora", "paths.runs=~/it's (1)", "paths.results=r & s"]
    listed = typed(*words, "--dry-run", "--config-dir", str(own))
    assert listed.status == 0, listed.err
    lines = listed.out.splitlines()
    assert len(lines) == 2
    assert all("  # 2 runs x " in line and " FLOP, " in line for line in lines)
    found = []
    for line in lines:
        parts = shlex.split(line, comments=True)
        assert parts[1] == "run.py"
        done = typed(*parts[2:])
        assert done.status == 0, done.err
        found += done.packs
    swept = typed(*words, "--config-dir", str(own)).packs
    assert found == swept
    assert {run.paths.runs for pack in found for run in pack} == {f"{tmp_path}/home/it's (1)"}


def test_a_published_command_is_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert published(["x", "--config-dir", f"{tmp_path}/my conf"]) == "x --config-dir 'my conf'"
    assert from_here(f"backbone.weights='{tmp_path}/a(1)'") == "backbone.weights='a(1)'"
    assert from_here(f"data.files={{train: '{tmp_path}/a b.csv', test: /x}}") == "data.files={train: a b.csv, test: /x}"
    assert published([f"backbone.weights={tmp_path}2/a"]) == "backbone.weights=PATH"
    assert (
        portable(["x", f"data.dir={tmp_path}/d", f"paths.runs={tmp_path}/r", "paths.results=s"]) == "x paths.results=s"
    )


def test_a_command_of_a_manifest_where_the_user_stands() -> None:
    command = "python run.py --config-dir PATH task=mine paths.results=s"
    ran = here(command, ["/my conf"], ["paths.results=x", "paths.runs='a(1'"])
    assert shlex.split(ran)[2:] == ["--config-dir", "/my conf", "task=mine", "paths.results=s", "paths.runs='a(1'"]
    assert Path(shlex.split(ran)[1]).name == "run.py"
    assert here("sora task=rte").endswith(" task=rte")


def test_a_script_asks_for_the_configuration_that_was_not_published(tmp_path: Path) -> None:
    line = in_script("echo --config-dir PATH 'seed=[0,1]'")
    ran = subprocess.run(["sh", "-c", line], env={"SORA_CONF": "/my conf"}, capture_output=True, text=True, check=True)
    assert ran.stdout == "--config-dir /my conf seed=[0,1]\n"
    asked = subprocess.run(["sh", "-c", line], env={}, capture_output=True, text=True, check=False)
    assert "name the folder of your own configuration" in asked.stderr
    assert in_script("python run.py task=rte") == "python run.py task=rte"
