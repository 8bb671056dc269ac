"""What the tuning of docs/study.md chooses, and which of its runs are still to be made.

Rates are a factor 2 apart, on the first seed. The grid is extended until its best rate has a neighbour on each side.
Where a neighbour is within half a point of it, the three are run on the second seed, and the mean of both decides.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pandas as pd

from experiments.study import Study, load
from sora.errors import UserError
from sora.runs.manifest import FOLDER

STUDIES = ("learning_rate", "rho")
FACTOR = 2.0  # between neighbouring rates
CLOSE = 0.5  # points
DIVERGED = "runs of every one of them diverged, so that none can be chosen; try smaller learning rates"
WIDEST = 8.0  # a grid is extended by no more than this
Scores = Mapping[tuple[float, int], float]  # value, seed -> points on the select split


def grids(results: Path) -> list[Study]:
    """The studies that choose something, learning_rate and rho. Raises UserError where a manifest cannot be used."""
    files = {path.stem for name in STUDIES for path in (results / FOLDER).glob(f"{name}-*.json")}
    if not files:
        return []
    loaded = load(results, by_manifest=True)
    studies = [study for study in loaded.studies if study.name in STUDIES]
    unread = files - {study.key for study in studies}
    if unread:  # a grid less would choose another rate
        reasons = "; ".join(problem for problem in loaded.problems if any(name in problem for name in unread))
        raise UserError(
            f"{', '.join(sorted(unread))}: cannot be used ({reasons}); restore the manifest, or take it away"
        )
    return studies


def scores_of(
    studies: Sequence[Study], name: str, axis: str, where: Mapping[str, object]
) -> dict[tuple[float, int], float]:
    """The scores of the finished runs of the studies called ``name``, by value on ``axis`` and seed.

    ``where``: column -> the value that is meant; a key that is no column is one of the manifest's fixed keys.
    """
    found: dict[tuple[float, int], float] = {}
    for study in studies:
        if study.name != name:
            continue
        runs = study.done
        for key, value in where.items():
            if key in runs:
                runs = runs[runs[key] == value]
            elif study.fixed.get(key) != str(value):
                runs = runs[:0]
        found |= scores(runs, axis)
    return found


def scores(runs: pd.DataFrame, axis: str) -> dict[tuple[float, int], float]:
    """The scores of finished runs; of one that diverged minus infinity."""
    select = runs["select"].fillna(-math.inf)
    return {(float(v), int(s)): float(p) for v, s, p in zip(runs[axis], runs["seed"], select, strict=True)}


def means(scores: Scores) -> dict[float, float]:
    """Value -> its mean over seeds, of the values with most seeds."""
    seeds = {value: [points for (own, _), points in scores.items() if own == value] for value, _ in scores}
    most = max(map(len, seeds.values()))
    return {value: fmean(points) for value, points in seeds.items() if len(points) == most}


def best(scores: Scores) -> float:
    """The value with the best mean; of equals the smallest, whatever the order in which they were run."""
    found = means(scores)
    return max(sorted(found), key=lambda value: found[value])


def at_the_edge(best: float, tried: Collection[float]) -> bool:
    """Whether a value beyond those that were tried may be better still."""
    return len(tried) > 1 and best in (min(tried), max(tried))


def wanted_rates(scores: Scores, start: Sequence[float], seeds: tuple[int, int]) -> list[tuple[float, int]]:
    """The (rate, seed) to run next; empty where the choice stands."""
    first, second = seeds
    if missing := [(rate, first) for rate in start if (rate, first) not in scores]:
        return missing
    top = best(scores)
    decided = (top, second) in scores
    low, high = min(start) / WIDEST, max(start) * WIDEST
    around = [rate for rate in (top / FACTOR, top * FACTOR) if low <= rate <= high]
    missing = [(rate, first) for rate in around if (rate, first) not in scores]
    if not missing and not decided:
        if not any(abs(scores[top, first] - scores[rate, first]) < CLOSE for rate in around):
            return []
        around = [top, *around]
        decided = True
    if decided:
        missing += [(rate, second) for rate in around if (rate, second) not in scores]
    return sorted(missing, key=lambda place: (place[1], place[0]))


def wanted_rhos(scores: Scores, grid: Sequence[float], seeds: tuple[int, int]) -> list[tuple[float, int]]:
    """The (rho, seed) to run next: the grid, and all of it on the second seed where two neighbours are close."""
    first, second = seeds
    if any((rho, first) not in scores for rho in grid):
        return [(rho, first) for rho in grid]
    close = any(abs(scores[a, first] - scores[b, first]) < CLOSE for a, b in pairwise(grid))
    if close and any((rho, second) not in scores for rho in grid):
        return [(rho, second) for rho in grid]
    return []


def best_and_small(scores: Scores) -> tuple[float, float]:
    """SoRA-best's rho, and SoRA-small's: the largest whose score is within half a point of the best.

    Raises UserError where no rho has a score.
    """
    found = means(scores)
    top = best(scores)
    if found[top] == -math.inf:
        raise UserError(f"rho of {', '.join(f'{rho:g}' for rho in sorted(found))}: {DIVERGED}")
    near = [rho for rho, mean in found.items() if found[top] - mean <= CLOSE or math.isclose(found[top] - mean, CLOSE)]
    return top, max(near)
