"""README.md and docs/: links resolve, keys exist, commands compose, and numbers are those of results/."""

from __future__ import annotations

import csv
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

from experiments import conditions
from scripts import readme
from sora.config import TaskConfig
from sora.files import CONF
from sora.method_config import METHODS
from sora.methods import regime
from sora.options import Options
from sora.runs import records
from tests.experiments import made
from tests.typed import called

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCES = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", FENCES.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def blocks(kind: str) -> str:
    return "\n".join(re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)).replace("\\\n", " ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_resolves(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert names == set(re.findall(r"\]\((\w+\.md)\)", index))


def test_the_readme_is_a_tour() -> None:
    written, _, rest = README.partition(readme.BEGIN)
    assert len((written + rest.partition(readme.END)[2]).splitlines()) <= 152  # the results between are generated


def test_its_table_is_that_of_results() -> None:
    assert readme.main(["--check"]) == 0, "python scripts/readme.py"


def test_every_folder_of_the_tree_exists() -> None:
    tree = README.partition("## Files\n")[2].partition("## ")[0]
    named = re.findall(r"^    (\S+)  ", tree, re.MULTILINE)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []
    rooms = {f"sora/{path.name}/" for path in (ROOT / "sora").iterdir() if (path / "__init__.py").is_file()}
    assert rooms == {name for name in named if name.startswith("sora/") and name.endswith("/")}


def test_every_choice_has_its_file_and_every_file_is_a_choice() -> None:
    table = README.partition("## Choose\n")[2].partition("## ")[0]
    for group, hidden in (("backbone", set()), ("method", set()), ("task", {"ax", "axb", "axg"}), ("protocol", set())):
        (row,) = (line for line in table.splitlines() if line.startswith(f"| `{group}=`"))
        words = re.sub(r"`[^`]*=[^`]*`", "", row.split("|")[2])
        named = set()
        for word in " ".join(re.findall(r"`([^`]*)`", words)).split():
            stem, brace, rest = word.partition("{")
            named |= {stem + end for end in rest.rstrip("}").split(",")} if brace else {word}
        assert {path.stem for path in (CONF / group).glob("*.yaml")} - hidden == named, group


