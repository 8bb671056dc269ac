"""Looks at everything a run depends on before hours are spent on it: one verdict for each thing.

A check looks at the real thing (the file, the model as it would be trained, the disk that would be written), and none
stops the others. A check that needs one that failed is reported as skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from sora import schedules
from sora.backbones import DropoutKey
from sora.backbones.build import read_state
from sora.backbones.source import backbone_identity, weights_files
from sora.backbones.token_cache import cache_folder
from sora.backbones.token_check import differences, golden_of
from sora.backbones.tokenizer import load_tokenizer
from sora.config import RunConfig
from sora.errors import UserError
from sora.methods.regime import regime
from sora.runs import estimate
from sora.tasks import TaskData, load, load_test
from sora.training.checkpoint import KEEP
from sora.training.device import choose_device, has_driver, slow, why_no_gpu
from sora.training.logging.wandb import check_key
from sora.training.memory import capacity
from sora.training.pack import Pack, build_pack, losses_of

ROW_COPIES = 4  # of a replica's weights in a checkpoint: values, two moments, the best so far
LENGTH = 16  # tokens of the examples on which gradients are looked at


@dataclass(frozen=True)
class Verdict:
    """``level``: ok | note (works, but know this) | FAIL | skipped."""

    level: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<8} {self.name:<12} {self.text}"


class Case:
    """A pack of runs and what is loaded for it, once; a failure comes again to each check that needs it."""

    def __init__(self, runs: Sequence[RunConfig]) -> None:
        self.runs, self.run = runs, runs[0]

    @cached_property
    def data(self) -> TaskData:
        return load(self.run.task, self.run.protocol, self.run.data)

    @cached_property
    def facts(self) -> estimate.DataFacts:
        return estimate.facts_of(self.data)

    @cached_property
    def device(self) -> torch.device:
        return choose_device(self.run.deterministic, self.run.device)

    @cached_property
    def pack(self) -> Pack:
        return build_pack(self.runs, self.data, self.device, encode=False)

    @cached_property
    def gradients(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Compute the gradients of everything that trains, twice, from the same batch and dropout masks."""
        return self._gradients(), self._gradients()

    def _gradients(self) -> dict[str, Tensor]:
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


def _data(case: Case) -> tuple[str, str]:
    data = case.data
    sizes = ", ".join(f"{name} {count:,}" for name, count in data.sizes.items())
    if case.run.predict:  # as a run does before it trains
        sizes += f"; {sum(map(len, load_test(case.run.task, case.run.data).values())):,} to predict"
    if data.partial:
        return "note", f"{case.run.task.name} is partial ({'; '.join(map(' '.join, data.partial.items()))}): {sizes}"
    return "ok", f"{case.run.task.name} is complete: {sizes}"


def _weights(case: Case) -> tuple[str, str]:
    config = case.run.backbone
    if config.weights == "random":
        return "note", f"random, from init_seed {config.init_seed}: no result of a pretrained {config.name}"
    sha256 = backbone_identity(config)["sha256"]
    files = weights_files(config)
    found = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in read_state(files).values()})
    name = files[0].name if len(files) == 1 else f"{len(files)} shards"
    return "ok", f"{name} of {config.name}, sha256 {sha256[:12]}: {', '.join(found)} in the file, read as float32"


def _tokenizer(case: Case) -> tuple[str, str]:
    config = case.run.backbone
    tokenizer = load_tokenizer(config)
    golden = golden_of(config)
    if not golden:
        return "note", f"{len(tokenizer):,} tokens; no golden ids are known for this vocabulary"
    if unlike := differences(tokenizer, config):
        return (
            "FAIL",
            f"{len(unlike)} of {len(golden)} golden texts get other ids, such as {unlike[0]!r}; fetch it again",
        )
    if config.family == "deberta-v2" and config.tokenizer == "hf":
        return "note", "as transformers builds it: ligatures, ellipses and special spaces become [UNK]"
    return "ok", f"{len(tokenizer):,} tokens; {len(golden)} golden texts get the ids they must"


