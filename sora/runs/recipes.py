"""Recipes and budgets (conf/recipe, conf/budget): which are in use, and what in a run nobody published (torch-free)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import yaml
from omegaconf import OmegaConf

from sora.coercion import coerce, nearest
from sora.config import MEASURING, BackboneConfig, RunConfig, ScheduleConfig, TrainerConfig
from sora.errors import UserError
from sora.files import CONF
from sora.method_config import METHODS
from sora.runs.resolve import resolved
from sora.runs.run_id import recorded_config

ALL = "*"
COMPARED = ("method", "trainer", "schedule")  # groups whose fields a recipe decides
OWN = ("data.files", "data.text", "data.label", "data.quoting")  # keys of a task that is given on the command line
SINGLE = ("backbone.dropout", "backbone.pooling", "backbone.tokenizer", "backbone.arch", "head", "precision")


def check_recipe(cfg: Any, choices: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuse a recipe or budget that was asked for and has no file: Hydra passes over it, as the groups are optional.

    Likewise epochs, typed or of a recipe from elsewhere, that a budget's steps would override, the method's rate where
    the trainer's is set, and a threshold next to rho.

    Args:
        cfg: the composed configuration, whose ``recipe`` and ``budget`` are set by their files.
        choices: Hydra's choice for every group.
        overrides: what the run was given.
    """
    own = {
        "budget": f"{choices['backbone']}/{choices['task']}",
        "recipe": f"{choices['backbone']}/{choices['method']}/{choices['task']}",
    }
    for group, default in own.items():
        wanted = choices.get(group)
        asked = any(each.startswith(f"{group}=") for each in overrides)
        if wanted in (None, "none", cfg[group]) or (wanted == default and not asked):
            continue
        files = (path.relative_to(CONF / group) for path in CONF.glob(f"{group}/**/*.yaml"))
        hint = nearest(wanted, [path.with_suffix("").as_posix() for path in files])
        raise UserError(f"{group}={wanted}: no such file in conf/{group}; {group}=none does without{hint}")
    typed = {each.partition("=")[0].lstrip("+~") for each in overrides}
    trainer, budget = cfg["trainer"], values_of("budget", str(cfg["budget"])).get("trainer", {})
    bounded = "max_steps" in budget and trainer.get("max_steps") is not None and "trainer.max_steps" not in typed
    if bounded and ("trainer.epochs" in typed or cfg["recipe"] not in ("", own["recipe"])):
        raise UserError(
            f"trainer.epochs={trainer['epochs']:g}: has no effect, given the trainer.max_steps={trainer['max_steps']} "
            f"of budget={cfg['budget']}; add trainer.max_steps=null or budget=none"
        )
    if "method.learning_rate" in typed and trainer.get("learning_rate") is not None:
        where = f" of recipe={cfg['recipe']}" if cfg["recipe"] and "trainer.learning_rate" not in typed else ""
        rate = f"trainer.learning_rate={trainer['learning_rate']:g}"
        raise UserError(
            f"method.learning_rate: has no effect, given the {rate}{where}; set trainer.learning_rate instead"
        )
    if {"method.threshold", "method.rho"} <= typed and (rho := cfg["method"].get("rho")) is not None:
        raise UserError(f"method.threshold: has no effect, given method.rho={rho}, which sets it; give one of the two")


IDLE = {  # keys -> the group without whose choice they do nothing, and what to add
    ("study.tasks", "study.seeds"): ("experiment", "name a study with experiment=, or give task= and seed="),
    ("tracker.project", "tracker.entity", "tracker.mode"): ("tracker", "add tracker=wandb"),
    ("schedule.",): ("schedule", "add schedule=sparsify or another"),
}


