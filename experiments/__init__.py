"""Studies: one module a kind, a pure function from the runs that a manifest names to tables and figures (torch-free).

A study NAME consists of

* ``conf/experiment/NAME.yaml``: the sweep, so that ``python run.py experiment=NAME`` runs what is missing;
* ``experiments/NAME.py`` with ``TITLE`` and ``build(study)``, which takes a :class:`experiments.study.Study` (its runs
  as a DataFrame) and returns :class:`experiments.tables.Table` and ``Figure`` objects, or None for what it has not.
  Where the study is about generated tasks, random weights or partial data, ``ACCEPTS`` names the flags.

Studies of one kind share a module (``SHARED``), whose ``TITLE`` has a title for each. A name without a module is shown
as the sweep it is. ``scripts/tables.py`` reads the manifests, calls ``build`` and writes Markdown, LaTeX, CSV, PNG, SVG
and the report. ``build`` reads no clock and draws no random number without a fixed seed: the same records give the same
bytes.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.study import Study
    from experiments.tables import Artefact

SHARED = dict.fromkeys(("learning_rate", "rank_budget", "threshold", "penalty", "modules"), "settings")
SHARED |= {"pruning_baselines": "scheduler"}


@dataclass(frozen=True)
class Definition:
    """A kind of study: what it is called, how its runs become tables and figures, which flags do not keep runs out."""

    title: str
    make: Callable[[Study], list[Artefact | None]]
    accepts: frozenset[str] = frozenset()

    def build(self, study: Study) -> list[Artefact]:
        """The study's tables and figures; what shows ranks says where the loss could not hold them up."""
        words = importlib.import_module("experiments.conditions").caution(study.runs)
        found = [artefact for artefact in self.make(study) if artefact is not None]
        return [artefact.remarked(words) if words and artefact.ranks else artefact for artefact in found]


def find(name: str) -> Definition:
    """The study of that name; any other name is a sweep that somebody named."""
    home = SHARED.get(name, name)
    there = home.isidentifier() and importlib.util.find_spec(f"experiments.{home}") is not None
    module: Any = importlib.import_module(f"experiments.{home}") if there else None
    title = getattr(module, "TITLE", "")
    title = title.get(name, "") if isinstance(title, dict) else title
    if not (title and hasattr(module, "build")):
        module = importlib.import_module("experiments.sweep")
        title = module.TITLE
    return Definition(title, module.build, frozenset(getattr(module, "ACCEPTS", ())))
