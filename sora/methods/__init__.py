"""The methods, one a file, behind one protocol (base.py)."""

from __future__ import annotations

import importlib

from sora.method_config import MethodConfig
from sora.methods.base import Method, Plan, Summary

__all__ = ["Method", "Plan", "Summary", "build"]


def build(config: MethodConfig) -> Method:
    """Return the method that ``config.name`` names: ``masked_lora`` is class MaskedLora of sora/methods/masked_lora.py.

    Imported when asked for: a run pays for the method it uses.
    """
    module = importlib.import_module(f"sora.methods.{config.name}")
    method: Method = getattr(module, config.name.title().replace("_", ""))(config)
    return method
