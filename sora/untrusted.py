"""Read what others wrote without trusting it: JSON that is JSON, names that lead nowhere else (torch-free).

Nothing in this project is unpickled: records are JSON, arrays are read with ``allow_pickle=False``, weights are
safetensors or read with ``weights_only=True``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any


def parse_json(text: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the value of a JSON text; ``pairs`` as ``object_pairs_hook`` of json.loads.

    Raises:
        ValueError: not JSON, a number that is not finite, nested too deeply, half a character (``\\ud83d``) in a text,
            which no file or terminal takes.
    """
    try:
        value = json.loads(text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if "\\u" in text and re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False)):
        raise ValueError("a \\u escape that is half a character")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def is_name(text: str) -> bool:
    """Tell whether a text can be a part of a path, and of nothing but the folder it stands in."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", text) is not None


def is_inside(text: str) -> bool:
    """Tell whether a relative path stays below the folder it starts from."""
    path = PurePosixPath(text)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in text and "\\" not in text
