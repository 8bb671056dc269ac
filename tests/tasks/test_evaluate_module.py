"""The `evaluate` module loads offline with an empty cache and gives the numbers of compute_metrics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sora.tasks import compute_metrics, load_task
from sora.tasks.metrics import predict

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("rte", "mrpc", "cola", "mnli", "stsb", "synthetic_graded", "multirc", "record")
SCRIPT = """
import json, sys
import evaluate
from sora.tasks import evaluate_glue
given = json.load(sys.stdin)
found = {}
for name, (predictions, references, more) in given.items():
    metric = evaluate_glue.load(name)
    found[name] = metric.compute(predictions=predictions, references=references, **more)
try:
    evaluate.load("sora/tasks/evaluate_glue.py", "rte").compute(predictions=[0, 1], references=[0, 1])
    evaluate_glue.load("rt")
except Exception as error:
    found["unknown"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def logits_and_labels(name: str) -> tuple[np.ndarray, np.ndarray]:
    task = load_task(name)
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(50, task.num_outputs))
    return logits, logits[:, 0] + rng.normal(size=50) if task.regression else rng.integers(0, task.num_outputs, 50)


def more_of(name: str) -> dict[str, np.ndarray]:
    """What the tasks over questions need beside the labels."""
    rng = np.random.default_rng(4)
    groups, credit = {"groups": np.arange(50) // 4}, {"credit": rng.random((50, 2))}
    return {"multirc": groups, "record": groups | credit}.get(name, {})


@pytest.mark.slow
def test_loads_offline_and_agrees(tmp_path: Path) -> None:
    # its libraries read these variables when they are imported, hence a process of its own
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"), "1")
    given = {}
    for name in NAMES:
        logits, labels = logits_and_labels(name)
        more = more_of(name)
        predictions = predict(load_task(name), logits, more.get("groups"))
        given[name] = [predictions.tolist(), labels.tolist(), {key: value.tolist() for key, value in more.items()}]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=kept | offline | {"HF_HOME": str(tmp_path)},
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in NAMES:
        assert found[name] == pytest.approx(compute_metrics(load_task(name), *logits_and_labels(name), **more_of(name)))
    assert found["unknown"].startswith("UserError: task 'rt' has no file in conf/task")
