"""Commands as text, for a shell and for publication."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence


def without_paths(word: str) -> str:
    """``word`` with absolute paths replaced by PATH: records and manifests are published."""
    return re.sub(r"(^|[=\[,])(file://)?(/|~/)[^,\]]*", r"\1PATH", word)


def published(words: Sequence[str]) -> str:
    """A command quoted for a shell, without absolute paths."""
    return shlex.join(without_paths(word) for word in words)
