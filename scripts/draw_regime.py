"""Draw docs/regime.png: where the threshold takes gates, and how far steps of at most the learning rate can move them.

    python scripts/draw_regime.py

Computed by the formulas of docs/regime.md; nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from experiments.figures import COLOURS, WIDTH, panels, render
from experiments.tables import Figure
from sora.cli.console import Parser, run
from sora.files import ROOT, write_bytes

PATH = ROOT / "docs" / "regime.png"
SETTINGS = {  # title -> ξ, peak learning rate, steps
    "rho 10: the initial draw decides": (4e-3, 4e-4, 200),
    "rho 0.15: the loss can decide": (1.5e-4, 1e-3, 1296),
}
STARTS = {1.0: (COLOURS[0], "-"), 0.5: (COLOURS[4], "--")}  # magnitude of a gate at first -> colour and dashes


def reach(start: float, xi: float, rate: float, steps: int) -> pd.DataFrame:
    """By step, the magnitude of a gate: under the threshold ``alone``, and the ``least`` and ``most`` it can have.

    The learning rate decays linearly from ``rate``. A gate at zero stays there.
    """
    step = np.arange(steps + 1)
    alone, travel = start - xi * step, rate * (step - step**2 / (2 * steps))
    found = pd.DataFrame({"alone": alone, "least": alone - travel, "most": alone + travel})
    return found.where((found > 0).cummin(), 0.0)


def draw(canvas: Canvas) -> None:
    """Fill the picture: a panel for each setting."""
    for axis, setting in zip(panels(canvas, list(SETTINGS), sharey=True), SETTINGS.values(), strict=True):
        for start, (colour, dashes) in STARTS.items():
            found = reach(start, *setting).round(6)
            axis.fill_between(found.index, found["least"], found["most"], color=colour, alpha=0.25, linewidth=0)
            label = f"starts at {start:g}, threshold alone"
            axis.plot(found.index, found["alone"], color=colour, linestyle=dashes, label=label)
        axis.set(xlabel="step", ylim=(0, 2), xlim=(0, setting[-1]))
        axis.legend(loc="upper right")
    canvas.axes[0].set_ylabel("magnitude of the gate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture; returns the exit status."""
    Parser(prog="scripts/draw_regime.py", description="Draw docs/regime.png.").parse_args(arguments)
    write_bytes(PATH, render(Figure("regime", "", "", draw, (WIDTH, 3.0)))[0])
    return 0


if __name__ == "__main__":
    run(main)
