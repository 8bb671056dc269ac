"""Draw docs/idea.svg and docs/idea.png: a gate per rank, the proximal step, and what is left of the matrix.

    python scripts/figure_idea.py

The gates are eight numbers chosen for the drawing; the curves are those of sora.optim. Nothing here was trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch

from sora.optim import PROX

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

ROOT = Path(__file__).resolve().parents[1]
GATES = np.array([1.3, 0.16, -0.9, 0.07, 0.75, -0.19, 1.05, 0.12])
XI = 0.1  # threshold of one step
BLUE, ORANGE, GREY = (
    "#0072B2",
    "#E69F00",
    "#B0B0B0",
)  # of Okabe and Ito's palette, which colour-blind readers tell apart
STYLE = {
    "font.size": 10,
    "svg.hashsalt": "idea",
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def factors(axes: Axes, gates: np.ndarray, title: str, note: str) -> None:
    """Draw W + B diag(g) A: a column of B, a bar and a row of A for each gate; those of zero gates pale and hatched."""
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set(xlim=(-0.2, 26.2), ylim=(-2.6, 11), aspect="equal")
    axes.axis("off")
    axes.add_patch(Rectangle((0, 1), 8, 8, facecolor="#E8E8E8", edgecolor="black"))
    axes.text(4, 5, "W\nfrozen", ha="center", va="center")
    axes.text(9, 5, "+", ha="center", va="center", fontsize=14)
    left, middle = 10.0, 10.0 + len(gates) * 0.7 + 1.2
    for number, gate in enumerate(gates):
        style = {"facecolor": BLUE, "edgecolor": "white"}
        if gate == 0:
            style = {"facecolor": "white", "edgecolor": GREY, "hatch": "////"}
        axes.add_patch(Rectangle((left + 0.7 * number, 1), 0.7, 8, **style))
        axes.add_patch(Rectangle((middle + 2.2, 9 - 0.7 * (number + 1)), 6, 0.7, **style))
        height = 9 - 0.7 * (number + 0.5)
        axes.plot(
            [middle + 0.8, middle + 0.8 + 0.8 * gate], [height] * 2, color=ORANGE, linewidth=4, solid_capstyle="butt"
        )
    axes.plot([middle + 0.8] * 2, [9 - 0.7 * len(gates), 9], color="black", linewidth=0.8)
    axes.text(left + 0.35 * len(gates), 9.4, "B", ha="center")
    axes.text(middle + 0.8, 9.4, "g", ha="center")
    axes.text(middle + 2.2 + 3, 9.4, "A", ha="center")
    axes.text(0, -0.4, note, va="top")


def operator(axes: Axes) -> None:
    """Draw what the proximal step makes of a gate, by either reading."""
    axes.set_title("2  After each step, shrink", loc="left", fontweight="bold")
    values = torch.linspace(-4 * XI, 4 * XI, 2001)
    axes.plot(values, values, color=GREY, linewidth=1, label="unchanged")
    axes.plot(values, PROX["soft"](values, XI), color=BLUE, linewidth=2, linestyle="--", label="as printed")
    shown = PROX["authors"](values, XI)
    jumps = torch.nonzero((shown[1:] - shown[:-1]).abs() > XI / 2).flatten() + 1
    shown[jumps] = torch.nan
    axes.plot(values, shown, color=ORANGE, linewidth=2, label="released code")
    ticks = [-2 * XI, -XI, 0, XI, 2 * XI]
    axes.set_xticks(ticks, ["−2ξ", "−ξ", "0", "ξ", "2ξ"])
    axes.set_yticks(ticks, ["−2ξ", "−ξ", "0", "ξ", "2ξ"])
    axes.set_xlabel("gate after AdamW")
    axes.set_ylabel("gate after the proximal step")
    axes.legend(frameon=False, loc="upper left", fontsize=9)


def main() -> None:
    """Draw both files."""
    argparse.ArgumentParser(
        prog="scripts/figure_idea.py", description="Draw docs/idea.svg and docs/idea.png."
    ).parse_args()
    gates = torch.tensor(GATES)
    shrunk = PROX["authors"](gates, XI).numpy()
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.1), layout="constrained", width_ratios=(1.25, 1, 1.25))
        factors(
            axes[0],
            gates.numpy(),
            "1  A gate for each rank",
            "B diag(g) A: eight ranks, eight gates g.\nB, g and A train.",
        )
        operator(axes[1])
        left = f"{np.count_nonzero(shrunk)} of {len(shrunk)}"
        factors(
            axes[2],
            shrunk,
            "3  Cut out dead ranks",
            f"{left} gates are not zero. Hatched columns and rows\nare cut out; what is left is an ordinary LoRA.",
        )
        for suffix, more in (
            ("svg", {"metadata": {"Date": None}}),
            ("png", {"dpi": 110, "metadata": {"Software": None}}),
        ):
            figure.savefig(ROOT / "docs" / f"idea.{suffix}", **more)
        plt.close(figure)


if __name__ == "__main__":
    main()
