"""The main table of a study whose settings are arms (``study.arm``): each control beside what it controls."""

from __future__ import annotations

import math

import pandas as pd

from experiments import primary
from experiments.comparisons import compare
from experiments.draws import Draws, draws
from experiments.labels import MAJORITY
from experiments.learning_curves import learning_curves
from experiments.scores import by_seed, cells, detail_table, long, score_columns
from experiments.study import Study
from experiments.tables import EMPTY, SIGNED, Artefact, Table, counts, size

ARMS = {  # study.arm -> what it is called, in the order of the table
    "lora_r8": "LoRA r = 8",
    "sora_best": "SoRA-best",
    "sora_small": "SoRA-small",
    "lora_equal": "LoRA of equal size",
    "lora_own": "LoRA, SoRA-small's pattern",
    "lora_permuted": "LoRA, that pattern permuted",
    "lora_svd": "LoRA r = 8 cut by SVD",
    "sora_xi0": "SoRA, ξ = 0",
    "adalora_r8": "AdaLoRA r = 8",
    "adalora_small": "AdaLoRA of equal size",
    "lora_r1": "LoRA r = 1",
    "lora_r2": "LoRA r = 2",
    "full": "Fine-tuning",
    "bitfit": "BitFit",
    "adapter": "Adapter",
    "probe": "Linear probe",
    "zero_shot": "Zero-shot cosine",
}
DRAWN = ("lora_r8", "sora_small", "sora_best", "adalora_r8", "full", "bitfit", "adapter")  # with learning curves
BASE = "lora_r8"
SEEDLESS = ("probe", "zero_shot")  # every seed gives the same
CAPTION = (
    "Points on the report split, of the selected weights: mean ± population SD over n seeds; live parameters "
    "without the head. Minus LoRA: the difference to LoRA r = 8 over the seeds both have, with two 95 % "
    "intervals, Student's t over seeds and a bootstrap over seeds and examples. Of equal size: as many weights as"
    " SoRA-small's run of the same seed, to within half a rank (AdaLoRA: to its average rank, rounded). Data "
    "dependence: 1 - the correlation, over matrices, between the live ranks and those that the initial draw "
    "leaves without data. Verdict: of the comparisons fixed beforehand (docs/study.md) alone; the other "
    "differences are description."
)


def build(study: Study) -> list[Artefact | None]:
    """The main table, the comparisons that were fixed beforehand, learning curves, details."""
    runs = ordered(study.runs).assign(trials=1)
    found, drawn = cells(study, runs, "arm"), draws(study, study.runs)
    named = found.assign(arm=found["arm"].map(lambda arm: ARMS.get(arm, arm)))
    return [
        table(study, runs, found, drawn),
        primary.table(study),
        *learning_curves(study, runs[runs["arm"].isin(DRAWN)], "arm", {arm: ARMS[arm] for arm in DRAWN}),
        detail_table(study, named, {"arm": "arm"}, drawn),
    ]


def ordered(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs in the order of ``ARMS``; arms that are none of them last, by name."""
    known = list(ARMS)
    place = runs["arm"].map(lambda arm: f"{known.index(arm):03}" if arm in known else f"~{arm}")
    return runs.assign(place=place).sort_values("place", kind="stable").drop(columns="place")


def table(study: Study, runs: pd.DataFrame, found: pd.DataFrame, drawn: dict[str, Draws]) -> Table:
    """A row for each arm of each task, and one for the answer that is always the same."""
    labels = [column.label for task in study.tasks for column in study.columns(task)]
    constant = [
        {"label": label, "arm": MAJORITY, "mean": each.constant, "live": 0}
        for label, each in drawn.items()
        if not math.isnan(each.constant)
    ]
    found = pd.concat([found, pd.DataFrame(constant)], ignore_index=True)
    found = found.sort_values("label", key=lambda each: each.map(labels.index), kind="stable", ignore_index=True)
    sides = {key: by_seed(part) for key, part in long(study, runs).groupby(["label", "arm"], sort=False)}
    tests = primary.tests(study).to_dict("records")
    verdicts = {(test["task"], test["other"]): f"{test['comparison']}: {test['verdict']}" for test in tests}
    places = list(zip(found["label"], found["arm"], strict=True))
    data = pd.DataFrame({"task": found["label"], "arm": found["arm"].map(lambda arm: ARMS.get(arm, arm))})
    data["n"], data["n of"] = counts(found["n"]), counts(found["of"])
    data = data.join(score_columns(found, "score")[["score", "score sd", "score diverged", "score one_class"]])
    data["live parameters"], data["data dependence"] = counts(found["live"]), found["data_dependence"]
    gaps = [
        difference(arm, sides.get((label, arm)), sides.get((label, BASE)), drawn.get(label)) for label, arm in places
    ]
    data[GAPS] = pd.DataFrame(gaps, columns=GAPS, dtype=float)
    data["verdict"] = [_verdict(verdicts, *place) for place in places]
    data["remarks"] = found["remarks"].fillna("")
    formats = {"live parameters": size, **dict.fromkeys(("minus LoRA", "t interval", "bootstrap interval"), SIGNED)}
    n = (data["n"].map(str) + "/" + data["n of"].map(str)).where(data["arm"] != MAJORITY, EMPTY)
    return Table("main_table", "Every arm and its controls", CAPTION, data, formats, words={"n": n})


GAPS = ["minus LoRA", "t interval", "t interval high", "bootstrap interval", "bootstrap interval high"]


def difference(
    arm: object, mine: pd.DataFrame | None, base: pd.DataFrame | None, drawn: Draws | None
) -> tuple[float, ...]:
    """Arm minus LoRA r = 8 in points, its t interval and its bootstrap interval; NaN where there is none."""
    if arm == BASE or mine is None or base is None or mine.empty or base.empty:
        return (math.nan,) * len(GAPS)
    if arm in SEEDLESS:  # one run stands for every seed
        mine = mine.iloc[[0] * len(base)].set_axis(base.index)
    over = compare("", mine, base, drawn)
    return (math.nan,) * len(GAPS) if over is None else (over.mean, *over.over_seeds, *over.over_items.interval)


def _verdict(verdicts: dict[tuple[str, str], str], label: str, arm: str) -> str:
    """Beside SoRA-small the first comparison, beside its controls the other two."""
    words = verdicts.get((label, BASE if arm == primary.SMALL else "" if arm == BASE else arm), "")
    return f"SoRA-small {words}" if words and arm != primary.SMALL else words
