"""Words that must not come back: the field has a word for each. Edit WORDS freely."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = {  # pattern -> what the field says
    r"told": "logged, reported, given",
    r"compan(?:y|ies)": "pack mates, group",
    r"comes of": "follows from",
    r"beside": "next to, with, other than",
    r"mirrors?": "logger, copy",
    r"sinks?": "logger",
    r"TakenOver": "lock lost",
}
PLACES = (
    "sora",
    "hydra_plugins",
    "scripts",
    "experiments",
    "benchmark",
    "conf",
    "docs",
    "README.md",
    "CHANGELOG.md",
)
SUFFIXES = (".py", ".md", ".yaml")


def found(place: str) -> list[str]:
    """Each of the words in a file or folder, with its line."""
    path = ROOT / place
    files = sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES) if path.is_dir() else [path]
    return [
        f"{file.relative_to(ROOT)}:{number}: {match[0]} (write: {better})"
        for file in files
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        for word, better in WORDS.items()
        for match in re.finditer(rf"\b(?:{word})\b", line, re.IGNORECASE)
    ]


@pytest.mark.parametrize("place", PLACES)
def test_no_such_word_here(place: str) -> None:
    assert not found(place)
