"""How tasks, methods and metrics are called, and which numbers a task contributes to a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sora.errors import UserError
from sora.tasks.spec import load_task

METHODS = {
    "full": "Fine-tuning",
    "adapter": "Adapter",
    "bitfit": "BitFit",
    "lora": "LoRA",
    "masked_lora": "LoRA of given ranks",
    "adalora": "AdaLoRA",
    "sora": "SoRA",
    "probe": "Linear probe",
    "zero_shot": "Zero-shot cosine",
    "svd_cut": "LoRA cut by SVD",
    "peft": "PEFT",
}
ARMS = {  # study.arm -> what it is called, in the order of the main table
    "lora_r8": "LoRA r = 8",
    "sora_best": "SoRA-best",
    "sora_small": "SoRA-small",
    "lora_equal": "LoRA of equal size",
    "lora_own": "LoRA, SoRA's pattern",
    "lora_permuted": "LoRA, SoRA's pattern permuted",
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
MAJORITY = "Majority class"  # one answer to every item
TASKS = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "qqp": "QQP",
    "stsb": "STS-B",
    "mnli": "MNLI",
    "qnli": "QNLI",
    "rte": "RTE",
    "wnli": "WNLI",
    "boolq": "BoolQ",
    "cb": "CB",
    "copa": "COPA",
    "multirc": "MultiRC",
    "record": "ReCoRD",
    "rte_superglue": "RTE (SuperGLUE)",
    "wic": "WiC",
    "wsc": "WSC",
}
SLICE = re.compile(r"(.+)_(\d+k)")  # a task on that many rows of its training file
METRICS = {
    "accuracy": "acc.",
    "f1": "F1",
    "f1_macro": "macro F1",
    "matthews": "MCC",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "f1a": "F1a",
    "em": "EM",
}
TWO_METRICS = ("qqp", "cb", "multirc", "record")  # tasks scored by two metrics, as GLUE and SuperGLUE do


def in_words(task: str, metric: str = "") -> str:
    """What stands in pictures and on first pages: ``SST-2 (10k) accuracy``, ``CoLA MCC``."""
    sliced = SLICE.fullmatch(task)
    name = f"{TASKS[sliced[1]]} ({sliced[2]})" if sliced and sliced[1] in TASKS else TASKS.get(task, task)
    return f"{name} {'accuracy' if metric == 'accuracy' else METRICS.get(metric, metric)}".strip()


@dataclass(frozen=True)
class Column:
    """One number of a task: a metric on one split."""

    task: str
    metric: str
    split: str = "report"  # report | report_mm

    @property
    def label(self) -> str:
        """Such as ``QQP F1``, ``MNLI-mm acc.`` or ``SST-2 (10k) acc.``."""
        suffix = "" if self.task != "mnli" else "-mm" if self.split == "report_mm" else "-m"
        return f"{in_words(self.task)}{suffix} {METRICS.get(self.metric, self.metric)}".strip()


def columns_of(task: str, metrics: Sequence[str] | None = None) -> list[Column]:
    """A task's first metric, two for the tasks of ``TWO_METRICS``, MNLI's two splits.

    ``metrics``: those of a record; without them, those of conf/task.
    """
    if not metrics:
        try:
            metrics = load_task(task).metrics
        except UserError:  # a task of somebody's own folder: without a record its metric is not known here
            metrics = [""]
    if task == "mnli":
        return [Column(task, metrics[0]), Column(task, metrics[0], "report_mm")]
    return [Column(task, metric) for metric in metrics[: 2 if task in TWO_METRICS else 1]]
