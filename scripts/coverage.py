"""Measure how often the intervals of the tables cover the truth, by simulation (about two minutes on one core).

    python scripts/coverage.py                              print the table
    python scripts/coverage.py --write docs/statistics.md   put it between that file's two coverage marks

The difference of two methods on item j with seed i is drawn as a true gap plus independent normal effects of seed,
item and both. A regime says which share of the true variance of the mean difference each of the three has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.bootstrap import paired_bootstrap
from experiments.stats import t_interval
from scripts.readme import filled
from sora.cli.console import Parser, place_of, run
from sora.files import write_text

ITEMS = 139  # RTE's half
RESAMPLES = 1000
REPEATS = 2000
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"


@dataclass(frozen=True)
class Regime:
    """Shares of the true variance of the mean difference; they add up to 1."""

    name: str
    seeds: float
    items: float
    interaction: float


REGIMES = (
    Regime("seeds dominate", 0.98, 0.01, 0.01),
    Regime("seeds and items alike", 0.45, 0.45, 0.10),
    Regime("items dominate", 0.05, 0.90, 0.05),
    Regime("interaction dominates", 0.05, 0.05, 0.90),
)
SEEDS = (3, 5, 10)


def simulate(regime: Regime, seeds: int, repeats: int = REPEATS, seed: int = 0) -> tuple[float, float, float]:
    """Coverage of the 95 % bootstrap interval, of the 95 % t interval over seeds, and share of p below 0.05.

    The true difference is 0, so the last is the rate of false alarms.
    """
    rng = np.random.default_rng([seed, seeds])
    scale = [
        (regime.seeds * seeds) ** 0.5,
        (regime.items * ITEMS) ** 0.5,
        (regime.interaction * seeds * ITEMS) ** 0.5,
    ]
    nothing = np.zeros((seeds, ITEMS))
    boot = over_seeds = alarms = 0
    for repeat in range(repeats):
        d = nothing.copy()
        for size, shape in zip(scale, ((seeds, 1), (1, ITEMS), (seeds, ITEMS)), strict=True):
            d += rng.normal(0, size, shape)
        found = paired_bootstrap(d, nothing, resamples=RESAMPLES, seed=repeat)
        boot += found.interval.low <= 0 <= found.interval.high
        alarms += found.p < 0.05
        t = t_interval(d.mean(axis=1))
        over_seeds += t.low <= 0 <= t.high
    return boot / repeats, over_seeds / repeats, alarms / repeats


def table(repeats: int) -> str:
    """The Markdown table of all regimes and numbers of seeds."""
    lines = [
        "| regime | seeds, items, both | seeds | bootstrap covers | t over seeds covers | bootstrap p < .05 |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for regime in REGIMES:
        shares = ", ".join(f"{100 * share:.0f} %" for share in (regime.seeds, regime.items, regime.interaction))
        for seeds in SEEDS:
            boot, t, alarms = simulate(regime, seeds, repeats)
            lines.append(f"| {regime.name} | {shares} | {seeds} | {boot:.3f} | {t:.3f} | {alarms:.3f} |")
    lines += [
        "",
        f"{ITEMS} items, {repeats:,} simulated comparisons a line, {RESAMPLES:,} resamples each; nominal 0.950, 0.950 "
        f"and 0.050; two standard errors of a share are at most {2 * (0.25 / repeats) ** 0.5:.3f}.",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print or write the table; returns the exit status."""
    parser = Parser(
        prog="scripts/coverage.py", description="Simulate how often the intervals of the tables hold the truth."
    )
    parser.add_argument(
        "--repeats", type=int, default=REPEATS, help=f"simulated comparisons a line (default {REPEATS})"
    )
    parser.add_argument(
        "--write", type=place_of, metavar="FILE", help="put the table between the two coverage marks of this file"
    )
    options = parser.parse_args(arguments)
    text = table(options.repeats)
    if options.write is None:
        print(text)
        return 0
    write_text(options.write, filled(options.write.read_text(encoding="utf-8"), text, BEGIN, END))
    return 0


if __name__ == "__main__":
    run(main)
