"""The command line: Hydra composes, ``build_runs`` checks, the runner trains; a mistake ends in one sentence.

Exit status: 0 done, 1 a bug (with its traceback), 2 a mistake of the user, 75 stopped by a signal with a
checkpoint written, 130 interrupted. In a sweep a job that ends in a mistake does not stop the others. Only the runner
imports torch: help and mistakes are quick.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from typing import Any

import yaml
from hydra import version
from hydra._internal.utils import _run_hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sora.cli import console
from sora.cli.arguments import DRY_RUN, parsed, quoted
from sora.cli.explain import MISUSE, explain
from sora.cluster.signals import Preempted
from sora.errors import UserError
from sora.files import CONF, expanded
from sora.options import choices_described, keys_described
from sora.runs.commands import program_name, published
from sora.runs.recipes import OWN, check_recipe, check_typed
from sora.runs.resolve import build_runs


def main() -> None:
    """Run ``sys.argv``; leaves through SystemExit with the exit status unless that is 0."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors; else it prints them and exits with 1
    version.setbase("1.3")
    register_resolvers()
    try:
        console.check_folders()
        sys.argv[1:] = quoted(sys.argv[1:])
        parser, arguments = parsed(sys.argv[1:])
    except UserError as error:
        _complain(str(error))
        sys.exit(2)
    typed = command(sys.argv[1:])  # not in the job: a launcher may run that in a process with other arguments
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
            if number is None:
                _check_single(config, cfg)
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
        _run_hydra(arguments, parser, job, str(CONF), "config")
    except UserError as error:
        mistakes += 1
        _complain(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        mistakes += 1
        _complain(explain(error))
    except (yaml.YAMLError, OverflowError, ValueError, OSError) as error:
        if in_job or (isinstance(error, ValueError) and not str(error).startswith(MISUSE)):
            raise
        mistakes += 1
        _complain(explain(error))
    except KeyboardInterrupt:
        _complain(f"interrupted; the same command {_goes_on()}")
        sys.exit(130)
    except Preempted as stop:
        _complain(f"{stop}; the same command {_goes_on()}")
        raise
    if mistakes:
        sys.exit(2)


def _check_single(config: Any, cfg: DictConfig) -> None:
    """Refuse what only a sweep would heed. Raises UserError."""
    if config.sweeper.get("dry_run"):
        raise UserError(f"{DRY_RUN} lists the jobs of a sweep; add -m, or set dry_run=true for one run's sizes")
    if f"hydra.mode={RunMode.RUN.name}" in sys.argv:
        return  # one job of a study, as it is listed or sent to Slurm, which has the study's words
    if (cluster := OmegaConf.select(cfg, "cluster.name", default="local")) != "local":
        raise UserError(f"cluster={cluster}: one run trains here; add -m, or name a study with experiment=")
    choices = config.runtime.choices
    check_typed(cfg, choices, _overrides())
    typed = [each.partition("=")[0] for each in _overrides()]
    unread = [key for key in OWN if key in typed and f"${{{key}}}" not in str(OmegaConf.to_container(cfg.task))]
    if unread:  # as in a job of a sweep over own and official tasks
        print(f"note: {unread[0]} has no effect, task={choices['task']} has files of its own", file=sys.stderr)


def entry() -> None:
    """The program: :func:`main`, in a process of its own."""
    console.outlive_reader()
    main()


def register_resolvers() -> None:
    """What the files of conf/ call: ``${join:...}``, ``${home:...}``, and for --help ``${choices:}``, ``${keys:}``."""
    OmegaConf.register_new_resolver("join", joined, replace=True)
    OmegaConf.register_new_resolver("home", _home, replace=True)
    OmegaConf.register_new_resolver("choices", _choices, replace=True)
    OmegaConf.register_new_resolver("keys", lambda _root_: keys_described(_root_).replace("$", "$$"), replace=True)


def joined(values: Any) -> str:
    """``${join:...}`` of a study's file: its values as an axis of the sweep; one alone needs no brackets."""
    return str(values) if isinstance(values, str | int) else ",".join(map(str, values))


def _home(folder: Any) -> str:
    if not str(folder).strip():
        raise UserError("paths.runs: empty, must be a folder")
    return expanded("paths.runs", str(folder))


def _choices() -> str:
    loader = GlobalHydra.instance().config_loader()
    return choices_described(loader.get_group_options)


def command(words: list[str]) -> str:
    """The command as it was typed, quoted for a shell, without absolute paths: records are published."""
    return published([*program_name(), *words])


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