def check_idle(choices: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuse keys that nothing reads, as the group they belong to was not chosen. Raises UserError."""
    typed = [each.partition("=")[0].lstrip("+") for each in overrides]
    own = [key for key in typed if key in OWN]
    if own and "task" not in typed and choices.get("task") != "own":
        raise UserError(f"{own[0]}: is read by task=own, not by task={choices.get('task')}; add task=own")
    for starts, (group, advice) in IDLE.items():
        idle = [key for key in typed if key.startswith(starts) and key != "schedule.kind"]
        chosen = group in typed or choices.get(group) not in (None, "null", "none")
        if idle and not chosen and (group != "schedule" or not choices.get("experiment")):
            raise UserError(f"{idle[0]}: has no effect without {group}=; {advice}")


def check_typed(cfg: Any, choices: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuse what a command of one job sets without effect; arguments as of :func:`check_recipe`. Raises UserError."""
    check_idle(choices, overrides)
    check_untrained(choices, overrides)
    check_levels(OmegaConf.to_container(cfg["schedule"], resolve=True), overrides)


def check_levels(schedule: Any, overrides: Sequence[str]) -> None:
    """Refuse keys of a schedule that the others leave without effect, such as start next to levels. Raises UserError.

    ``schedule``: the composed group, as plain values.
    """
    laid = frozenset({"spacing", "start", "stop", "count"})  # read where no levels are given
    chosen = coerce(ScheduleConfig, schedule, "schedule")
    unread = chosen.unused() - (frozenset() if chosen.levels else laid)
    typed = [each.partition("=")[0].removeprefix("schedule.") for each in overrides if each.startswith("schedule.")]
    if chosen.kind == "none" or not (idle := [key for key in typed if key in unread]):
        return
    if idle[0] in laid:
        why = "schedule.levels are given; add schedule.levels=[] to lay them anew"
    else:
        why = "one_shot trains nothing after stage 0" if chosen.kind == "one_shot" else "schedule.steps is given"
    raise UserError(f"schedule.{idle[0]}: has no effect, as {why}")


def check_untrained(choices: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuse settings of a training where the method chosen has none. Raises UserError."""
    method = METHODS.get(str(choices.get("method")))
    if method is None or method.TRAINS:
        return
    measuring = {f"trainer.{name}" for name in MEASURING}
    for each in overrides:
        key = each.partition("=")[0].lstrip("+~")
        if (key.startswith(("trainer.", "schedule")) and key not in measuring) or (key == "head" and method.OWN_HEAD):
            raise UserError(f"{key}: method={choices['method']} takes no optimiser steps and no such key; leave it out")


def origin(run: RunConfig) -> dict[str, Any]:
    """``name`` and ``budget`` of the files in use, the keys they leave ``unpublished``, and those ``changed`` since.
    ``tuned``, where trials of ours chose values of the recipe: which.

    A key is changed when it decides the run's numbers and differs from the two files and, where they are silent, from
    its default. Without a recipe nothing is published for this method on this task: ``unpublished`` is ``["*"]``.
    """
    unpublished = run.unpublished if run.recipe else [ALL]
    return {
        "name": run.recipe,
        "budget": run.budget,
        "unpublished": sorted(unpublished),
        "changed": sorted(_changed(run, _as_written(run))),
        **({"tuned": run.tuned} if run.recipe and run.tuned else {}),
    }


def values_of(group: str, name: str) -> dict[str, Any]:
    """The content of ``conf/<group>/<name>.yaml``; {} where there is none, as for a file from elsewhere."""
    path = CONF / group / f"{name}.yaml"
    if not name or not path.is_file():
        return {}
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return dict(content or {})


def _as_written(run: RunConfig) -> RunConfig:
    """The run with nothing but what its files and the defaults say; it need not be one that could train."""
    files = (values_of("budget", run.budget), values_of("recipe", run.recipe))
    stated: dict[str, dict[str, Any]] = {group: {} for group in ("backbone", *COMPARED)}
    for content in files:
        for group, values in stated.items():
            values.update(content.get(group, {}))
    method = METHODS[run.method.name]
    backbone = {key: getattr(BackboneConfig, key) for key in ("dropout", "pooling", "tokenizer")}
    backbone |= stated["backbone"] | {"arch": _arch(run, stated["backbone"].get("arch", {}))}
    return resolved(
        dataclasses.replace(
            run,
            method=coerce(method, {"name": run.method.name} | stated["method"], "method"),
            trainer=coerce(TrainerConfig, stated["trainer"], "trainer"),
            schedule=coerce(ScheduleConfig, stated["schedule"], "schedule"),
            backbone=dataclasses.replace(run.backbone, **backbone),
            head=RunConfig.head,
            precision=RunConfig.precision,
        )
    )


def _arch(run: RunConfig, stated: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture as the backbone's file and the recipe's say; that of somebody's own file is taken as it is."""
    written = values_of("backbone", run.backbone.name)
    return {**written["arch"], **stated} if written.get("arch") else {**run.backbone.arch, **stated}


def _changed(run: RunConfig, written: RunConfig) -> list[str]:
    decisive = recorded_config(run, {})
    keys = [*SINGLE, *(f"{group}.{name}" for group in COMPARED for name in decisive[group])]
    return [key for key in keys if attrgetter(key)(run) != attrgetter(key)(written)]
