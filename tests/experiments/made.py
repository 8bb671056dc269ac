"""Results folders made up for tests: records, arrays and manifests as runs and sweeps leave them, without training."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from sora.runs import manifest as studies
from sora.runs import records
from sora.tasks.metrics import compute_metrics
from sora.tasks.spec import load_task
from tests.composing import record as plain_record

GAIN = {"full": 0.9, "lora": 1.0, "adalora": 1.1, "sora": 1.2, "adapter": 0.8, "bitfit": 0.5}
known_task = cache(load_task)  # thousands of records are of a few tasks
MODULES = ("attention.self.query", "attention.self.key", "attention.self.value")
MODULES += ("attention.output.dense", "intermediate.dense", "output.dense")


def run_id(axes: Mapping[str, Any], salt: str = "") -> str:
    return sha256(repr((sorted(axes.items()), salt)).encode()).hexdigest()[:12]


def arrays(task_name: str, generator: np.random.Generator, items: int, gain: float) -> records.Arrays:
    """Logits that know the label to a degree; the items (labels, difficulty) are the same for every run."""
    task, found = known_task(task_name), {}
    for split in ("select", "report", *(["report_mm"] if task_name == "mnli" else [])):
        fixed = np.random.default_rng([len(split), items])
        classes = max(2, task.num_outputs)
        labels = fixed.integers(classes, size=items)
        hard = fixed.normal(size=items)
        if task.regression:
            target = fixed.uniform(0, 5, items).astype(np.float32)
            logits = (target + generator.normal(0, 2 / gain, items))[:, None].astype(np.float32)
            found |= {f"{split}_labels": target, f"{split}_logits": logits}
        else:
            noise = generator.normal(size=(items, classes))
            logits = noise + (gain + hard)[:, None] * (np.arange(classes) == labels[:, None])
            found |= {f"{split}_labels": labels, f"{split}_logits": logits.astype(np.float16)}
        found[f"{split}_ids"] = np.arange(items)
    return found


def scores(task_name: str, arrays: records.Arrays) -> dict[str, Any]:
    """The metrics of the arrays, by split."""
    task, splits = known_task(task_name), ("select", "report", "report_mm")
    return {
        split: compute_metrics(task, arrays[f"{split}_logits"], arrays[f"{split}_labels"])
        for split in splits
        if f"{split}_logits" in arrays
    }


def record(
    axes: Mapping[str, Any], evaluation: Mapping[str, Any], arrays_sha256: str, salt: str = "", **flags: Any
) -> dict[str, Any]:
    """A record of a run at ``axes`` with the metrics of ``evaluation``."""
    method, task_name, seed = axes.get("method", "sora"), axes.get("task", "rte"), int(axes.get("seed", 0))
    task, made = known_task(task_name), plain_record(run_id(axes, salt))
    config = made["config"]
    config |= {"seed": seed, "seeds": {"init": seed, "data": seed}, "head": "classifier+pooler", "precision": "fp32"}
    config["backbone"] = {"name": axes.get("backbone", "minilm-l6")}
    config["protocol"] |= {"name": axes.get("protocol", config["protocol"]["name"])}
    config["method"] = {"name": method, "r": 8, "threshold": 1e-4, "penalty": 0.1, "targets": None}
    config["task"] = {"name": task_name, "metrics": task.metrics, "select_metric": task.select_metric}
    config["trainer"] = {"learning_rate": 8e-4, "epochs": 20.0, "max_steps": 30, "batch_size": 8}
    config["weights"] = {"sha256": "1" * 64}
    for axis, value in axes.items():
        group, _, name = axis.partition(".")
        if name:
            config.setdefault(group, {})[name] = value
        elif not isinstance(config.get(group, {}), dict):
            config[group] = value
    made["metrics"] = {"selected": {"step": 20} | dict(evaluation), "last": {"step": 30} | _worse(evaluation)}
    generator = np.random.default_rng(seed)
    full = int(config["method"]["r"])
    fixed = {f"encoder.layer.{i}.{m}": (i + j) % (full + 1) for i in range(6) for j, m in enumerate(MODULES)}
    if method in ("sora", "adalora"):
        made["ranks"] = {name: max(0, rank - int(generator.integers(2))) for name, rank in fixed.items()}
    else:
        made["ranks"] = dict.fromkeys(fixed, full) if method == "lora" else {}
    live = {"full": 22_000_000, "bitfit": 50_000, "adapter": 350_000}.get(method, 768 * sum(made["ranks"].values()))
    made["params"] = {"trainable": live + 148_610, "live": live, "authors_formula": live + 1000, "head": 148_610}
    made["data"]["arrays_sha256"] = arrays_sha256
    made["flags"] |= flags
    if made["flags"]["diverged_at"] is not None:
        made["status"] = "diverged"
    return made


def _worse(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Nine tenths of every score: the last weights are others than the selected ones."""
    return {split: {name: 0.9 * value for name, value in found.items()} for split, found in evaluation.items()}