def _trainable(case: Case) -> tuple[str, str]:
    pack = case.pack  # refuses trainable tensors that are not fp32
    gradients, _ = case.gradients
    dead = [name for name in gradients if not torch.isfinite(gradients[name]).all()]
    missing = [n for n, p in pack.model.named_parameters() if p.requires_grad and n not in gradients]
    if dead or missing:
        what = f"{dead[0]} is not finite" if dead else f"{missing[0]} gets none"
        return "FAIL", f"gradients: {what} (precision={case.run.precision})"
    head = sum(gradient.numel() for name, gradient in gradients.items() if name.startswith("head."))
    if not head:
        return "note", f"head={case.run.head}: the classifier stays as it was drawn, as in the authors' released code"
    if not any(gradients[name].any() for name in gradients if name.startswith("head.")):
        return "FAIL", f"head={case.run.head}: no gradient reaches the classifier"
    count = pack.optimizer.rows.shape[1]
    return "ok", f"{count:,} weights a run, {head // pack.replicas:,} of the head, all float32, gradients reach them"


def _determinism(case: Case) -> tuple[str, str]:
    first, second = case.gradients
    unlike = [name for name in first if not torch.equal(first[name], second[name])]
    if not unlike:
        return "ok", f"the same step twice gives the same bits (deterministic={str(case.run.deterministic).lower()})"
    if case.run.deterministic:
        return "FAIL", f"deterministic=true, but {len(unlike)} gradients differ when a step is repeated"
    return "note", f"{len(unlike)} gradients differ when a step is repeated; deterministic=true forbids that"


def _device(case: Case) -> tuple[str, str]:
    if words := slow(case.run.precision, case.device):
        return "note", words
    if case.device.type == "cpu":
        text = f"the CPU, with at most {torch.get_num_threads()} threads, torch {torch.__version__}"
        if case.run.device == "auto" and has_driver():
            return "note", f"{text}; this machine has a driver of NVIDIA, but {why_no_gpu()}"
        return "ok", f"device={case.run.device}: {text}"
    name = torch.cuda.get_device_name(case.device)
    if case.run.precision == "bf16" and not torch.cuda.is_bf16_supported():
        return "FAIL", f"{name} does not compute in bf16; set precision=fp32"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        driver = "unknown"
    return "ok", f"{name}, driver {driver}, CUDA {torch.version.cuda}, torch {torch.__version__}"


def _memory(case: Case) -> tuple[str, str]:
    cpu = case.device.type == "cpu"
    free = psutil.virtual_memory().available if cpu else torch.cuda.mem_get_info(case.device)[0]
    room = min(capacity(case.device), free)
    alone, together = (estimate.peak_bytes(runs, case.facts, cpu=cpu) for runs in (case.runs[:1], case.runs))
    text = f"about {estimate.gibibytes(alone)} for a run, {estimate.gibibytes(room)} can be used"
    if alone > room:
        return "FAIL", f"{text}; lower trainer.batch_size or trainer.max_length"
    if together > room:
        packed = estimate.gibibytes(together)
        return "note", f"{text}; the {len(case.runs)} runs together would need {packed}: give fewer seeds at once"
    return "ok", text if len(case.runs) == 1 else f"{text}; {estimate.gibibytes(together)} for all {len(case.runs)}"


