"""The coverage that docs/statistics.md states, simulated anew with other random numbers and fewer repetitions."""

from __future__ import annotations

import re

import numpy as np
import pytest

from experiments.stats import t_interval
from tests.conftest import ROOT
from tests.experiments.test_bootstrap import paired_bootstrap

ROW = re.compile(r"^\| ([a-z ]+) \| (\d+) %, (\d+) %, (\d+) % \| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", re.M)
ITEMS, REPEATS = 139, 250  # items of RTE's half
STATED = {  # regime, seeds -> shares of the variance, and the three columns
    (row[0], int(row[4])): ([int(share) / 100 for share in row[1:4]], [float(value) for value in row[5:]])
    for row in ROW.findall((ROOT / "docs" / "statistics.md").read_text(encoding="utf-8"))
}


def simulated(shares: list[float], seeds: int) -> list[float]:
    """Coverage of the bootstrap's interval and of the t interval over seeds, and the share of p below 0.05.

    The difference of two methods on item j with seed i is 0 plus independent normal effects of seed, item and both,
    which have these ``shares`` of the true variance of the mean difference.
    """
    rng, shapes, found = np.random.default_rng([7, seeds]), ((seeds, 1), (1, ITEMS), (seeds, ITEMS)), []
    scales = [np.sqrt(share * np.prod(shape)) for share, shape in zip(shares, shapes, strict=True)]
    for repeat in range(REPEATS):
        seed, item, both = (rng.normal(0, scale, shape) for scale, shape in zip(scales, shapes, strict=True))
        d = seed + item + both
        over = paired_bootstrap(d, np.zeros((seeds, ITEMS)), resamples=1000, seed=repeat)
        t = t_interval(d.mean(axis=1))
        found.append((over.interval.low <= 0 <= over.interval.high, t.low <= 0 <= t.high, over.p < 0.05))
    return [float(share) for share in np.mean(found, axis=0)]


def test_every_row_of_the_page_has_the_cells_of_its_head() -> None:
    pages = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8").split("\n\n")
    tables = [page.splitlines() for page in pages if page.startswith("|")]
    assert len(tables) == 2
    assert all(len({line.count(" | ") for line in [rows[0], *rows[2:]]}) == 1 for rows in tables)


def test_every_regime_is_stated() -> None:
    assert len(STATED) == 4 * 3
    assert all(sum(shares) == pytest.approx(1) for shares, _ in STATED.values())


@pytest.mark.parametrize(
    ("regime", "seeds"),
    [("seeds dominate", 3), ("seeds dominate", 5), ("items dominate", 5), ("interaction dominates", 3)],
)
def test_the_stated_coverage_is_found_again(regime: str, seeds: int) -> None:
    shares, stated = STATED[regime, seeds]
    for mine, theirs in zip(simulated(shares, seeds), stated, strict=True):
        error = 2 * (max(theirs * (1 - theirs), 0.01) / REPEATS) ** 0.5
        assert mine == pytest.approx(theirs, abs=2 * error)  # four standard errors
