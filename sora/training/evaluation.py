"""Predictions of every replica on a split, and the metrics of the task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch

from sora.runs.estimate import EVALUATION_BATCH
from sora.tasks import Examples, TaskConfig, compute_metrics
from sora.tasks.metrics import predict as decide
from sora.training.pack import EncodedSplit, Pack

EVALUATED = ("select", "report", "report_mm", "train_subset")  # splits of a full evaluation, where they exist
Logits = dict[str, np.ndarray]  # split -> [R, N, C]
BATCH = EVALUATION_BATCH  # the same for every pack size, so that a replica's padding is its solo run's


@torch.no_grad()
def predict(pack: Pack, split: EncodedSplit, check: Callable[[], None] = lambda: None) -> np.ndarray:
    """Compute the logits [R, N, C] in the order of the split. The model is left in training mode.

    ``check`` is called before every batch, and may raise.
    """
    model, replicas = pack.model, pack.replicas
    model.eval()
    pack.model.backbone.dropout.end()
    order = np.argsort(split.tokens.lengths, kind="stable")
    logits: np.ndarray | None = None
    for start in range(0, len(order), BATCH):
        check()
        rows = order[start : start + BATCH]
        batch, _ = split.batch(np.tile(rows, replicas), pack.device)
        out = model(batch).view(replicas, len(rows), -1).cpu().numpy()
        if logits is None:
            logits = np.zeros((replicas, len(order), out.shape[-1]), dtype=out.dtype)
        logits[:, rows] = out
    model.train()
    assert logits is not None, "an empty split cannot be evaluated"
    return logits


def score(pack: Pack, split: EncodedSplit, logits: np.ndarray) -> list[dict[str, float]]:
    """Compute the task's metrics of each replica."""
    return [compute_metrics(pack.runs[0].task, each, **split.examples.gold) for each in logits]


def predicts_one_class(task: TaskConfig, logits: np.ndarray, examples: Examples) -> bool:
    """Return whether all examples of [N, C] get the same answer; for a regression, the same value to 1e-4."""
    if task.regression:
        return bool(np.ptp(logits) < 1e-4)
    return len(np.unique(decide(task, logits, examples.groups))) == 1


def evaluate(
    pack: Pack,
    check: Callable[[], None] = lambda: None,
    names: Collection[str] = EVALUATED,
    known: Mapping[str, np.ndarray] | None = None,
) -> tuple[list[dict[str, dict[str, float]]], Logits]:
    """Evaluate the present weights: each replica's metrics by split, and the logits [R, N, C] by split.

    ``names`` limits the splits. ``known`` holds logits that these very weights have given before: they are not computed
    again, nor are those of a second split with the same examples (select and report of protocol=dev). ``check`` is
    called before every batch, and may raise.
    """
    metrics: list[dict[str, dict[str, float]]] = [{} for _ in pack.runs]
    logits: Logits = {}
    for name in (each for each in EVALUATED if each in names and each in pack.splits):
        split = pack.splits[name]
        same = next((each for each in logits if pack.splits[each].examples is split.examples), None)
        if known is not None and name in known:
            logits[name] = known[name]
        else:
            logits[name] = predict(pack, split, check) if same is None else logits[same]
        for mine, scores in zip(metrics, score(pack, split, logits[name]), strict=True):
            mine[name] = scores
    return metrics, logits
