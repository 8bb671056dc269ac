"""The methods, one a file, behind one protocol (base.py)."""

from __future__ import annotations

import importlib

from sora.method_config import MethodConfig
from sora.methods.base import Method, Plan, Summary

__all__ = ["Method", "Plan", "Summary", "build"]

HOMES = {  # method.name -> module and class
    "full": ("full", "Full"),
    "bitfit": ("bitfit", "Bitfit"),
    "adapter": ("adapter", "Adapter"),
    "lora": ("lora", "Lora"),
    "masked_lora": ("masked_lora", "MaskedLora"),
    "adalora": ("adalora", "Adalora"),
    "sora": ("sora", "Sora"),
    "probe": ("probe", "Probe"),
    "zero_shot": ("zero_shot", "ZeroShot"),
    "svd_cut": ("svd_cut", "SvdCut"),
    "peft": ("peft", "Peft"),
}


def build(config: MethodConfig) -> Method:
    """Return the method that ``config.name`` names. Imported when asked for: a run pays for the method it uses."""
    module, cls = HOMES[config.name]
    method: Method = getattr(importlib.import_module(f"sora.methods.{module}"), cls)(config)
    return method