def _disk(case: Case) -> tuple[str, str]:
    run, examples = case.run, sum(case.data.sizes.values())
    rows = len(case.runs) * estimate.trainable(run) * estimate.FLOAT
    needed: dict[str, tuple[str | Path, int]] = {  # bytes; of paths.runs: checkpoints, adapter, selected weights
        "paths.runs": (run.paths.runs, rows * ((KEEP + 1) * ROW_COPIES + 2)),
        "paths.results": (run.paths.results, examples * (run.task.num_outputs * estimate.FLOAT + 16)),
        "paths.cache": (cache_folder(run.paths.cache).parent, int(examples * 5 * case.facts.tokens(run)[0])),
    }
    level, notes = "ok", []
    keys: dict[int, list[str]] = {}  # disk -> the keys whose folders lie on it
    total: dict[int, int] = {}  # and the bytes they need together
    for key, (place, size) in needed.items():
        folder = Path(place).absolute()
        base = next(path for path in (folder, *folder.parents) if path.exists())
        if not base.is_dir():
            return "FAIL", f"{key}: {base} is a file, must be a folder"
        if not _can_be_written(base):
            if key != "paths.cache":
                return "FAIL", f"{key}: {base} cannot be written; choose another folder"
            level = "note"  # it may have all that is needed
            notes.append(f"{key} {base} cannot be written: a run stops if something is not in it")
            continue
        disk, free = base.stat().st_dev, shutil.disk_usage(base).free
        keys.setdefault(disk, []).append(key)
        total[disk] = total.get(disk, 0) + size
        if total[disk] > free:
            text = f"{' and '.join(keys[disk])} need {total[disk] >> 20:,} MiB, {free >> 20:,} MiB are free"
            return "FAIL", f"{text} at {base}; make room or choose another folder"
        notes.append(f"{key} about {size >> 20:,} of {free >> 20:,} MiB free")
    return level, ", ".join(notes)


def _can_be_written(folder: Path) -> bool:
    """Return whether a file can be made in ``folder``: make one, and remove it."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return os.access(folder, os.W_OK)
    except OSError:
        return False


def _regime(case: Case) -> tuple[str, str]:
    timeline = schedules.timeline(case.run, len(case.data.splits["train"]))
    found = [each for each in (regime(run, timeline) for run in case.runs) if each]
    if not found:
        return "ok", f"{case.run.method.name} has no gates that a threshold zeroes"
    warnings = [each.warning() for each in found if each.warning()]
    if warnings:
        which = f"{len(warnings)} of {len(case.runs)} runs: " if len(warnings) < len(case.runs) else ""
        return "note", which + warnings[0]
    return "ok", "; ".join(dict.fromkeys(map(str, found)))


def _tracker(case: Case) -> tuple[str, str]:
    config = case.run.tracker
    check_key(config)
    if config.name == "none":
        return "ok", "none: metrics.jsonl only"
    if config.mode == "online":
        return "ok", f"W&B, online, project {config.project}; a key is there"
    kept = Path(case.run.paths.runs) / "wandb" / "offline-run-*"
    return "ok", f"W&B, offline, project {config.project}; wandb sync {kept} sends it"


CHECKS: tuple[tuple[str, Callable[[Case], tuple[str, str]], tuple[str, ...]], ...] = (
    ("device", _device, ()),
    ("data", _data, ()),
    ("weights", _weights, ()),
    ("tokenizer", _tokenizer, ()),
    ("disk", _disk, ("data", "weights")),
    ("memory", _memory, ("data",)),
    ("regime", _regime, ("data",)),
    ("tracker", _tracker, ()),
    ("trainable", _trainable, ("data", "weights", "memory")),
    ("determinism", _determinism, ("trainable",)),
)


def examine(runs: Sequence[RunConfig]) -> Iterator[Verdict]:
    """Yield the verdicts on a pack of runs, one after the other as they are reached."""
    case = Case(runs)
    unusable: set[str] = set()
    for name, check, needs in CHECKS:
        blocked = [each for each in needs if each in unusable]
        verdict = Verdict("skipped", name, f"needs {', '.join(blocked)}") if blocked else _verdict(name, check, case)
        if verdict.level in ("FAIL", "skipped"):
            unusable.add(name)
        yield verdict


def _verdict(name: str, check: Callable[[Case], tuple[str, str]], case: Case) -> Verdict:
    try:
        level, text = check(case)
    except (UserError, AssertionError) as error:
        return Verdict("FAIL", name, str(error))
    except Exception as error:  # a check that breaks must not hide what the others find
        return Verdict("FAIL", name, f"{type(error).__name__}: {error}")
    return Verdict(level, name, text)
