"""Commands that are published name no place of the machine they were typed on."""

import pytest

from sora.runs.commands import portable, without_paths


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


def test_folders_of_one_machine_are_left_out() -> None:
    words = ["python", "run.py", "task=rte", "paths.results='/tmp/a b'", "data.dir=/data", "paths.runs=here"]
    assert portable(words) == "python run.py task=rte paths.runs=here"
