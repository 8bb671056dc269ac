"""Hydra's side of a sweep: it reads the multirun and hands jobs to the launcher; sora/runs/sweep.py forms the packs.

Hydra imports this module at every start, --help included, so whatever costs time is imported where it is needed.
"""
# No postponed annotations: Hydra runs this file before it is in sys.modules, where dataclasses would look them up.

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString, Transformer
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from sora.errors import UserError
from sora.options import register

if TYPE_CHECKING:
    from sora.runs.sweep import Axis, Fixed


WHOLE = ("experiment", "cluster", "tracker")  # groups of a sweep, not of a run
LISTS = ("study.tasks", "study.seeds", "cluster.gpus")
ALWAYS_AXES = ("method", "task", "seed")  # in a manifest, however few values they have: readers look there


@dataclass
class PackedSweeperConf:
    """``hydra.sweeper``."""

    _target_: str = "hydra_plugins.sora_packed.packed_sweeper.PackedSweeper"
    max_pack: int | None = None  # most runs of one pack; null = as many as the sweep has and memory holds
    dry_run: bool = False  # print the jobs, one command a line, instead of starting them
    params: dict[str, str] = field(default_factory=dict)  # what a study sweeps over; the command line wins


ConfigStore.instance().store(group="hydra/sweeper", name="packed", node=PackedSweeperConf, provider="sora_packed")
register()  # here, as Hydra imports its plugins before it composes anything, in a launcher's worker too


