"""Where files lie: those of this project that are no Python modules, and the folders that a person names.

The former lie beside this package in a checkout, and inside it in an installation.
"""

from __future__ import annotations

import os
from pathlib import Path

from sora.errors import UserError

BUNDLE = Path(__file__).resolve().parent / "_bundle"  # made by setup.py, for a wheel only
ROOT = BUNDLE if BUNDLE.is_dir() else Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"


def expanded(key: str, text: str) -> str:
    """``text`` with a ``~`` in front expanded. Raises UserError, naming ``key``, where no home folder is known."""
    if not text.startswith("~"):
        return text
    whole = os.path.expanduser(text)
    if not whole.startswith("~"):
        return whole
    who = text.partition("/")[0]
    why = "HOME is not set, and this user has no home folder" if who == "~" else f"there is no user {who[1:]}"
    raise UserError(f"{key}: got {text!r}, but {why}; write the whole path, or ./{text} for a folder of that name")
