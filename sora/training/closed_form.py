"""Training without steps: what a method solves at once from the frozen encoder's features of the training split."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from sora.training.evaluation import predict
from sora.training.pack import Pack, PackModel


def fit(pack: Pack, check: Callable[[], None] = lambda: None) -> float:
    """Let the pack's method solve what it trains, where it does not train by steps; returns the seconds it took.

    ``check`` is called before every batch, and may raise.
    """
    started = time.perf_counter()
    if pack.runs[0].method.TRAINS or not hasattr(pack.method, "solve"):
        return 0.0
    split = pack.splits["train"]
    pooling = PackModel(pack.model.backbone, pack.model.head.pool)  # type: ignore[arg-type]
    features = predict(replace(pack, model=pooling), split, check)[0]
    pack.method.solve(features, split.examples.labels)
    return time.perf_counter() - started