def entry(place: Mapping[str, Any], salt: str = "") -> dict[str, Any]:
    """The run of a manifest at ``place``."""
    method, task, seed = place.get("method", "sora"), place.get("task", "rte"), int(place.get("seed", 0))
    name = run_id(place, salt)
    return {
        "run_id": name,
        "axes": dict(place),
        "record": f"records/minilm-l6/{task}/{method}-s{seed}-{name}.json",
        "command": "python run.py " + " ".join(f"{key}={value}" for key, value in place.items()),
    }


def write_run(results: Path, axes: Mapping[str, Any], items: int = 60, salt: str = "", **flags: Any) -> Path:
    """Write one record with its arrays; returns its path."""
    task, path = axes.get("task", "rte"), results / entry(axes, salt)["record"]
    generator = np.random.default_rng(int(run_id(axes, salt), 16))
    content = arrays(task, generator, items, GAIN.get(axes.get("method", "sora"), 1.0))
    digest = records.arrays_digest(content)
    records.write(path, record(axes, scores(task, content), digest, salt, **flags), content)
    return path


def manifest(study: str, axes: Mapping[str, Sequence[Any]], fixed: Mapping[str, str] | None = None) -> studies.Manifest:
    """The manifest of a whole grid."""
    runs = [entry(dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
    return studies.make(study, axes, fixed or {"backbone": "minilm-l6", "trainer.max_steps": "30"}, runs)


def study(
    results: Path, name: str, axes: Mapping[str, Sequence[Any]], *, leave_out: int = 0, items: int = 60
) -> studies.Manifest:
    """A manifest and the records of all its runs but the last ``leave_out``."""
    made = manifest(name, axes)
    studies.write(results, made)
    for run in made["runs"][: len(made["runs"]) - leave_out]:
        write_run(results, run["axes"], items)
    return made


def change(results: Path, how: Callable[[dict[str, Any]], object], method: str = "") -> None:
    """Write the records (of ``method``) anew after ``how`` has changed them."""
    for path in sorted(results.rglob(f"records/**/{method}*.json")):
        record = records.read(path)
        how(record)
        records.write(path, record, records.read_arrays(path))


def many(results: Path, name: str, axes: Mapping[str, Sequence[Any]], items: int = 139) -> studies.Manifest:
    """As :func:`study` for thousands of runs: a task has four sets of arrays, which most runs share by links."""
    made = manifest(name, axes)
    studies.write(results, made)
    stock: dict[tuple[str, int], tuple[dict[str, Any], str, Path]] = {}
    for index, run in enumerate(made["runs"]):
        method, task = run["axes"].get("method", "sora"), run["axes"].get("task", "rte")
        kind = task, index % 4
        path = results / run["record"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind not in stock:
            content = arrays(task, np.random.default_rng(index), items, GAIN.get(method, 1.0))
            found, digest = scores(task, content), records.arrays_digest(content)
            records.write(path, record(run["axes"], found, digest), content)
            stock[kind] = found, digest, path.with_suffix(".npz")
            continue
        found, digest, file = stock[kind]
        path.with_suffix(".npz").hardlink_to(file)
        path.write_text(json.dumps(record(run["axes"], found, digest)), encoding="utf-8")
    return made
