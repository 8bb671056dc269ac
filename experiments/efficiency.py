"""The paper's Table 4: seconds per epoch, from runs that were trained alone."""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments.labels import METHODS, in_words
from experiments.published import NAMES, seconds_per_epoch
from experiments.scores import by_seed, choice, chosen, paired
from experiments.stats import sd
from experiments.study import Study
from experiments.tables import Artefact, Table, counts, size

TITLE = "Efficiency: seconds per epoch (Table 4)"
PAIR = ("adalora", "sora")  # what the paper compares
PAPER = NAMES["sora"]


def build(study: Study) -> list[Artefact | None]:
    """Seconds per epoch, next to the paper's, and what else was measured."""
    runs = timed(study)
    done, notes = runs[runs["done"]], []
    if packed := int((done["pack.size"] > 1).sum()):
        notes.append(f"{packed} runs were trained in a pack; their times are their pack's and are left out here.")
    if diverged := int(done["diverged"].sum()):
        notes.append(f"{diverged} runs diverged and trained no further; their times are left out here.")
    threads = done["provenance.threads"].map(lambda n: f"{n:.0f} CPU {'thread' if n == 1 else 'threads'}")
    devices = sorted(set(done["provenance.device"] + ", " + threads)) if len(done) else []
    if len(devices) > 1:
        notes.append("The runs were not all made on one device, so times of different cells cannot be compared.")
    words = " ".join(filter(None, (f"Measured on: {'; '.join(devices)}." if devices else "", choice(runs))))
    return [_seconds(runs, words, notes), _costs(runs, words, notes)]


def timed(study: Study) -> pd.DataFrame:
    """The runs of each method on each task, with ``seconds`` of training per pass over the training examples.

    NaN where the time is not that of one whole run: a pack's is not, nor that of a run that diverged.
    """
    runs = chosen(study, "method")
    alone = runs["done"] & (runs["pack.size"] == 1) & ~runs["diverged"] & (pd.to_numeric(runs["epochs"]) > 0)
    seconds = pd.to_numeric(runs["time.train_s"]) / pd.to_numeric(runs["epochs"]).where(alone)
    return runs.assign(seconds=seconds, alone=alone)


def slower(a: pd.DataFrame, b: pd.DataFrame) -> pd.Series:
    """Percent of time that an epoch of ``a`` takes more than one of ``b``, for each seed that both have whole."""
    pairs = paired(by_seed(a), by_seed(b), ["seconds"]).dropna()
    return 100 * (pairs["seconds"] / pairs["seconds_b"] - 1)


def _seconds(runs: pd.DataFrame, words: str, notes: list[str]) -> Table:
    methods = list(runs["method"].unique())
    rows = []
    for task, part in runs.groupby("task", sort=False):
        row: dict[str, object] = {"task": in_words(str(task))}
        for method in methods:
            seconds, name = part.loc[part["method"] == method, "seconds"], METHODS.get(method, method)
            row |= {name: seconds.mean(), f"{name} sd": sd(seconds)}
        if set(PAIR) <= set(methods):
            row["SoRA to AdaLoRA"] = slower(*(part[part["method"] == method] for method in reversed(PAIR))).mean()
        theirs = [seconds_per_epoch().get((task, method), np.nan) for method in PAIR]
        row |= {f"{PAPER}, {METHODS[method]}": each for method, each in zip(PAIR, theirs, strict=True)}
        rows.append(row | {f"{PAPER}, SoRA to AdaLoRA": 100 * (theirs[1] / theirs[0] - 1)})
    data = pd.DataFrame(rows)
    formats = {name: "{:+.1f} %" if name.endswith("to AdaLoRA") else "{:.1f}" for name in data}
    caption = (
        "Seconds of training steps, without evaluation, divided by the epochs trained: an extrapolation where that is "
        "less than one. Mean ± population SD over seeds; change: mean over seeds of each seed's own. "
        f"{words} The paper's times are of an RTX 3090, batch size 32."
    )
    return Table("efficiency", "Seconds per epoch", caption, data, formats, notes)


def _costs(runs: pd.DataFrame, words: str, notes: list[str]) -> Table:
    """Examples a second, and the memory of a GPU: a CPU's is the process's, whose earlier runs raise it."""
    on_gpu = runs["alone"] & ~runs["provenance.device"].astype(str).str.startswith("cpu")
    measured = {
        "examples/s": pd.to_numeric(runs["throughput.examples_per_s"]).where(runs["alone"]),
        "peak memory (GiB)": pd.to_numeric(runs["memory.peak_bytes"]).where(on_gpu) / 2**30,
        "live parameters": pd.to_numeric(runs["params.live"]),
    }
    found = runs.assign(**measured).groupby(["method", "task"], sort=False)
    data = found.agg(**{"runs": ("done", "sum"), "runs of": ("done", "size")}).join(found[[*measured]].mean())
    data = data.reset_index().replace({"method": METHODS})
    data["task"] = data["task"].map(in_words)
    data["live parameters"] = counts(data["live parameters"])
    caption = (
        "Means over seeds. Examples a second while training. Peak memory: highest allocation of a GPU; a CPU's cannot "
        f"be compared and is not given, as the process alone is known, whose earlier runs raise it. {words}"
    )
    formats = {"examples/s": "{:.1f}", "live parameters": size}
    return Table("cost", "Speed and memory", caption.strip(), data, formats, notes)
