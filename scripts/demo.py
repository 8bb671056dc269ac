"""Train SoRA and LoRA on a generated task, three seeds each as one pack a method, and compare them.

    make demo        or        python scripts/demo.py

Both trainings are the command anybody would type; what they leave is read back from their records. Everything lies
under runs/demo, and a second call only shows what is there. Where the processor is faster in bf16, the frozen encoder
multiplies in it.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.figures import heat_maps, render
from experiments.rank_map import grid, label
from experiments.stats import t_interval
from sora import runs as results
from sora.cli.console import run
from sora.runs import records
from sora.training.device import bf16_is_faster

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path("runs/demo")
TASK, SEEDS = "synthetic_graded", "[0,1,2]"
Record = dict[str, Any]


def command(method: str) -> list[str]:
    """What is typed to train three seeds of ``method``."""
    places = [f"paths.results={FOLDER / 'results'}", f"paths.runs={FOLDER / 'runs'}"]
    # The learning rates of the budget are for an update scaled by 2 / r.
    model = [
        "backbone=minilm-l6",
        "backbone.pooling=mean",
        "method.alpha=2",
        f"precision={'bf16' if bf16_is_faster() else 'fp32'}",
    ]
    return ["run.py", f"method={method}", f"task={TASK}", f"seed={SEEDS}", *model, *places]


def train(method: str) -> list[Path]:
    """Run the command and return the records it names; leaves with its status if it fails."""
    print(f"\n$ python {shlex.join(command(method))}", flush=True)
    done = subprocess.run([sys.executable, *command(method)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="")
    if done.returncode:
        sys.exit(done.returncode)
    return [Path(name) for name in re.findall(r"\S+\.json", done.stdout)]  # progress goes to standard error


def draw_ranks(found: list[Record], path: Path) -> None:
    """Mean live ranks over the seeds as a map: a row for each layer, a column for each matrix."""
    ranks = grid(results.ranks(found)).rename(columns=label)
    title = f"SoRA on {TASK}: mean over {len(found)} seeds"
    axes = "matrix (layer 0 is next to the embeddings)", "layer", "live ranks"
    limits = 0.0, float(found[0]["config"]["method"]["r"])
    figure = heat_maps((path.stem, title, ""), {title: ranks}, axes, "{:.1f}", limits)
    assert figure is not None, "all ranks are numbers"
    path.write_bytes(render(figure)[0])


def row(method: str, found: list[Record]) -> list[str]:
    """One line of the table: score in percent, live parameters, seconds of the pack."""
    scores = [100 * record["metrics"]["selected"]["report"]["pearson"] for record in found]
    interval = t_interval(scores)
    live = [record["params"]["live"] for record in found]
    ranks = [sum(record["ranks"].values()) for record in found]
    seconds = sum(found[0]["time"].values())
    return [
        method,
        f"{np.mean(scores):.1f}",
        f"{interval.low:.1f} to {interval.high:.1f}",
        " ".join(f"{score:.1f}" for score in scores),
        f"{np.mean(live):,.0f}",
        f"{np.mean(ranks):.0f} of {len(found[0]['ranks']) * found[0]['config']['method']['r']}",
        f"{seconds:.0f}",
    ]


def reading(found: list[Record]) -> str:
    """What may be read from the ranks of SoRA's runs: their regime, and how far the data chose them."""
    regime = found[0]["regime"]
    index, same = (
        float(np.mean([results.data_dependence(each["ranks"], each["no_data_ranks"][key])["index"] for each in found]))
        for key in ("selected", "same_total")
    )
    larger = "the draw still has" if same < 0.5 else "the data have"
    return (
        f"Data-dependence of the ranks: {index:.2f}; against the draw cut to as many ranks {same:.2f} (0: the initial "
        f"draw alone says where ranks stay, 1: it says nothing), at rho {regime['rho']:.2g} and travel "
        f"{regime['travel']:.2g}: in so short a training {larger} the larger say."
    )


def main() -> int:
    """Train both methods, then show table, picture and paths; returns the exit status."""
    argparse.ArgumentParser(prog="scripts/demo.py", description=__doc__.splitlines()[0]).parse_args()
    files = {method: train(method) for method in ("lora", "sora")}
    found = {method: [records.read(ROOT / path) for path in paths] for method, paths in files.items()}
    picture = FOLDER / "live_ranks.png"
    draw_ranks(found["sora"], ROOT / picture)

    reported = found["sora"][0]["data"]["sizes"]["report"]
    table = Table(title=f"{TASK}, minilm-l6: Pearson correlation x 100 on {reported} report examples")
    for name in ("method", "mean", "95 % t-interval", "seeds 0, 1, 2", "live parameters", "live ranks", "seconds"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for method, each in found.items():
        table.add_row(*row(method, each))
    console = Console() if sys.stdout.isatty() else Console(width=110)
    console.print()
    console.print(table)
    print(reading(found["sora"]))
    print("A generated task and three seeds: enough to see ranks die, too little to rank the methods.\n")
    for paths in files.values():
        for path in paths:
            adapter = FOLDER / "runs" / path.stem.rpartition("-")[2] / "adapter"
            print(f"record {path}\n  adapter {adapter}")
    print(f"\nlive ranks, layer by matrix: {picture}")
    return 0


if __name__ == "__main__":
    run(main)
