"""The dataclasses of sora/config.py as Hydra's structured configs: every key, its type and its default (torch-free).

conf/config.yaml starts from ``options``. So every group but two has its keys, whatever file is chosen, also one of the
user's own that gives only some. The two have theirs by a line in the file itself; without that line ``build_runs``
adds what is missing, and the command line needs a + for it (``defaults: [sora, _self_]`` builds on a file of conf/):

method   which keys there are depends on the method: ``defaults: [/method_options_<name>@_here_, _self_]``
task     ``defaults: [/task_options@_here_, _self_]``; a task of the user's own has no such line, as there a null stands
         for what is found in the files, and ``files`` is a text, a list or a group, which OmegaConf has no type for
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from sora.config import METHODS, RunConfig, StudyConfig, TaskConfig


@dataclass
class Options(RunConfig):
    """The keys of a command: those of a run, and those that only a pack, a sweep or a cluster reads."""

    method: Any
    task: Any
    seed: Any = 0  # an integer, or a list such as [0,1,2]: these are trained together, as one pack
    pack: Any = None  # or one entry a replica: [{seed: 0, method.threshold: 1e-5}, {seed: 1, method.threshold: 5e-5}]
    study: StudyConfig = field(default_factory=StudyConfig)
    cluster: Any = None


def register() -> None:
    """Make the options known to Hydra; every composition needs it."""
    store = ConfigStore.instance()
    store.store(name="options", node=Options, provider="sora")
    store.store(name="task_options", node=TaskConfig, provider="sora")
    for name, cls in METHODS.items():
        store.store(name=f"method_options_{name}", node=cls, provider="sora")
