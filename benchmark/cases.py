"""Which contestants meet: a section is a set of cases that are compared with each other (torch-free)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

METHODS = ("full", "lora", "adalora", "sora")
TASKS = ("rte", "cola")
SHAPES = ("deberta-v3-base", "roberta-large")  # on a GPU, with random weights: a step costs the same
CPU_PACKS, GPU_PACKS = (5,), (5, 20)
SIZES = (1, 2, 5, 10, 20, 40)

FLOOR = "frozen backbone, forward and backward"
OURS = "ours"
TRAINER = "peft + Trainer"
LOOP = "peft, our batches"
AUTHORS = "authors' recipe"


@dataclass(frozen=True)
class Case:
    """One contestant on one model, task and method.

    ``kind`` names its loop in contestants.py; ``method`` is what it trains. ``replicas`` > 1 is a pack. None stands for
    the task's length and the architecture's dropout.
    """

    label: str
    kind: str
    method: str
    task: str
    backbone: str = "minilm-l6"
    replicas: int = 1
    batch: int = 8
    precision: str = "fp32"
    r: int = 8
    max_length: int | None = None
    dropout: float | None = None
    graphs: bool = False  # trainer.cuda_graphs


@dataclass(frozen=True)
class Section:
    """Cases that are compared. ``device``: cpu | cuda, where they are measured at all."""

    title: str
    device: str
    cases: Sequence[Case]


def sections() -> list[Section]:
    """Everything that is measured, in the order of the table."""
    found = [_main("cpu", "minilm-l6", task, method, CPU_PACKS) for task in TASKS for method in METHODS]
    found += [_large_batch(), _no_dropout(), _pack_sizes("cpu", "minilm-l6", "cola"), _ranks(), _lengths()]
    found += [_main("cuda", shape, "rte", method, GPU_PACKS) for shape in SHAPES for method in METHODS]
    return [*found, _pack_sizes("cuda", "deberta-v3-base", "rte")]


def _main(device: str, backbone: str, task: str, method: str, packs: Sequence[int]) -> Section:
    theirs = "lora" if method == "sora" else method  # peft has no SoRA
    name = {"full": "", "lora": "", "adalora": "", "sora": " (LoRA)"}[method]
    cases = [
        Case(FLOOR, "floor", method, task, backbone),
        Case(OURS, "ours", method, task, backbone),
        Case(f"{OURS}, bf16", "ours", method, task, backbone, precision="bf16"),
    ]
    if method == "full":
        cases.append(Case("plain loop, our batches", "loop", method, task, backbone))
        cases.append(Case("Trainer", "trainer", method, task, backbone))
    else:
        cases += [Case(f"{OURS}, pack of {n}", "ours", method, task, backbone, replicas=n) for n in packs]
        if device == "cuda":
            cases += [
                Case(f"{OURS}, CUDA graphs, {n} run{'s'[: n - 1]}", "ours", method, task, backbone, n, graphs=True)
                for n in (1, max(packs))
            ]
        cases.append(Case(LOOP + name, "loop", theirs, task, backbone))
        cases.append(Case(TRAINER + name, "trainer", theirs, task, backbone))
    if method == "sora":
        cases.append(Case(AUTHORS, "authors", method, task, backbone))
    return Section(f"{backbone}, {task}, {method}, batch 8", device, cases)


def _large_batch() -> Section:
    cases = [
        Case(OURS, "ours", "sora", "rte", batch=32),
        Case(f"{OURS}, bf16", "ours", "sora", "rte", batch=32, precision="bf16"),
        Case(f"{TRAINER} (LoRA)", "trainer", "lora", "rte", batch=32),
    ]
    return Section("minilm-l6, rte, sora, batch 32", "cpu", cases)


def _no_dropout() -> Section:
    """The layers and the optimiser alone: fp32, the same batches, no dropout anywhere."""
    ours = [Case(f"{OURS}, {method}", "ours", method, "rte", dropout=0.0) for method in METHODS]
    theirs = [Case(f"{LOOP}, {method}", "loop", method, "rte", dropout=0.0) for method in ("lora", "adalora")]
    cases = [Case(FLOOR, "floor", "lora", "rte", dropout=0.0), *ours, *theirs]
    return Section("minilm-l6, rte, batch 8, without dropout", "cpu", cases)


def _pack_sizes(device: str, backbone: str, task: str) -> Section:
    cases = [Case(f"{OURS}, pack of {n}", "ours", "sora", task, backbone, replicas=n) for n in SIZES]
    return Section(f"pack size: {backbone}, {task}, sora, batch 8", device, cases)


def _ranks() -> Section:
    cases = [Case(f"{OURS}, r = {r}", "ours", "sora", "cola", r=r) for r in (1, 8, 32)]
    return Section("rank: minilm-l6, cola, sora, batch 8", "cpu", cases)


def _lengths() -> Section:
    cases = [Case(f"{OURS}, at most {n} tokens", "ours", "sora", "rte", max_length=n) for n in (32, 64, 128, 256)]
    return Section("length: minilm-l6, rte, sora, batch 8", "cpu", cases)
