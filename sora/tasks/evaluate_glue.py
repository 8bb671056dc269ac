"""The task metrics as a module of the `evaluate` library, usable offline:

    from sora.tasks import evaluate_glue
    evaluate_glue.load("rte").compute(predictions=[0, 1, 1], references=[0, 1, 0])

or, with the path of this file, ``evaluate.load("sora/tasks/evaluate_glue.py", "rte")``. The name is that of any file
of conf/task; the numbers are those of ``sora.tasks.metrics``. Tasks over questions take ``groups`` [N] too (MultiRC,
AX-g's pairs), ReCoRD ``groups`` and ``credit``, with predictions that are 1 for the chosen candidates:
``sora.tasks.Examples`` says what these are. (`evaluate` copies this file elsewhere before it imports it, hence the
absolute imports.)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np

from sora.tasks.metrics import score
from sora.tasks.spec import load_task

DESCRIPTION = "Metrics of this harness's GLUE, SuperGLUE and synthetic tasks."
INPUTS = "predictions and references: class indices, or real scores for a regression task; both of length N."
CITATION = "Wang et al. (2019), GLUE, https://openreview.net/forum?id=rJ4km2R5t7"


def load(name: str) -> Any:
    """The metrics of the task ``name`` as an `evaluate.Metric`; needs no network.

    Raises UserError, which lists the tasks, where there is none of that name.
    """
    load_task(name)  # evaluate wraps what its modules raise
    return evaluate.load(str(Path(__file__).resolve()), name)


class TaskMetrics(evaluate.Metric):
    """``evaluate.load(<this file>, <task name>)``."""

    def _info(self) -> evaluate.MetricInfo:
        task = load_task(self.config_name)  # raises UserError, which lists the tasks
        value = datasets.Value("float64" if task.regression else "int64")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": value, "references": value}),
            format="numpy",
        )

    def _compute(self, predictions: Any, references: Any, groups: Any = None, credit: Any = None) -> dict[str, float]:
        more = {"groups": groups, "credit": credit}
        arrays = {key: np.asarray(value) for key, value in more.items() if value is not None}
        return score(load_task(self.config_name), predictions, references, **arrays)
