"""Imports point one way: docs/architecture.md has the order of the rooms, the modules have the imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
AROUND = {  # folder beside sora/ -> the highest floor of sora/ it may import, and which other folders
    "hydra_plugins": ("cli", {"hydra_plugins"}),
    "experiments": ("runs", {"experiments"}),
    "benchmark": ("training", {"benchmark"}),
    "scripts": ("cli", {"scripts", "experiments", "benchmark"}),
}


@dataclass(frozen=True)
class Import:
    """One imported name."""

    file: str
    line: int
    target: str  # dotted
    inside: bool  # a function
    typing: bool  # under TYPE_CHECKING

    @property
    def source(self) -> str:
        """The room of the importing file; a folder beside sora/ is one room."""
        parts = Path(self.file).with_suffix("").parts
        return room(".".join(parts))

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}" + (" inside a function" if self.inside else "")


def room(module: str) -> str:
    """``sora.tasks.load`` -> tasks, ``sora.config`` -> config, ``experiments.study`` -> experiments."""
    first, *rest = module.split(".")
    return rest[0] if first == "sora" and rest else first


def imports_of(file: str, text: str) -> list[Import]:
    """The imports in the ``text`` of a file that name this repository's code."""

    def walk(node: ast.AST, inside: bool, typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            within = inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            checked = typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [each.name for each in child.names]
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{file}:{child.lineno}: a relative import"
                names = [f"{child.module}.{each.name}" for each in child.names]
            for name in names:
                if name.split(".")[0] in ("sora", *AROUND):
                    yield Import(file, child.lineno, name, inside, typing)
            yield from walk(child, within, checked)

    return list(walk(ast.parse(text), False, False))


def floors() -> dict[str, int]:
    """Floor of each room of sora/, 0 at the bottom, from the list in docs/architecture.md."""
    block = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    lines = [re.match(r"\w+(?:, \w+)*", line) for line in block.strip().splitlines()]
    named = [found[0].split(", ") for found in lines if found]
    return {name: height for height, names in enumerate(reversed(named)) for name in names}


def wrong(found: list[Import]) -> list[str]:
    """Each import that the order forbids, as a sentence."""
    order, problems = floors(), []
    for each in found:
        if each.typing:
            continue
        source, target = each.source, room(each.target)
        if source in AROUND:
            highest, others = AROUND[source]
            allowed = target in others or order.get(target, 99) <= order[highest] or each.target == "sora.runs"
        elif target in AROUND:
            allowed = False
        else:
            allowed = order[target] <= order[source]
        if not allowed:
            problems.append(str(each))
    return problems


def circle(found: list[Import]) -> list[str]:
    """The rooms of a circle of imports, [] without one."""
    graph: dict[str, set[str]] = {}
    for each in found:
        edge = (each.source, room(each.target))
        if not each.typing and edge[0] != edge[1]:
            graph.setdefault(each.source, set()).add(room(each.target))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def found() -> list[Import]:
    """Every import of this repository's code in its product."""
    files = [path for folder in ("sora", *AROUND) for path in sorted((ROOT / folder).rglob("*.py"))]
    return [each for path in files for each in imports_of(str(path.relative_to(ROOT)), path.read_text())]


def test_every_room_has_a_place_in_the_order() -> None:
    inside = [path for path in (ROOT / "sora").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()]
    rooms = {path.stem for path in inside}
    assert rooms - {"__init__"} == set(floors())


def test_imports_point_down(found: list[Import]) -> None:
    assert not wrong(found)


def test_no_circle(found: list[Import]) -> None:
    assert not circle(found)


def test_the_check_sees_what_it_forbids() -> None:
    up = imports_of("sora/tasks/load.py", "def read():\n    from sora.training.loop import Loop\n")
    assert wrong(up) == ["sora/tasks/load.py:2 imports sora.training.loop.Loop inside a function"]
    typed = imports_of("sora/tasks/load.py", "if TYPE_CHECKING:\n    from sora.training.loop import Loop\n")
    assert len(typed) == 1
    assert not wrong(typed)
    assert wrong(imports_of("sora/runs/a.py", "import scripts.tables\n"))
    assert wrong(imports_of("experiments/a.py", "from sora.training import runner\n"))
    assert not wrong(imports_of("experiments/a.py", "from sora import runs\nfrom sora.tasks import load\n"))
    both = imports_of("sora/files.py", "import sora.config\n") + imports_of("sora/config.py", "import sora.files\n")
    assert not wrong(both), "one floor"
    assert set(circle(both)) == {"files", "config"}