def known(key: str) -> bool:
    """Whether run.py takes ``key``: a field of the options, or a group of conf/."""
    first, *rest = key.split(".")
    if first == "method" and rest:
        return any(rest[0] in kind.__dataclass_fields__ for kind in METHODS.values())
    if first == "task" and rest:
        return rest[0] in TaskConfig.__dataclass_fields__
    if not rest:
        return first in Options.__dataclass_fields__ or (CONF / first).is_dir()
    return rest[0] in getattr(get_type_hints(Options).get(first), "__dataclass_fields__", {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_key_exists(page: Path) -> None:
    """Keys of the commands, and those that prose gives a value: ``method.threshold=...``."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = "\n".join(re.findall(r"^.*python run\.py.*$", text, re.MULTILINE))
    found = set(re.findall(r"(?<=[ '])([a-z_]+(?:\.[a-z_]+)*)=", commands))
    found |= set(re.findall(r"`'?([a-z_]+(?:\.[a-z_]+)+)=", text))
    assert page.name != "README.md" or page.parent != ROOT or len(found) > 8
    found -= {"key", "metod"}  # the form of a command, and the mistake that is shown
    assert {key for key in found if not known(key) and not key.startswith(("hydra.", "cluster."))} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_brackets_of_a_command_are_quoted(page: Path) -> None:
    """Zsh takes others for a pattern of file names."""
    lines = page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    bare = [word for line in lines if "run.py" in line for word in re.findall(r"(?<=\s)[\w.]+=[\[{]\S*", line)]
    assert bare == []


def commands() -> list[list[str]]:
    """The words after ``python`` of each command in a bash block."""
    lines = [shlex.split(line, comments=True) for line in blocks("bash").splitlines()]
    return [words[1:] for words in lines if words[:1] == ["python"]]


@pytest.mark.parametrize("words", [words for words in commands() if words[0] == "run.py"], ids=" ".join)
def test_every_command_composes(words: list[str], tmp_path: Path) -> None:
    sweep = "-m" in words  # its jobs, for tasks that need no data
    toy = [word.replace("rte", "synthetic_single").replace("mrpc", "synthetic_pair") for word in words[1:]]
    done = called(tmp_path, *toy, "--dry-run") if sweep else called(tmp_path, *words[1:], "--cfg", "job")
    assert done.status == 0, done.err
    assert done.out.count("run.py method=") == 4 if sweep else "method:" in done.out


def test_every_script_it_names_has_help(monkeypatch: pytest.MonkeyPatch) -> None:
    named = set(re.findall(r"(scripts/\w+\.py)", README)) | {words[0] for words in commands()} - {"run.py"}
    assert named
    monkeypatch.setattr("sora.cli.console.outlive_reader", lambda: None)
    for name in sorted(named):
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit, match=r"^0$"):
            runpy.run_path(str(ROOT / name), run_name="__main__")


def test_every_target_of_make_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(r"(?:`|^ *)make ([a-z][a-z-]*)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


def test_a_folder_given_to_make_may_have_a_space(tmp_path: Path) -> None:
    shown = ["--eval", '.PHONY: shown\nshown: ; @echo "$$SORA_DATA"', "shown"]
    words = ["make", "--no-print-directory", "-C", str(ROOT), "--assume-old=.venv/.installed"]
    for data, expected in ((f"{tmp_path}/my data", f"{tmp_path}/my data"), ("my data", f"{ROOT}/my data")):
        done = subprocess.run([*words, f"DATA={data}", *shown], capture_output=True, text=True, check=True)
        assert done.stdout == f"{expected}\n"
    for target in ("tables", "fidelity", "study"):
        done = subprocess.run([*words, "-n", "RESULTS=my results", target], capture_output=True, text=True, check=True)
        for line in filter(lambda line: "my results" in line, done.stdout.splitlines()):
            assert any("my results" in word for word in shlex.split(line)), line
        assert "scripts/readme.py" not in done.stdout or "[ 'my results' != results ] ||" in done.stdout


def test_the_results_in_pandas(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():  # of a sweep that is not whole
        warnings.simplefilter("ignore")
        exec(blocks("python"), names)
    assert len(capsys.readouterr().out.splitlines()) > 2
    means, deviations = names["scores"].mean(), names["scores"].std(ddof=0)
    for place in means.index:
        assert " " not in place[2], "each row under its own name"
    pages = (ROOT / "results" / "tables").glob("main_table-*/README.md")
    (page,) = (page for page in pages if "Backbone minilm-l6." in page.read_text(encoding="utf-8"))
    with page.with_name("main_table.csv").open(encoding="utf-8", newline="") as rows:
        table = {(row["task"], row["arm"]): row for row in csv.DictReader(rows)}
    for task, label in (("cola", "CoLA MCC"), ("sst2_10k", "SST-2 (10k) acc.")):
        for arm, name in (("lora_r8", "LoRA r = 8"), ("sora_small", "SoRA-small")):
            place, row = ("minilm-l6", task, arm), table[label, name]
            assert means[place] == pytest.approx(float(row["score"]), abs=1e-4)
            assert deviations[place] == pytest.approx(float(row["score sd"]), abs=1e-4)


def test_the_results_in_pandas_of_a_study_without_arms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the SD of the tables, by numpy from the records."""
    made.study(tmp_path / "results", "main_table", {"method": ["lora", "sora"], "task": ["rte"], "seed": [0, 1, 2]})
    monkeypatch.chdir(tmp_path)
    exec(blocks("python"), {})
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    for method in ("lora", "sora"):
        paths = sorted(tmp_path.glob(f"results/records/*/rte/{method}-*.json"))
        points = [100 * records.read(path)["metrics"]["selected"]["report"]["accuracy"] for path in paths]
        (line,) = (words for words in said if method in words)
        assert [float(cell) for cell in line[-3:]] == pytest.approx([np.mean(points), np.std(points), 3], abs=1e-4)


def test_the_page_of_the_results_says_where_no_gate_could_be_held_up() -> None:
    """Its bound is that of the warning of a run."""
    assert conditions.LARGEST_RHO == regime.LARGEST_RHO
    assert conditions.SMALLEST_TRAVEL == regime.SMALLEST_TRAVEL
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    with (ROOT / "results" / "runs.csv").open(encoding="utf-8", newline="") as file:
        runs = [row for row in csv.DictReader(file) if row["method"] == "sora" and "main_table-" in row["studies"]]
    large = [
        row
        for row in runs
        if float(row.get("regime.rho") or float(row["method.threshold"]) / float(row["trainer.learning_rate"])) > 0.5
        or float(row.get("regime.travel") or 1) < 0.5
    ]
    assert (f"In {len(large)} of {len(runs)} runs of SoRA ρ" in page) == bool(large)
