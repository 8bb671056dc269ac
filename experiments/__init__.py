"""Studies: one module each, a pure function from the runs that a manifest names to tables and figures (torch-free).

A study NAME consists of

* ``conf/experiment/NAME.yaml``: the sweep, so that ``python run.py experiment=NAME`` runs what is missing;
* ``experiments/NAME.py`` with ``STUDY = Definition("NAME", title, build)``, where ``build(study)`` takes a
  :class:`experiments.study.Study` (runs with their axes, their records, or why there is none) and returns
  :class:`experiments.artefacts.Table` and ``Figure`` objects: what to show, never how or where;
* its name in ``NAMES`` below.

``scripts/tables.py`` reads the manifests, calls ``build`` and renders: experiments/render.py (Markdown, LaTeX, CSV),
experiments/figures.py (PNG, SVG), experiments/report.py (HTML). ``build`` reads no clock and no file of its own, and
draws no random number without a fixed seed: the same records give the same bytes.
"""

from __future__ import annotations

import importlib

from experiments.study import Definition

NAMES = (
    "main_table",
    "rank_budget",
    "modules",
    "efficiency",
    "threshold",
    "penalty",
    "scheduler",
    "rank_map",
    "fidelity",
    "pruning_baselines",
    "learning_rate",
    "seeds",
    "sweep",
)


def find(name: str) -> Definition:
    """The study of that name; any other name is a sweep that somebody named, and is shown as the sweep it is."""
    definition = importlib.import_module(f"experiments.{name if name in NAMES else 'sweep'}").STUDY
    assert isinstance(definition, Definition)
    return definition
