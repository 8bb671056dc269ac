"""How tasks, methods and metrics are called, and which numbers a task contributes to a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.study import Record, Study
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


@dataclass(frozen=True)
class Column:
    """One number of a task: a metric (0-1 in records, points in tables) on one split of its records."""

    task: str
    metric: str
    split: str = "report"  # report | report_mm

    @property
    def label(self) -> str:
        """Such as ``QQP F1`` or ``MNLI-mm acc.``."""
        suffix = "" if self.task != "mnli" else "-mm" if self.split == "report_mm" else "-m"
        return f"{task_label(self.task)}{suffix} {METRICS.get(self.metric, self.metric)}".strip()


def task_label(task: str) -> str:
    """``rte`` -> ``RTE``."""
    return TASKS.get(task, task)


def method_label(method: str) -> str:
    """``sora`` -> ``SoRA``."""
    return METHODS.get(method, method)


def columns(study: Study, task: str) -> list[Column]:
    """What a table says about a task: its first metric, two for the tasks of ``TWO_METRICS``, MNLI's two splits.

    The task's metrics are those of its records; where there is none yet, those of conf/task.
    """
    record: Record | None = next(
        (run.record for run in study.runs if run.record is not None and study.value(run, "task") == task), None
    )
    metrics = record["config"]["task"].get("metrics") if record is not None else _planned(task)
    if not metrics:
        metrics = [""]
    if task == "mnli":
        return [Column(task, metrics[0]), Column(task, metrics[0], "report_mm")]
    return [Column(task, metric) for metric in metrics[: 2 if task in TWO_METRICS else 1]]


def _planned(task: str) -> Sequence[str]:
    try:
        return load_task(task).metrics
    except UserError:  # a task of somebody's own folder: without a record its metric is not known here
        return [""]
