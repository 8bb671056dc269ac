"""The methods, one a file, behind one protocol (base.py)."""

from __future__ import annotations

from sora.config import MethodConfig
from sora.methods.base import Method, Plan, Summary

__all__ = ["Method", "Plan", "Summary", "build"]


def build(config: MethodConfig) -> Method:
    """The method that ``config.name`` names. Imported when asked for: a run pays for the method it uses."""
    from sora.methods.full import Full
    from sora.methods.lora import Lora
    from sora.methods.sora import Sora

    methods = {"full": Full, "lora": Lora, "sora": Sora}
    return methods[config.name](config)  # type: ignore[arg-type]
