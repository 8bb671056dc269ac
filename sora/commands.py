"""Commands as text, for a shell and for publication."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence


def without_paths(word: str) -> str:
    """``word`` with absolute paths replaced by PATH: records and manifests are published."""
    return _PATH.sub(r"\1PATH", word)


_START = r"(?:file://)?(?:/|~/)"
_PATH = re.compile(  # at the start, as a value, in a list or a dictionary; quoted for Hydra or bare
    rf"""(^|[=\[,]|:\s)(?:'{_START}[^']*'|"{_START}[^"]*"|{_START}[^,\]}}]*)"""
)


def portable(words: Sequence[str]) -> str:
    """As ``published``, but without the words that say where data and results lie on one machine.

    What is left runs anywhere: the data come from SORA_DATA or the hub, results go where they go by default.
    """
    local = ("data.dir=", "paths.", "backbone.dir=")
    return published([word for word in words if not (word.startswith(local) and without_paths(word) != word)])


def published(words: Sequence[str]) -> str:
    """A command quoted for a shell, without absolute paths."""
    return shlex.join(without_paths(word) for word in words)
