"""README.md and docs/: links resolve, keys exist, commands compose, and numbers are those of results/."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from experiments import conditions
from scripts import readme
from sora.config import TaskConfig
from sora.files import CONF
from sora.method_config import METHODS
from sora.methods import regime
from sora.options import Options

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
    assert len(README.splitlines()) <= 165


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


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    call = [sys.executable, *words]
    return subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)


def commands() -> list[list[str]]:
    """The words after ``python`` of each command in a bash block."""
    lines = [shlex.split(line, comments=True) for line in blocks("bash").splitlines()]
    return [words[1:] for words in lines if words[:1] == ["python"]]


@pytest.mark.parametrize("words", [words for words in commands() if words[0] == "run.py"], ids=" ".join)
def test_every_command_composes(words: list[str], tmp_path: Path) -> None:
    if "-m" in words:  # its jobs, for tasks that need no data
        sweep = [word.replace("rte", "synthetic_single").replace("mrpc", "synthetic_pair") for word in words[1:]]
        done = run(tmp_path, str(ROOT / "run.py"), *sweep, "--dry-run")
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("run.py method=") == 4
    else:
        done = run(tmp_path, str(ROOT / "run.py"), *words[1:], "--cfg", "job")
        assert done.returncode == 0, done.stderr
        assert "method:" in done.stdout


def test_every_script_it_names_has_help(tmp_path: Path) -> None:
    named = sorted(
        set(re.findall(r"(scripts/\w+\.py)", README)) | {words[0] for words in commands() if words[0] != "run.py"}
    )
    assert named
    for name in named:
        done = run(tmp_path, str(ROOT / name), "--help")
        assert done.returncode == 0, done.stderr


def test_every_target_of_make_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in PAGES:
        for target in re.findall(r"(?:`|^ *)make ([a-z][a-z-]*)", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"


def test_the_results_in_pandas() -> None:
    done = run(ROOT, "-c", blocks("python"))
    assert done.returncode == 0, done.stderr
    assert "minilm" not in done.stderr
    assert re.search(r"^\w+ +\w+ +-?\d", done.stdout, re.MULTILINE)


def test_what_is_stated_of_the_earlier_study() -> None:
    """docs/regime.md: rho and travel of SoRA in the main table whose records have no regime."""
    with (ROOT / "results" / "runs.csv").open(encoding="utf-8", newline="") as file:
        runs = [row for row in csv.DictReader(file) if row["method"] == "sora" and "main_table-" in row["studies"]]
    runs = [row for row in runs if not row.get("regime.rho")]
    if not runs:
        pytest.skip("the records of the earlier study are gone")
    found = {
        "rho": [float(row["method.threshold"]) / float(row["trainer.learning_rate"]) for row in runs],
        "travel": [float(row["trainer.learning_rate"]) * float(row["trainer.max_steps"]) / 2 for row in runs],
    }
    page = " ".join((ROOT / "docs" / "regime.md").read_text(encoding="utf-8").split())
    for name, values in found.items():
        (stated,) = re.findall(rf"`{name}`(?: is)? (\d\S*) to (\d+\.?\d*)", page)
        assert stated == tuple(
            f"{round(value, 4 if name == 'travel' else 2):g}" for value in (min(values), max(values))
        )


def test_the_page_of_the_results_says_so_too() -> None:
    """Of the same runs; its bound is that of the warning of a run."""
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
