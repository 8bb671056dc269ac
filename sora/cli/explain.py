"""One sentence for an error of Hydra or OmegaConf, with the nearest key or choice (torch-free)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields

import yaml
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException, ValidationError

from sora.coercion import explained, nearest, one_of, too_large
from sora.method_config import METHODS
from sora.options import GROUPS, Options
from sora.runs.commands import install, program_name

LAUNCHERS = {  # of Hydra, which a cluster= needs -> its package, and the extra of pyproject.toml
    "joblib": ("hydra-joblib-launcher", "joblib"),
    "submitit_slurm": ("hydra-submitit-launcher", "slurm"),
    "ray": ("hydra-ray-launcher", "ray"),
}
NO_GROUP = "Config group override must be"
MISUSE = (NO_GROUP, "Only one of --run", "The --resolve flag")  # how ValueErrors of Hydra about a command begin


def explain(error: Exception) -> str:
    """Say what is wrong, where, and what to do."""
    text = str(error).strip()
    if text.startswith(NO_GROUP):
        return (
            "a group (schedule=, recipe=, task=, ...) was given null, a number or a list; it takes the name of a choice"
        )
    if isinstance(error, OverflowError):
        return too_large(error)
    if isinstance(error, yaml.YAMLError):
        where = getattr(error, "problem_mark", None)
        place = f"{where.name}, line {where.line + 1}: " if where else ""
        return f"{place}no YAML ({getattr(error, 'problem', None) or ' '.join(text.split())}); mend the file"
    if isinstance(error, OverrideParseException):
        reason = [line for line in text.splitlines() if not line.startswith(("Error parsing", "See "))]
        return (
            f"{error.override}: cannot be read ({'; '.join(reason)}); write key=value, quoted for the shell where it "
            "has [ or {; a value with other signs is quoted within as well: 'key=\"value\"'"
        )
    if isinstance(error, MissingConfigException) and error.options is not None:
        return _missing_choice(str(error.missing_cfg_file), error.options)
    if isinstance(error, OSError) and error.filename:  # Hydra makes a folder of its own before it starts a job
        return f"paths.runs: {error.filename} cannot be made ({error.strerror}); choose a folder that can"
    cause = error.__cause__ or error.__context__
    found = re.match(r"In '(.*)': ", text)
    if isinstance(cause, OmegaConfBaseException) and (found or isinstance(cause, ValidationError)):
        return (f"{found[1]}.yaml: " if found else "") + explained(cause)
    if there := re.match(r"Could not append to config. An item is already at '([^']*)'", text):
        return f"+{there[1]}: there is such a key; write {there[1]}=<value>, without the +"
    if unknown := re.match(r"Could not (?:override|append|delete).*? '([^']*)'", text):
        return _unknown_key(unknown[1])
    if several := re.match(r"Ambiguous value for argument '(.*)'", text):
        key, _, values = several[1].partition("=")
        return f"{key}: got several values; -m {key}={values} is a sweep, {key}=[{values}] a list"
    return " ".join(text.partition("Config search path:")[0].split())


def _missing_choice(file: str, options: Sequence[str]) -> str:
    group, _, choice = file.rpartition("/")
    if group == "hydra/launcher" and choice in LAUNCHERS:
        package, extra = LAUNCHERS[choice]
        return f"{group}={choice}: the package {package} is not installed; {install(extra)}"
    if not options:
        return f"{group}={choice}: no such choice, conf/{group} is empty"
    return f"{group}={choice}: no such choice, must be {one_of(options)}{nearest(choice, options)}"


def _unknown_key(key: str) -> str:
    if owners := [name for name, cls in METHODS.items() if key in {f"method.{f.name}" for f in fields(cls)}]:
        return f"{key}: no key of this method, only of method={', '.join(owners)}; leave it out, or the method"
    known = known_keys()
    if key in known:
        return f"{key}: not in this configuration; +{key}=<value> adds it, or choose the group that has it"
    hint = f"; {' '.join(program_name())} --help lists the keys"
    if whole := next((each for each in known if each.endswith(f".{key}")), None):  # without its group
        return f"{key}: no such key; did you mean {whole}?"
    return f"{key}: no such key{nearest(key, known) or hint}"


def known_keys() -> list[str]:
    """Every key there is, ``group`` and ``group.field``, of all methods."""
    keys = [f.name for f in fields(Options)]
    keys += [f"{group}.{f.name}" for group, cls in GROUPS.items() for f in fields(cls)]
    keys += sorted({f"method.{f.name}" for cls in METHODS.values() for f in fields(cls)})
    return [*keys, "experiment", "hydra.sweeper.max_pack", "hydra.sweeper.dry_run"]
