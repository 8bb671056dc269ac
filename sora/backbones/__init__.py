"""Encoder, tokenizer and head; where weights come from.

Names are imported when asked for: ``sora.backbones.source`` must be had without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sora.backbones.dropout import DropoutKey
    from sora.backbones.head import Head
    from sora.backbones.load import Backbone, load_backbone
    from sora.backbones.tokenizer import Encoding

__all__ = ["Backbone", "DropoutKey", "Encoding", "Head", "load_backbone"]
_HOMES = {
    "Backbone": "load",
    "DropoutKey": "dropout",
    "Encoding": "tokenizer",
    "Head": "head",
    "load_backbone": "load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
