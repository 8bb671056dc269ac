"""Draw the pictures of docs/: idea (gate, proximal step, dead ranks cut out) and regime (where a gate can get to).

    python scripts/draw_docs.py

Gates are numbers chosen for the drawing; curves are those of sora.optim and docs/regime.md. Nothing was trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch

from sora.methods.proximal import PROX

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

ROOT = Path(__file__).resolve().parents[1]
GATES = np.array([1.3, 0.16, -0.9, 0.07, 0.75, -0.19, 1.05, 0.12])
XI = 0.1  # threshold of one step
BLUE, ORANGE, GREY = (
    "#0072B2",
    "#E69F00",
    "#B0B0B0",
)  # Okabe and Ito: safe for colour-blind readers
STYLE: dict[Any, Any] = {
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
        style: dict[str, Any] = {"facecolor": BLUE, "edgecolor": "white"}
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


def reach(axes: Axes, title: str, xi: float, rate: float, steps: int) -> None:
    """Draw where gates of 0.5 and 1 can be after each step: threshold alone, and with AdamW's largest steps."""
    step = np.arange(steps + 1)
    travel = rate * (step - step**2 / (2 * steps))  # linear decay
    for start, colour, style in ((1.0, BLUE, "-"), (0.5, ORANGE, "--")):
        alone = np.maximum(start - xi * step, 0)
        best = np.maximum(start - xi * step + travel, 0)
        worst = np.maximum(start - xi * step - travel, 0)
        axes.fill_between(step, worst, best, color=colour, alpha=0.25, linewidth=0)
        label = f"starts at {start:g}, threshold alone"
        axes.plot(step, alone, color=colour, linestyle=style, linewidth=2, label=label)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set(xlabel="step", ylabel="magnitude of the gate", ylim=(0, 2), xlim=(0, steps))
    axes.legend(frameon=False, loc="upper right", fontsize=9)


def save(figure: Figure, name: str) -> None:
    """Write docs/<name>.svg and .png, with the same bytes each time."""
    figure.savefig(ROOT / "docs" / f"{name}.svg", metadata={"Date": None})
    figure.savefig(ROOT / "docs" / f"{name}.png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    """Draw all of them."""
    argparse.ArgumentParser(prog="scripts/draw_docs.py", description="Draw the pictures of docs/.").parse_args()
    gates = torch.tensor(GATES)
    shrunk = PROX["authors"](gates, XI).numpy()
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.1), layout="constrained", width_ratios=(1.25, 1, 1.25))
        note = "B diag(g) A: eight ranks, eight gates g.\nB, g and A train."
        factors(axes[0], gates.numpy(), "1  A gate for each rank", note)
        operator(axes[1])
        note = f"{np.count_nonzero(shrunk)} of {len(shrunk)} gates are not zero. Hatched columns and rows\n"
        factors(axes[2], shrunk, "3  Cut out dead ranks", note + "are cut out; what is left is an ordinary LoRA.")
        save(figure, "idea")
        figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained", sharey=True)
        reach(axes[0], "rho 10: the initial draw decides", 4e-3, 4e-4, 200)
        reach(axes[1], "rho 0.15: the loss can decide", 1.5e-4, 1e-3, 1296)
        save(figure, "regime")


if __name__ == "__main__":
    main()
