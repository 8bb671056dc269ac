"""Look at what a run depends on and a dry run does not show, before hours are spent: one verdict for each thing.

A check looks at the real thing (the model as it would be trained, the disk that would be written), and none stops the
others. A check that needs one that failed is reported as skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor

from sora import schedules
from sora.backbones import DropoutKey
from sora.backbones.token_check import differences, golden_of
from sora.backbones.tokenizer import load_tokenizer
from sora.config import RunConfig
from sora.errors import UserError
from sora.methods.regime import regime
from sora.runs import estimate
from sora.tasks import TaskData, load
from sora.training.checkpoint import KEEP
from sora.training.device import choose_device, has_driver, slow, why_no_gpu
from sora.training.logging.wandb import check_key
from sora.training.memory import capacity
from sora.training.pack import Pack, build_pack, losses_of, notes_of

ROW_COPIES = 4  # of a replica's weights in a checkpoint: values, two moments, the best so far
LENGTH = 16  # tokens of the examples on which gradients are looked at


class Verdict(NamedTuple):
    """``level``: ok | note (works, but know this) | FAIL | skipped."""

    level: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<8} {self.name:<12} {self.text}"


class Case:
    """A pack of runs and what is loaded for it, once."""

    def __init__(self, runs: Sequence[RunConfig]) -> None:
        self.runs, self.run = runs, runs[0]

    @cached_property
    def data(self) -> TaskData:
        return load(self.run.task, self.run.protocol, self.run.data)

    @cached_property
    def device(self) -> torch.device:
        return choose_device(self.run.deterministic, self.run.device)

    @cached_property
    def pack(self) -> Pack:
        return build_pack(self.runs, self.data, self.device, encode=False)

    def gradients(self) -> dict[str, Tensor]:
        """Compute the gradients of everything that trains, from the same batch and dropout masks at every call."""
        pack, task = self.pack, self.run.task
        count = self.run.trainer.batch_size * pack.replicas
        rng = np.random.default_rng(0)
        words = rng.integers(5, int(self.run.backbone.arch.get("vocab_size", 100)), (count * task.choices, LENGTH))
        batch = {"input_ids": torch.from_numpy(words).to(pack.device)}
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        if pack.model.head.spans:
            spans = torch.tensor([[place, place + 1] for place in range(pack.model.head.spans)])
            batch["spans"] = spans.expand(count, -1, -1).to(pack.device)
        labels = torch.from_numpy(rng.integers(0, max(1, len(task.labels)), count)).to(pack.device)
        pack.model.zero_grad(set_to_none=True)
        pack.model.backbone.dropout.begin(DropoutKey(pack.dropout_seeds, 0))
        logits = pack.model(batch)
        labels = labels.float() if task.regression else labels
        losses_of(logits, labels, pack.replicas, pack.model.head.scale[1]).sum().backward()
        pack.optimizer.show_gradients()
        trains = {name: p for name, p in pack.model.named_parameters() if p.requires_grad}
        return {name: p.grad.clone() for name, p in trains.items() if p.grad is not None}


# -- the checks: each returns its level and what it found, or raises ---------------------------------------------------


def _device(case: Case) -> tuple[str, str]:
    if words := slow(case.run.precision, case.device):
        return "note", words
    if case.device.type == "cuda":
        if case.run.precision == "bf16" and not torch.cuda.is_bf16_supported():
            return "FAIL", f"{torch.cuda.get_device_name(case.device)} does not compute in bf16; set precision=fp32"
        return "ok", f"{torch.cuda.get_device_name(case.device)}, CUDA {torch.version.cuda}, torch {torch.__version__}"
    text = f"the CPU, with at most {torch.get_num_threads()} threads, torch {torch.__version__}"
    if case.run.device == "auto" and has_driver():
        return "note", f"{text}; this machine has a driver of NVIDIA, but {why_no_gpu()}"
    return "ok", text


def _data(case: Case) -> tuple[str, str]:
    text = f"{case.run.task.name}: " + ", ".join(f"{name} {count:,}" for name, count in case.data.sizes.items())
    if case.data.partial:
        text += f"; partial: {'; '.join(map(' '.join, case.data.partial.items()))}"
    notes = notes_of(case.run, case.data)
    return ("note" if case.data.partial or notes else "ok"), "; ".join([text, *notes])


def _tokenizer(case: Case) -> tuple[str, str]:
    config = case.run.backbone
    tokenizer, golden = load_tokenizer(config), golden_of(config)
    if not golden:
        return "note", f"{len(tokenizer):,} tokens; no golden ids are known for this vocabulary"
    if unlike := differences(tokenizer, config):
        what = f"{len(unlike)} of {len(golden)} golden texts get other ids, such as {unlike[0]!r}"
        return "FAIL", f"{what}; fetch it again"
    return "ok", f"{len(tokenizer):,} tokens; {len(golden)} golden texts get the ids they must"


def _disk(case: Case) -> tuple[str, str]:
    run = case.run
    rows = len(case.runs) * estimate.trainable(run) * estimate.FLOAT
    logits = sum(case.data.sizes.values()) * (run.task.num_outputs * estimate.FLOAT + 16)
    needed = rows * ((KEEP + 1) * ROW_COPIES + 2) + logits  # checkpoints, adapter, selected weights
    for key, place in (("paths.runs", run.paths.runs), ("paths.results", run.paths.results)):
        folder = Path(place).absolute()
        base = next(path for path in (folder, *folder.parents) if path.exists())
        if not (base.is_dir() and os.access(base, os.W_OK)):
            return "FAIL", f"{key}: {base} is no folder that can be written; choose another"
        free = shutil.disk_usage(base).free
        if free < needed:
            return "FAIL", f"{key}: {free >> 20:,} MiB are free at {base}, {needed >> 20:,} needed; make room"
    return "ok", f"about {needed >> 20:,} MiB will be written, {free >> 20:,} are free"


def _memory(case: Case) -> tuple[str, str]:
    cpu = case.device.type == "cpu"
    free = psutil.virtual_memory().available if cpu else torch.cuda.mem_get_info(case.device)[0]
    room, facts = min(capacity(case.device), free), estimate.facts_of(case.data)
    alone, together = (estimate.peak_bytes(runs, facts, cpu=cpu) for runs in (case.runs[:1], case.runs))
    text = f"about {estimate.gibibytes(alone)} for a run, {estimate.gibibytes(room)} can be used"
    if alone > room:
        return "FAIL", f"{text}; lower trainer.batch_size or trainer.max_length"
    if len(case.runs) > 1:
        text += f"; {estimate.gibibytes(together)} for all {len(case.runs)}"
    return ("ok", text) if together <= room else ("note", f"{text}: the pack will be split")


def _regime(case: Case) -> tuple[str, str]:
    timeline = schedules.timeline(case.run, len(case.data.splits["train"]))
    found = [each for each in (regime(run, timeline) for run in case.runs) if each]
    if warnings := [words for each in found if (words := each.warning())]:
        which = f"{len(warnings)} of {len(case.runs)} runs: " if len(warnings) < len(case.runs) else ""
        return "note", which + warnings[0]
    return "ok", "; ".join(dict.fromkeys(map(str, found))) or "no gates that a threshold zeroes"


def _tracker(case: Case) -> tuple[str, str]:
    config = case.run.tracker
    check_key(config)
    return "ok", "metrics.jsonl" + (
        f" and W&B, {config.mode}, project {config.project}" if config.name != "none" else ""
    )


def _trainable(case: Case) -> tuple[str, str]:
    pack = case.pack  # build_pack refuses trainable tensors that are not fp32
    if not case.run.method.TRAINS:
        return "ok", f"method={case.run.method.name} takes no optimiser steps"
    gradients = case.gradients()
    trains = [name for name, tensor in pack.model.named_parameters() if tensor.requires_grad]
    bad = [name for name in trains if name not in gradients or not torch.isfinite(gradients[name]).all()]
    if bad:
        return "FAIL", f"the gradient of {bad[0]} is missing or not finite (precision={case.run.precision})"
    head = [gradient for name, gradient in gradients.items() if name.startswith("head.")]
    if not head:
        return "note", f"head={case.run.head}: the classifier stays as it was drawn, as in the authors' released code"
    if not any(gradient.any() for gradient in head):
        return "FAIL", f"head={case.run.head}: no gradient reaches the classifier"
    size = sum(map(torch.numel, head)) // pack.replicas
    text = f"{pack.optimizer.rows.shape[1]:,} weights a run, {size:,} of the head, gradients reach them"
    if case.run.backbone.weights == "random":
        return "note", f"{text}; backbone.weights=random: no result of a pretrained {case.run.backbone.name}"
    return "ok", text


def _determinism(case: Case) -> tuple[str, str]:
    if not case.run.method.TRAINS:
        return "ok", "there is no step to repeat"
    first, second = case.gradients(), case.gradients()
    unlike = [name for name in first if not torch.equal(first[name], second[name])]
    if not unlike:
        return "ok", f"the same step twice gives the same bits (deterministic={str(case.run.deterministic).lower()})"
    if case.run.deterministic:
        return "FAIL", f"deterministic=true, but {len(unlike)} gradients differ when a step is repeated"
    return "note", f"{len(unlike)} gradients differ when a step is repeated; deterministic=true forbids that"


CHECKS: tuple[tuple[str, Callable[[Case], tuple[str, str]], tuple[str, ...]], ...] = (  # name, check, what it needs
    ("device", _device, ()),
    ("data", _data, ()),
    ("tokenizer", _tokenizer, ()),
    ("disk", _disk, ("data",)),
    ("memory", _memory, ("device", "data")),
    ("regime", _regime, ("data",)),
    ("tracker", _tracker, ()),
    ("trainable", _trainable, ("memory",)),
    ("determinism", _determinism, ("trainable",)),
)


def examine(runs: Sequence[RunConfig]) -> Iterator[Verdict]:
    """Yield the verdicts on a pack of runs, one after the other as they are reached."""
    case = Case(runs)
    unusable: set[str] = set()
    for name, check, needs in CHECKS:
        if blocked := unusable.intersection(needs):
            level, text = "skipped", f"needs {', '.join(sorted(blocked))}"
        else:
            try:
                level, text = check(case)
            except UserError as error:
                level, text = "FAIL", str(error)
            except Exception as error:  # a check that breaks must not hide what the others find
                level, text = "FAIL", f"{type(error).__name__}: {error}"
        if level in ("FAIL", "skipped"):
            unusable.add(name)
        yield Verdict(level, name, text)
