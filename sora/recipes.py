"""Recipes: published values for one backbone, method and task, in conf/recipe (torch-free)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sora.errors import UserError
from sora.resolve import nearest

CONF = Path(__file__).resolve().parents[1] / "conf"


def check_recipe(used: str, choices: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuse a recipe that was asked for and has no file: Hydra passes over it, as the group is optional.

    Args:
        used: ``recipe`` in the composed configuration, set by the recipe's file.
        choices: Hydra's choice for every group.
        overrides: what the run was given.
    """
    wanted = choices.get("recipe")
    asked = any(each.startswith("recipe=") for each in overrides)
    default = f"{choices['backbone']}/{choices['method']}/{choices['task']}"
    if wanted in (None, "none", used) or (wanted == default and not asked):
        return
    names = [path.relative_to(CONF / "recipe").with_suffix("").as_posix() for path in CONF.glob("recipe/**/*.yaml")]
    raise UserError(f"recipe={wanted}: no such file in conf/recipe; recipe=none does without{nearest(wanted, names)}")
