"""The `evaluate` module loads offline with an empty cache and gives the numbers of compute_metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sora.errors import UserError
from sora.tasks import compute_metrics, load_task
from sora.tasks.metrics import predict

NAMES = ("rte", "mnli", "stsb", "multirc", "record")


@pytest.mark.slow
def test_loads_offline_and_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate

    from sora.tasks import evaluate_glue

    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    for name in ("HF_MODULES_CACHE", "HF_METRICS_CACHE", "HF_EVALUATE_CACHE"):
        monkeypatch.setattr(f"evaluate.config.{name}", tmp_path / name)
    monkeypatch.syspath_prepend(tmp_path / "HF_MODULES_CACHE")
    rng = np.random.default_rng(3)
    for name in NAMES:
        task = load_task(name)
        logits = rng.normal(size=(50, task.num_outputs))
        labels = logits[:, 0] + rng.normal(size=50) if task.regression else rng.integers(0, task.num_outputs, 50)
        groups, credit = {"groups": np.arange(50) // 4}, {"credit": rng.random((50, 2))}
        more = {"multirc": groups, "record": groups | credit}.get(name, {})
        metric = evaluate_glue.load(name)
        found = metric.compute(predictions=predict(task, logits, more.get("groups")), references=labels, **more)
        assert found == pytest.approx(compute_metrics(task, logits, labels, **more))
    assert evaluate.load(evaluate_glue.__file__, "rte").compute(predictions=[0, 1], references=[0, 1])
    with pytest.raises(UserError, match="task 'rt' has no file in conf/task"):
        evaluate_glue.load("rt")
