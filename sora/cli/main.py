"""The command line: Hydra composes, ``build_runs`` checks, the runner trains; a mistake ends in one sentence.

Exit status: 0 done, 1 a bug (with its traceback), 2 a mistake of the user, 75 stopped by TERM, USR1 or USR2 with a
checkpoint written, 130 interrupted. In a sweep a job that ends in a mistake does not stop the others. Only the runner
imports torch: help and mistakes are quick.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
from dataclasses import fields
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from sora.cli import arguments, console
from sora.cluster.signals import Preempted
from sora.coercion import explained, nearest, one_of, too_large
from sora.config import METHODS, RunConfig
from sora.errors import UserError
from sora.files import CONF, expanded
from sora.runs.commands import install, program_name, published
from sora.runs.recipes import OWN, check_recipe, check_study, check_untrained
from sora.runs.resolve import GROUPS, NOT_OF_A_RUN, build_runs

LAUNCHERS = {  # of Hydra, which a cluster= needs -> its package, and the extra of pyproject.toml
    "joblib": ("hydra-joblib-launcher", "joblib"),
    "submitit_slurm": ("hydra-submitit-launcher", "slurm"),
    "ray": ("hydra-ray-launcher", "ray"),
}
NO_GROUP = "Config group override must be"  # how Hydra's ValueError for schedule=null begins
DRY_RUN = "--dry-run"  # of a sweep: print its jobs, one command a line


def main() -> None:
    """Run ``sys.argv``; leaves through SystemExit with the exit status unless that is 0."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors; else it prints them and exits with 1
    register_resolvers()
    try:
        console.check_home()
        words = arguments.quoted(sys.argv[1:])
        typed = command(words)  # not in the job: a launcher may run that in a process with other arguments
        sys.argv[1:] = _ordered(words)
        if empty := next((each for each in words if each in ("paths.results=", "paths.runs=")), None):
            raise UserError(f"{empty} is empty; give a folder, or leave it out")  # before Hydra makes a folder of it
    except UserError as error:
        _complain(str(error))
        sys.exit(2)
    argv, mistakes, in_job = list(sys.argv), 0, False

    def job(cfg: DictConfig) -> UserError | None:
        nonlocal mistakes, in_job
        in_job = True
        sys.argv[:] = argv  # in a launcher's worker they are the worker's; status.json says how to go on
        config = HydraConfig.get()
        number = config.job.num if config.mode == RunMode.MULTIRUN else None
        overrides = shlex.join(_overrides())
        if number is not None:
            print(f"job {number}: {overrides}", file=sys.stderr, flush=True)
        try:
            if number is None and config.sweeper.get("dry_run"):
                raise UserError(f"{DRY_RUN} lists the jobs of a sweep; add -m, or set dry_run=true for one run's sizes")
            if number is None:
                _check_single(config.runtime.choices, cfg)
            check_recipe(cfg, config.runtime.choices, _overrides())
            runs = build_runs(cfg)
            from sora.training.runner import run_pack

            run_pack(runs, typed)
        except UserError as error:
            _complain(str(error) if number is None else f"job {number} ({overrides}): {error}")
            mistakes += number is None
            # The sweeper counts it, from whichever process. Its traceback would keep the job's model alive until then.
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)
        except Exception:
            if number is not None:  # Hydra keeps it until all jobs are done
                traceback.print_exc()
            raise
        finally:
            in_job = sys.exc_info()[0] is not None
        return None

    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    except UserError as error:
        mistakes += 1
        _complain(str(error))
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OverflowError) as error:
        if in_job and isinstance(error, yaml.YAMLError | OverflowError):
            raise
        mistakes += 1
        _complain(explain(error))
    except ValueError as error:
        if in_job or not str(error).startswith(NO_GROUP):
            raise
        mistakes += 1
        _complain(explain(error))
    except OSError as error:
        if in_job:
            raise
        # Hydra makes the folder of its own files before it starts a job.
        mistakes += 1
        _complain(f"paths.runs: {error.filename} cannot be made ({error.strerror}); choose a folder that can")
    except KeyboardInterrupt:
        _complain(f"interrupted; the same command {_goes_on()}")
        sys.exit(130)
    except Preempted as stop:
        _complain(f"{stop}; the same command {_goes_on()}")
        raise
    if mistakes:
        sys.exit(2)


def _check_single(choices: Any, cfg: DictConfig) -> None:
    """Refuse what only a sweep would heed. Raises UserError."""
    if f"hydra.mode={RunMode.RUN.name}" in sys.argv:
        return  # one job of a study, as it is listed or sent to Slurm, which has the study's words
    if (cluster := OmegaConf.select(cfg, "cluster.name", default="local")) != "local":
        raise UserError(f"cluster={cluster}: one run trains here; add -m, or name a study with experiment=")
    check_study(choices, _overrides())
    check_untrained(choices, _overrides())
    typed = [each.partition("=")[0] for each in _overrides()]
    unread = [key for key in OWN if key in typed and f"${{{key}}}" not in str(OmegaConf.to_container(cfg.task))]
    if unread:  # as in a job of a sweep over own and official tasks
        print(f"note: {unread[0]} has no effect, task={choices['task']} has files of its own", file=sys.stderr)


def entry() -> None:
    """The program: :func:`main`, in a process of its own."""
    console.outlive_reader()
    main()


