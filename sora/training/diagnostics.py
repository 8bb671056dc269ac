"""Diagnostics of a run with gates: its regime, its gates, and its ranks had there been no data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sora.methods.regime import regime
from sora.training.pack import Pack

GATE_BINS = tuple(2.0**k for k in range(-8, 3))  # edges of |g|, from 1/256 to 4


def regime_lines(pack: Pack, labels: Sequence[str]) -> list[str]:
    """Describe the regimes of runs with gates; warn where the initial draw will decide the ranks."""
    found = [regime(run, pack.timeline) for run in pack.runs]
    lines: dict[str, list[str]] = {}  # each once, with the runs it is about
    for each, label in zip(found, labels, strict=True):
        for line in (f"regime: {each}", f"warning: {each.warning()}" if each.warning() else "") if each else ():
            if line:
                lines.setdefault(line, []).append(label)
    return [line if len(about) == len(labels) else f"{line} ({', '.join(about)})" for line, about in lines.items()]


def rank_diagnostics(
    pack: Pack, replica: int, ranks_last: dict[str, int] | None, selected: int, updates: int
) -> dict[str, Any]:
    """Return ``regime``, ``no_data_ranks`` and ``ranks_last`` of a record, those that the method has.

    The method holds the selected weights, of step ``selected``; ``updates``: how many the run was changed by. Without
    ``ranks_last`` the last weights have no no-data ranks either.
    """
    found: dict[str, Any] = {}
    if expected := regime(pack.runs[replica], pack.timeline):
        found["regime"] = expected.numbers()
    if null := pack.method.no_data_ranks(replica, min(selected, updates)):
        live = sum(pack.method.summary(replica).ranks.values())
        same_total = pack.method.no_data_ranks(replica, 0, live)
        found["no_data_ranks"] = {"selected": null, "same_total": same_total}
        if ranks_last is not None:
            found["no_data_ranks"]["last"] = pack.method.no_data_ranks(replica, updates)
            found["ranks_last"] = ranks_last
    return found


def gate_array(pack: Pack, replica: int) -> dict[str, np.ndarray]:
    """Return ``gates`` float32 [M, r] of the present weights, for a method whose gates a threshold may zero."""
    gates = pack.gates()
    if gates is None:
        return {}
    matrices = len(pack.method.summary(replica).ranks)
    return {"gates": gates[replica].detach().cpu().numpy().astype(np.float32).reshape(matrices, -1)}


def gate_histogram(gates: Tensor) -> list[list[int]]:
    """Count the gates of each row of ``gates`` [R, G] by magnitude, [R][13].

    The first count is of gates that are exactly 0, the second of those below 1/256; each further one doubles its
    bounds, [1/256, 1/128) to [2, 4), and the last is of 4 and more.
    """
    edges = torch.tensor(GATE_BINS, dtype=gates.dtype, device=gates.device)
    bins = torch.bucketize(gates.detach().abs(), edges, right=True) + 1  # edges[i-1] <= |g| < edges[i]
    bins = torch.where(gates == 0, 0, bins)
    return [torch.bincount(row, minlength=len(GATE_BINS) + 2).tolist() for row in bins.cpu()]
