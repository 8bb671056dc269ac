"""The paper's Table 4: seconds per epoch, from runs that were trained alone."""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments import tables
from experiments.labels import METHODS, TASKS
from experiments.published import NAMES, seconds_per_epoch
from experiments.scores import by_seed, paired
from experiments.study import Study
from experiments.tables import EMPTY, Artefact, Table

TITLE = "Efficiency: seconds per epoch (Table 4)"
PAIR = ("adalora", "sora")  # what the paper compares
PAPER = NAMES["sora"]


def build(study: Study) -> list[Artefact | None]:
    """Seconds per epoch beside the paper's, and what else was measured."""
    runs, done = timed(study), study.done
    notes = []
    if packed := int((done["pack.size"] > 1).sum()):
        notes.append(f"{packed} runs were trained in a pack; their times are their pack's and are left out here.")
    if diverged := int(done["diverged"].sum()):
        notes.append(f"{diverged} runs diverged and trained no further; their times are left out here.")
    threads = done["provenance.threads"].map(lambda n: f"{n:.0f} CPU {'thread' if n == 1 else 'threads'}")
    devices = sorted(set(done["provenance.device"] + ", " + threads)) if len(done) else []
    if len(devices) > 1:
        notes.append("The runs were not all made on one device, so times of different cells cannot be compared.")
    words = f"Measured on: {'; '.join(devices)}." if devices else ""
    return [_seconds(runs, words, notes), _costs(runs, words, notes)]


def timed(study: Study) -> pd.DataFrame:
    """The runs with ``seconds`` of training per pass over the training examples.

    NaN where the time is not that of one whole run: a pack's is not, nor that of a run that diverged.
    """
    runs = study.runs
    if not runs["done"].any():
        return runs.assign(seconds=np.nan, alone=False)
    alone = runs["done"] & (runs["pack.size"] == 1) & ~runs["diverged"] & (runs["epochs"] > 0)
    seconds = pd.to_numeric(runs["time.train_s"]) / pd.to_numeric(runs["epochs"]).where(alone)
    return runs.assign(seconds=seconds, alone=alone)


def slower(a: pd.DataFrame, b: pd.DataFrame) -> pd.Series:
    """Percent of time that an epoch of ``a`` takes more than one of ``b``, for each seed that both have whole."""
    pairs = paired(by_seed(a), by_seed(b), ["seconds"]).dropna()
    return 100 * (pairs["seconds"] / pairs["seconds_b"] - 1)


def _seconds(runs: pd.DataFrame, words: str, notes: list[str]) -> Table:
    methods = list(runs["method"].unique())
    rows, texts = [], []
    for task, part in runs.groupby("task", sort=False):
        row: dict[str, object] = {"task": TASKS.get(str(task), task)}
        text = {"task": str(row["task"])}
        for method in methods:
            name, mine = METHODS.get(method, method), part[part["method"] == method]
            mean, sd = mine["seconds"].mean(), mine["seconds"].std(ddof=0)
            row |= {name: mean, f"{name} sd": sd}
            covered = f"{mine['done'].sum()}/{len(mine)}"
            text[name] = (
                EMPTY
                if mine.empty
                else covered
                if np.isnan(mean)
                else f"{mean:.1f} ± {sd:.1f}" + ("" if mine["done"].all() else f" ({covered})")
            )
        if set(PAIR) <= set(methods):
            row["SoRA to AdaLoRA"] = slower(part[part["method"] == PAIR[1]], part[part["method"] == PAIR[0]]).mean()
        theirs = [seconds_per_epoch().get((task, method), np.nan) for method in PAIR]
        row |= {f"{PAPER}, {METHODS[method]}": each for method, each in zip(PAIR, theirs, strict=True)}
        row[f"{PAPER}, SoRA to AdaLoRA"] = 100 * (theirs[1] / theirs[0] - 1)
        rows.append(row)
        texts.append(text)
    data = pd.DataFrame(rows)
    show = pd.DataFrame(texts)
    for name in [each for each in data if each.startswith(PAPER) or each == "SoRA to AdaLoRA"]:
        change = name.endswith("to AdaLoRA")
        show[name] = tables.number(data[name], 1, sign=change).map(
            lambda v, c=change: f"{v} %" if c and v != EMPTY else v
        )
    caption = (
        "Seconds of training steps, without evaluation, divided by the epochs trained: an extrapolation where that "
        f"is less than one. Mean ± population SD over seeds; change: mean over seeds of each seed's own. {words} The "
        "paper's times are of an RTX 3090, batch size 32."
    )
    return Table("efficiency", "Seconds per epoch", caption, data, show, notes)


def _costs(runs: pd.DataFrame, words: str, notes: list[str]) -> Table:
    if not runs["done"].any():
        runs = runs.assign(**{"throughput.examples_per_s": np.nan, "memory.peak_bytes": np.nan, "params.live": np.nan})
    on_gpu = runs["alone"] & ~runs.get("provenance.device", pd.Series("cpu", runs.index)).astype(str).str.startswith(
        "cpu"
    )
    runs = runs.assign(
        speed=pd.to_numeric(runs["throughput.examples_per_s"]).where(runs["alone"]),
        memory=pd.to_numeric(runs["memory.peak_bytes"]).where(on_gpu) / 2**30,
        live=pd.to_numeric(runs["params.live"]),
    )
    found = (
        runs.groupby(["method", "task"], sort=False)
        .agg(
            n=("done", "sum"),
            of=("done", "size"),
            speed=("speed", "mean"),
            memory=("memory", "mean"),
            live=("live", "mean"),
        )
        .reset_index()
    )
    data = pd.DataFrame({"method": found["method"].replace(METHODS), "task": found["task"].replace(TASKS)})
    data["runs"], data["runs of"], data["examples/s"] = found["n"], found["of"], found["speed"]
    data["peak memory (GiB)"], data["live parameters"] = found["memory"], tables.counts(found["live"])
    show = data[["method", "task"]].assign(runs=tables.joined("{}/{}", data["runs"], data["runs of"]))
    show["examples/s"] = tables.number(data["examples/s"], 1)
    show["peak memory (GiB)"] = tables.number(data["peak memory (GiB)"])
    show["live parameters"] = tables.size(data["live parameters"])
    caption = (
        "Examples a second while training. Peak memory: highest allocation of a GPU; none is given of a CPU, where the "
        f"process alone is known, whose earlier runs raise it. {words}"
    )
    return Table("cost", "Speed and memory", caption.strip(), data, show, notes)
