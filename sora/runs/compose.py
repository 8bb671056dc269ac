"""Runs from overrides without a command line: what ``python run.py <overrides>`` would train (torch-free)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from sora.config import RunConfig
from sora.errors import UserError
from sora.files import CONF
from sora.runs.commands import hydra_text
from sora.runs.recipes import check_recipe, check_typed
from sora.runs.resolve import build_runs


def runs_of(overrides: Iterable[str], config_dirs: Sequence[str] = ()) -> list[RunConfig]:
    """Return the runs of one job; ``config_dirs``: folders of the user's own configuration.

    Raises UserError, or HydraException or OmegaConfBaseException for a mistake of spelling.
    """
    words = list(overrides)
    if missing := [each for each in config_dirs if not Path(each).is_dir()]:
        raise UserError(f"--config-dir {missing[0]}: no such folder")
    if config_dirs:
        own = [hydra_text(f"file://{Path(each).resolve()}") for each in config_dirs]
        words.append(f"hydra.searchpath=[{','.join(own)}]")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = compose("config", words, return_hydra_config=True)
        except ValueError as error:  # schedule=null
            raise UserError(f"{' '.join(words)}: {error}; a group takes the name of a choice") from error
    choices = config.hydra.runtime.choices
    with open_dict(config):
        config.pop("hydra")
    check_typed(config, choices, words)
    check_recipe(config, choices, words)
    return build_runs(config)
