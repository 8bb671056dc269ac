"""The two notes on published numbers (results/published), computed anew from the numbers they are about."""

from __future__ import annotations

import math
import re
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
from scipy import stats

from experiments.labels import TASKS
from experiments.published import FOLDER, ranks, scores

HALF, WHOLE = {"RTE": 139, "MRPC": 204}, {"RTE": 277, "MRPC": 408}  # items


def printable(mean: float, sd: float, items: int, runs: int) -> set[str]:
    """By which SD so many accuracies on so many items can print as ``mean ± sd``: every combination is tried."""
    middle, reach = mean * items / 100, (sd + 0.01) * math.sqrt(runs) * items / 100 + 1
    right = range(max(0, math.floor(middle - reach)), min(items, math.ceil(middle + reach)) + 1)
    exact = 100 * np.array(list(combinations_with_replacement(right, runs))) / items
    found = set()
    for values in (exact, exact.round(2)):  # a log may have rounded what was averaged
        near = np.abs(values.mean(axis=1) - mean) <= 0.005 + 1e-9
        for name, less in (("population", 0), ("sample", 1)):
            if (near & (np.abs(values.std(axis=1, ddof=less) - sd) <= 0.005 + 1e-9)).any():
                found.add(name)
    return found


def test_cells_that_five_runs_on_the_half_cannot_print() -> None:
    text = (FOLDER / "anomalies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d \| (.*?) \| (RTE|MRPC) \| ([\d.]+) ± ([\d.]+) \| (.*?) \| (.*?) ?\|$", text, re.M)
    printed = (
        scores().query("source == 'sora' and metric == 'accuracy' and task in ('rte', 'mrpc')").dropna(subset="sd")
    )
    assert {(task, float(mean), float(sd)) for _, task, mean, sd, *_ in rows} == {
        (TASKS[task], mean, sd) for task, mean, sd in zip(printed["task"], printed["mean"], printed["sd"], strict=True)
    }
    for _, task, mean, sd, stated, other in rows:
        found = printable(float(mean), float(sd), HALF[task], 5)
        assert {name for name in ("population", "sample") if name in stated} == found, (task, mean)
        if other == "**nothing**":
            everything = [(HALF[task], runs) for runs in (2, 3, 4)] + [(WHOLE[task], runs) for runs in (2, 3, 4, 5)]
            assert not any(printable(float(mean), float(sd), *each) for each in everything)


def test_whether_the_maps_can_be_told_from_cutting_ranks_at_random() -> None:
    maps = {TASKS[task]: part.filter(like="layer_").to_numpy().ravel() for task, part in ranks().groupby("task")}
    text = (FOLDER / "dispersion.md").read_text(encoding="utf-8")
    tested = re.findall(r"^\| (\w+) \| ([\d.]+) % \| ([\d.]+) \| \.(\d+) \| (yes|\*\*no\*\*) \|$", text, re.M)
    assert {task for task, *_ in tested} == set(maps)
    for task, kept, ratio, p, differs in tested:
        values, share = maps[task], maps[task].mean() / 8
        expected = values.var(ddof=1) / (8 * share * (1 - share))
        chance = stats.chi2.sf(expected * 71, 71)
        assert (float(kept), float(ratio), float(f".{p}")) == pytest.approx((100 * share, expected, chance), abs=0.051)
        assert float(f".{p}") == pytest.approx(chance, abs=6e-4)
        assert (differs == "yes") == (chance < 0.05)
    pairs = re.findall(r"^\| (\w+), (\w+) \| (-?[\d.]+) \| (< )?\.(\d+) \|$", text, re.M)
    assert len(pairs) == len(list(combinations(maps, 2)))
    for one, other, correlation, _, p in pairs:
        found = stats.pearsonr(maps[one], maps[other])
        assert float(correlation) == pytest.approx(found.statistic, abs=0.0051)
        assert found.pvalue < float(f".{p}") + 6e-4