class PackedSweeper(Sweeper):
    """Reads the grammar of Hydra's basic sweeper; values that a method can pack become one job's ``pack=[...]``."""

    def __init__(self, max_pack: int | None, dry_run: bool, params: DictConfig | dict[str, str]) -> None:
        self.max_pack, self.dry_run = max_pack, dry_run
        self.params = {str(key): value for key, value in params.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.context, self.task_function, self.composed = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Plan the jobs of ``arguments``, write the study's manifest, and launch what is not finished.

        Raises:
            UserError: after the last job, when one of them did not finish.
        """
        from sora.runs.manifest import UNNAMED
        from sora.runs.recipes import check_idle
        from sora.runs.sweep import Planner

        if self.max_pack is not None and self.max_pack < 1:
            raise UserError(f"hydra.sweeper.max_pack: got {self.max_pack}, must be an integer >= 1 or null")
        check_idle(self.composed.hydra.runtime.choices, arguments)
        plan = Planner(self._slots(arguments), self._compose, self.max_pack).plan()
        for label, error in plan.mistakes:
            print(f"error: {label}: {error}", file=sys.stderr, flush=True)
        waiting = plan.unfinished()
        study = str(OmegaConf.select(self.composed, "study.name") or UNNAMED)
        manifest = plan.write_manifest(study, self._command)
        jobs = f"{len(waiting)} job{'' if len(waiting) == 1 else 's'} to do"
        print(f"study {study}: {plan.counts()}; {jobs}{manifest}", file=sys.stderr, flush=True)
        returns: Sequence[Any] = []
        if self.dry_run:
            from sora.runs.commands import program

            for job in waiting:
                print(f"{shlex.join([*program(), *self._words(job.overrides)])}  # {job.estimate()}", flush=True)
        elif waiting:
            launcher = Plugins.instance().instantiate_launcher(self.context, self.task_function, self.composed)
            returns = launcher.launch([job.overrides for job in waiting], initial_job_idx=0)
        left = plan.unfinished()  # what another process trained in the meantime is there
        failed = sum(
            (each.status == JobStatus.FAILED or isinstance(each.return_value, UserError)) and job in left
            for job, each in zip(waiting, returns, strict=False)
        )
        if failed or plan.mistakes:
            parts = [f"{failed} of {len(waiting)} jobs did not finish"] if failed else []
            parts += [f"{len(plan.mistakes)} could not be planned"] if plan.mistakes else []
            raise UserError(f"{' and '.join(parts)}, for the reasons above; the same command trains what is missing")
        return [returns]

    def _slots(self, arguments: Sequence[str]) -> "list[Axis | Fixed]":
        """The study's parameters and the arguments; of two with one key the later counts, in the place of the first."""
        for key, value in self.params.items():
            if value == "" and not any(each.startswith(f"{key}=") for each in arguments):
                raise UserError(f"{key}: the study sweeps over no value; give study.tasks=[...] and study.seeds=[...]")
        typed = [f"{key}={value}" for key, value in self.params.items()] + list(arguments)
        overrides = OverridesParser.create(config_loader=self.context.config_loader).parse_overrides(typed)
        return list({override.get_key_element(): self._slot(override) for override in overrides}.values())

    def _slot(self, override: Override) -> "Axis | Fixed":
        from sora.runs.sweep import Axis, Fixed, Value, decides

        key = override.key_or_group
        if override.is_sweep_override():
            # Else each would be swept over, and what is finished with its first value not be done with the second.
            of_runs = decides(key) or key == "pack" or key.startswith("data.")
            if key in WHOLE or key.startswith("hydra") or not of_runs:
                advice = f"write {key}=[...]" if key in LISTS else "give one value, and a command for each"
                raise UserError(f"{override.input_line}: one sweep has one {key}; {advice}")
            if not override.is_discrete_sweep():
                raise HydraException(f"{override.input_line}: only lists, ranges and globs can be swept over")
            # One pass for both forms: shuffle() has another order each time it is asked.
            pairs = [(str(Transformer.str(value)), _unquoted(value)) for value in override.sweep_iterator()]
        else:
            text = override.get_value_element_as_str() if override.value_type is not None else ""
            if "${" in text or (key not in self.params and key not in ALWAYS_AXES):
                return Fixed(key, text, str(override.input_line))
            pairs = [(text, override.value())]
        try:
            json.dumps([value for _, value in pairs], allow_nan=False)
        except ValueError as error:
            raise UserError(
                f"{override.input_line}: nan and inf are no values of a run; give finite numbers"
            ) from error
        return Axis(
            key,
            override.get_key_element(),
            tuple(Value(text, value) for text, value in pairs),
            group=bool(self.context.config_loader.get_group_options(key)),
        )

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        """What the launcher will compose for a job. Raises HydraException for a mistake in the overrides."""
        return self.context.config_loader.load_sweep_config(self.composed, list(overrides))

    def _command(self, overrides: Sequence[str]) -> list[str]:
        """The words of a plain command for one job, to be published."""
        from sora.runs.commands import program_name

        return [*program_name(), *self._words(overrides)]

    def _words(self, overrides: Sequence[str]) -> list[str]:
        """What follows the program in a plain command for one job: no sweep, and no launcher."""
        typed = [str(each) for each in self.composed.hydra.overrides.hydra]
        # A study's file asks for a multirun by itself: its jobs must not.
        mode = [] if f"hydra.mode={RunMode.MULTIRUN.name}" in typed else [f"hydra.mode={RunMode.RUN.name}"]
        words = [word for word in overrides if not word.lstrip("+").startswith(("cluster=", "cluster."))]
        return [*own_files(self.composed), *words, *mode]


def own_files(composed: DictConfig) -> list[str]:
    """The words of a command that say where a user's own configuration files lie, as they were typed for the sweep."""
    runtime = composed.hydra.runtime
    folders = [str(each.path) for each in runtime.config_sources if each.provider == "command-line"]
    flags = [word for folder in folders for word in ("--config-dir", folder.removeprefix("file://"))]
    typed = [str(each) for each in composed.hydra.overrides.hydra]
    return [*flags, *(each for each in typed if each.startswith("hydra.searchpath="))]


def _unquoted(value: Any) -> Any:
    """A value of Hydra's grammar as JSON: quoted strings, at any depth, are their text."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_unquoted(each) for each in value]
    if isinstance(value, dict):
        return {key: _unquoted(each) for key, each in value.items()}
    return value
