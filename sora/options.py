"""The dataclasses of sora/config.py as Hydra's structured configs: every key, its type and its default (torch-free).

conf/config.yaml starts from ``options``. So every group but two has its keys, whatever file is chosen, also one of the
user's own that gives only some. The two have theirs by a line in the file itself; without that line ``build_runs``
adds what is missing, and the command line needs a + for it (``defaults: [sora, _self_]`` builds on a file of conf/):

method   which keys there are depends on the method: ``defaults: [/method_options_<name>@_here_, _self_]``
task     ``defaults: [/task_options@_here_, _self_]``; a task of the user's own has no such line, as there a null stands
         for what is found in the files, and ``files`` is a text or a group, which OmegaConf has no type for
"""
# ruff: noqa: RUF009  (opt() returns a dataclass field, so no default is shared)

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from sora.coercion import opt
from sora.config import BackboneConfig, RunConfig, StudyConfig, TaskConfig
from sora.method_config import METHODS, MethodConfig


@dataclass
class Options(RunConfig):
    """The keys of a command: those of a run, and those that only a pack, a sweep or a cluster reads."""

    method: Any
    task: Any
    seed: Any = opt(0, "an integer, or a list such as [0,1,2]: trained together, as one pack")
    pack: Any = opt(None, "or an entry for each run: [{seed: 0, method.threshold: 1e-5}, {seed: 1}]")
    study: StudyConfig = field(default_factory=StudyConfig)
    cluster: Any = opt(None, "where the jobs of a sweep run")


GROUPS: dict[str, Any] = {  # those whose keys do not depend on their name, in the order of --help
    **{name: hint for name, hint in get_type_hints(Options).items() if is_dataclass(hint) and name != "backbone"},
    "backbone": BackboneConfig,
    "task": TaskConfig,
}


def register() -> None:
    """Make the options known to Hydra; every composition needs it."""
    store = ConfigStore.instance()
    # Hydra copies its sources for each look at a group, two hundred times for --help, and the store, of which there is
    # one in a process, with all its dataclasses. What is read from it is a copy of its own.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    store.store(name="options", node=Options, provider="sora")
    store.store(name="task_options", node=TaskConfig, provider="sora")
    for name, cls in METHODS.items():
        store.store(name=f"method_options_{name}", node=cls, provider="sora")


CHOICES = {  # group -> what is chosen with it, in the order of --help
    "method": "what is trained",
    "task": "the data; own: files of yours",
    "backbone": "the pretrained encoder; auto: any of transformers",
    "protocol": "which examples are trained on, selected on, reported on",
    "schedule": "levels of sparsity after the training",
    "fidelity": "of method=sora: the released code, the paper as printed, or one difference alone",
    "experiment": "a study; it sweeps by itself",
    "recipe": "published values, <backbone>/<method>/<task>, in use where there are any; none: without",
    "budget": "how long methods without a recipe train, <backbone>/<task>; none: without",
    "tracker": "where metrics are copied to",
    "cluster": "where the jobs of a sweep run",
}


def choices_described(options: Callable[[str], list[str]]) -> str:
    """The groups of ``--help``, with the ``options`` of each."""
    lines = []
    for group, meaning in CHOICES.items():
        names = [name for name in options(group) if name != "none" or group not in ("recipe", "budget")]
        lines += [f"  {group + '=':<12} {meaning}"]
        lines += textwrap.wrap(" ".join(names), 100, initial_indent=" " * 15, subsequent_indent=" " * 15)
    return "\n".join(lines)


def keys_described(config: DictConfig) -> str:
    """The keys of ``--help``: each with its value in ``config`` and its meaning, group by group."""
    values: Any = OmegaConf.to_container(config, resolve=False)
    chosen = METHODS.get(str((values["method"] or {}).get("name")), MethodConfig)
    lines = [*_lines(values, Options, "")]
    for name, cls in {"method": chosen, **GROUPS}.items():
        title = (cls.__doc__ or "").partition("\n")[0]
        lines += ["", f"{name}: {title}", *_lines(values[name] or {}, cls, f"{name}.")]
    return "\n".join(lines)


def _lines(values: dict[str, Any], cls: Any, above: str) -> Iterator[str]:
    for item in fields(cls):
        if meaning := item.metadata.get("meaning"):
            choices = item.metadata["rule"].get("choices")
            listed = f" ({' | '.join(each or 'empty' for each in choices)})" if choices else ""
            yield f"  {f'{above}{item.name}={_shown(values.get(item.name))}':<38} {meaning}{listed}"


def _shown(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 24 else f"{text[:21]}..."