def register_resolvers() -> None:
    """What the files of conf/ call: ``${join:...}`` and ``${home:...}``."""
    OmegaConf.register_new_resolver("join", joined, replace=True)
    OmegaConf.register_new_resolver("home", lambda folder: expanded("paths.runs", str(folder)), replace=True)


def joined(values: Any) -> str:
    """``${join:...}`` of a study's file: its values as an axis of the sweep; one alone needs no brackets."""
    return str(values) if isinstance(values, str | int) else ",".join(map(str, values))


def command(words: list[str]) -> str:
    """The command as it was typed, quoted for a shell, without absolute paths: records are published."""
    return published([*program_name(), *words])


def _ordered(words: list[str]) -> list[str]:
    """The words as Hydra takes them: it knows no --dry-run, and refuses a flag between two overrides."""
    dry_run = ["hydra.sweeper.dry_run=true"] if DRY_RUN in words else []
    return arguments.arranged([each for each in words if each != DRY_RUN] + dry_run)


def explain(error: Exception) -> str:
    """One sentence for an error of Hydra or OmegaConf, with the nearest key or choice."""
    text = str(error).strip()
    if text.startswith(NO_GROUP):
        return (
            "a group (schedule=, recipe=, task=, ...) was given null, a number or a list; it takes the name of a choice"
        )
    if isinstance(error, yaml.YAMLError):
        where = getattr(error, "problem_mark", None)
        place = f"{where.name}, line {where.line + 1}: " if where else ""
        return f"{place}no YAML ({getattr(error, 'problem', None) or ' '.join(text.split())}); mend the file"
    if isinstance(error, OverrideParseException):
        reason = [line for line in text.splitlines() if not line.startswith(("Error parsing", "See "))]
        why = "; ".join(reason)
        return (
            f"{error.override}: cannot be read ({why}); write key=value, quoted for the shell where it has [ or {{; "
            "a value with other signs is quoted within as well: 'key=\"value\"'"
        )
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        if group == "hydra/launcher" and choice in LAUNCHERS:
            package, extra = LAUNCHERS[choice]
            return f"{group}={choice}: the package {package} is not installed; {install(extra)}"
        if not error.options:
            return f"{group}={choice}: no such choice, conf/{group} is empty"
        hint = nearest(choice, error.options)
        return f"{group}={choice}: no such choice, must be {one_of(error.options)}{hint}"
    cause = error.__cause__ or error.__context__
    found = re.match(r"In '(.*)': ", text)
    if isinstance(cause, OmegaConfBaseException) and (found or isinstance(cause, ValidationError)):
        return (f"{found[1]}.yaml: " if found else "") + explained(cause)
    if isinstance(error, OverflowError):
        return too_large(error)
    if text.startswith("Error merging override ~"):
        key = text.partition("~")[2].partition("=")[0]
        return f"~{key}: a key with a type cannot be taken away; write {key}=<value>, such as {key}=null"
    if there := re.match(r"Could not append to config. An item is already at '([^']*)'", text):
        return f"+{there[1]}=: there is such a key; write {there[1]}=<value>, without the +"
    if unknown := re.match(r"Could not (?:override|append|delete).*? '([^']*)'", text):
        key = unknown[1]
        if owners := [name for name, cls in METHODS.items() if key in {f"method.{f.name}" for f in fields(cls)}]:
            return f"{key}: no key of this method, only of method={', '.join(owners)}; leave it out, or the method"
        if key.startswith("hydra.launcher."):
            has = "choose the cluster= whose launcher has it, such as cluster=slurm"
            return f"{key}: no key of this launcher; {has}, or hand it on all the same by +{key}=<value>"
        if key == "cluster.wait":
            return f"{key}: no key of this cluster; only cluster=slurm has it"
        if key in known_keys():
            return f"{key}: not in this configuration; +{key}=<value> adds it, or choose the group that has it"
        hint = f"; {' '.join(program_name())} --help lists the keys"
        return f"{key}: no such key{nearest(key, known_keys()) or hint}"
    if added := re.match(r"(?:Multiple values for )?(\S+?)(?:\. To override| appears more than once)", text):
        return f"+{added[1]}=: the configuration has a choice of it already; write {added[1]}=<choice>, without the +"
    if several := re.match(r"Ambiguous value for argument '(.*)'", text):
        key, _, values = several[1].partition("=")
        return f"{key}: got several values; -m {key}={values} is a sweep, {key}=[{values}] a list"
    return " ".join(text.partition("Config search path:")[0].split())


def known_keys() -> list[str]:
    """Every key there is, ``group`` and ``group.field``, of all methods."""
    groups = {name: {f.name for f in fields(cls)} for name, cls in GROUPS.items()}
    groups["method"] = {f.name for cls in METHODS.values() for f in fields(cls)}
    top = [f.name for f in fields(RunConfig)]
    sweeper = [f"hydra.sweeper.{name}" for name in ("max_pack", "dry_run")]
    return [*top, *NOT_OF_A_RUN, *sweeper, *(f"{group}.{name}" for group in groups for name in sorted(groups[group]))]


def _overrides() -> list[str]:
    """What this job was given, as it was typed: a ${...} in it means nothing in this place."""
    overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return [str(each) for each in overrides]


def _goes_on() -> str:
    """What the same command would do after a stop."""
    if "resume=never" in sys.argv:
        return "starts anew, as resume=never has it; without that word it continues from the newest checkpoint"
    return "continues from the newest checkpoint"


def _complain(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr, flush=True)
