"""Write ``tests/golden/numerics.json``: what the code computes, frozen, so that a number that moves is noticed.

    python -m tests.write_golden

Pack against solo and resumed against whole compare the code with itself, so that both sides can move alike. The file
holds the numbers themselves; ``tests/test_golden.py`` compares them. A run id promises these numbers: the file is
written again only after a change that is meant to move them, which raises a ``version`` and so renames the runs.

Nothing here depends on the processor: weights are written from whole numbers, the values that torch draws from a
normal distribution (whose last bits differ between processors) are rounded, and all is computed in float64.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from sora.backbones import load_backbone
from sora.backbones.deberta import bucket_rows
from sora.backbones.dropout import CounterDropout, DropoutContext, DropoutKey, site_hash, site_keys
from sora.config import DataConfig, ProtocolConfig
from sora.runs.run_id import run_id
from sora.tasks import load
from sora.tasks.spec import load_task
from sora.training.batching import batches
from sora.training.evaluation import predict
from sora.training.seeds import derive
from tests import composing, superglue, tiny

FILE = Path(__file__).resolve().parent / "golden" / "numerics.json"

# -- dropout -----------------------------------------------------------------------------------------------------

SITES = ("encoder.layer.0.output.dropout", "encoder.layer.1.attention.self.dropout", "head.features")
STEPS = (0, 7, 100_000)
PROBABILITY = 0.3


def dropout_seeds() -> tuple[int, ...]:
    """The seeds of the masks of runs 0 and 1."""
    return tuple(derive(seed, "dropout") for seed in (0, 1))


def dropout_keys() -> dict[str, Any]:
    """The hash of each site, and its keys by step, [sites][replicas], as text: JSON's numbers end at 2^53."""
    sites = [site_hash(name) for name in SITES]
    keys = {str(step): site_keys(dropout_seeds(), sites, step).astype(str).tolist() for step in STEPS}
    return {"sites": [str(site) for site in sites], "keys": keys}


def counters() -> dict[str, list[str]]:
    """Stream offsets of the rows of 2 slots, 3 heads and 2 positions, in both orders."""
    context, device = DropoutContext(), torch.device("cpu")
    orders = {"slot": False, "head": True}
    return {
        f"{name}_major": [str(offset) for offset in context.counters(2, 3, 2, device, head_major).tolist()]
        for name, head_major in orders.items()
    }


def masks() -> dict[str, Any]:
    """What two runs drop at step 7: rows of 0 (dropped) and 1 (kept), and the value of what is kept."""
    context = DropoutContext()
    sites = [CounterDropout(PROBABILITY, context, name) for name in SITES]
    context.begin(DropoutKey(dropout_seeds(), 7))
    hidden, attention, features = sites
    outputs = {
        "hidden": hidden(torch.ones(4, 3, 18, dtype=torch.float64)),  # R = 2 with b = 2; t = 3, d = 18
        "features": features(torch.ones(4, 18, dtype=torch.float64)),
        "probabilities": attention.probabilities(torch.ones(8, 5, 5, dtype=torch.float64), 2),  # H = 2
        "probabilities_head_major": attention.probabilities(torch.ones(8, 5, 5, dtype=torch.float64), 2, True),
        "shared_rows": hidden.shared_rows(torch.ones(4, 18, dtype=torch.float64), torch.tensor([5, 6, 6, 0])),
    }
    return {name: {"rows": _bits(out), "kept": float(out.max())} for name, out in outputs.items()}


def _bits(out: Tensor) -> list[str]:
    return ["".join("1" if value else "0" for value in row) for row in (out != 0).flatten(0, -2).tolist()]


# -- the order of the examples -----------------------------------------------------------------------------------

EXAMPLES, BATCH, DATA_SEEDS = 450, 4, (0, 1)  # two whole megabatches and a part, and a batch of two


def lengths() -> np.ndarray:
    """Tokens of each example, many of them alike."""
    return np.random.default_rng(5).integers(5, 60, EXAMPLES)


def order(bucketing: bool) -> dict[str, Any]:
    """The examples of two epochs, a line a seed, and the longest example of each batch, [R][steps]."""
    steps = 2 * -(-EXAMPLES // BATCH)
    found = list(batches(lengths(), BATCH, DATA_SEEDS, first_step=0, last_step=steps, bucketing=bucketing))
    return {
        "sizes": [indices.shape[1] for indices in found],
        "order": [np.concatenate([indices[replica] for indices in found]).tolist() for replica in (0, 1)],
        "longest": [[int(lengths()[indices[replica]].max()) for indices in found] for replica in (0, 1)],
    }


# -- relative positions ------------------------------------------------------------------------------------------

TABLES = {8: (64, 80), 256: (512, 600)}  # buckets -> farthest distance told apart, length of a text beyond it


def relative_rows(buckets: int) -> list[list[int]]:
    """Rows of the table for the distances -(t-1) .. t-1, as [row, how often in a row]."""
    farthest, length = TABLES[buckets]
    rows = bucket_rows(length, buckets, farthest).tolist()
    return [[row, len(list(same))] for row, same in groupby(rows)]


# -- ten steps ---------------------------------------------------------------------------------------------------

METHODS: dict[str, dict[str, Any]] = {
    "sora": {"name": "sora", "r": 4, "threshold": 3e-2, "dropout": 0.2},  # large, so that ranks die in ten steps
    "sora-paper": {"name": "sora", "r": 4, "fidelity": "paper", "threshold": 3e-2, "dropout": 0.2},
    "lora": {"name": "lora", "r": 4, "dropout": 0.2},
    "adalora": {"name": "adalora", "r": 2, "init_r": 4, "warmup": 0.2, "final": 0.3, "interval": 2, "dropout": 0.2},
    "bitfit": {"name": "bitfit"},
    "adapter": {"name": "adapter", "bottleneck": 3},
}
TRAINER = {"max_steps": 10, "eval_every": 5, "log_every": 1, "checkpoint_every": 100, "optimizer": "adamw"}
CASES = [(family, method) for family in tiny.FAMILIES for method in METHODS]


def ten_steps(family: str, method: str, folder: Path) -> dict[str, Any]:
    """Losses of two runs, their initial and final weights in short, and logits after ten steps with dropout.

    The architecture's own dropout is on at hidden states, attention probabilities, DeBERTa's relative embeddings and
    the head; the low-rank methods drop their adapters' input too. Twenty examples: two epochs.
    """
    weights = write_weights(family, folder / "weights")
    backbone = {"weights": str(weights), "dropout": None}
    configs = tiny.runs(family, [0, 1], backbone=backbone, method=METHODS[method], trainer=TRAINER)
    pack = tiny.pack(configs, torch.float64, train=20)
    tensors = {name: tensor for group in pack.optimizer.groups for name, tensor in group.tensors.items()}
    initial = digest(tensors)
    pack.optimizer.rows.copy_(rounded(pack.optimizer.rows))
    names = [str(run.seed) for run in configs]
    loop = tiny.finish(pack, folder, names)
    lines = [[json.loads(line) for line in (folder / name / "metrics.jsonl").open(encoding="utf-8")] for name in names]
    trained = [[line for line in replica if line["kind"] == "train"] for replica in lines]
    return {
        "initial": initial,
        "loss": [[line["loss"] for line in replica] for replica in trained],
        "penalty": [[line["penalty"] for line in replica] for replica in trained],
        "grad_norm": [[line["grad_norm"] for line in replica] for replica in trained],
        "final": digest(tensors),
        "live_ranks": [progress.history[-1]["live_ranks"] for progress in loop.progress],
        "logits": predict(pack, pack.splits["report"])[:, :5].astype(np.float64).tolist(),
    }


def write_weights(family: str, folder: Path) -> Path:
    """A checkpoint for the tiny backbone whose every value is a multiple of 1/128, drawn by its name."""
    (run,) = tiny.runs(family)
    state = {}
    for name, tensor in load_backbone(run.backbone).encoder.state_dict().items():
        generator = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
        values = torch.from_numpy(generator.integers(-45, 46, tuple(tensor.shape))).float() / 128
        state[name] = 1 + values / 4 if name.endswith("LayerNorm.weight") else values
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    return folder


def rounded(values: Tensor) -> Tensor:
    """``values`` to four binary digits, which hides in what last bits processors draw differently."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp((mantissa * 16).round() / 16, exponent)


def digest(tensors: Mapping[str, Tensor]) -> dict[str, list[list[float]]]:
    """Of each tensor [R, ...] and replica: its sum, its norm, and its product with 1, 1/2, 1/3, ..."""
    result = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().double().flatten(1)
        falling = 1 / torch.arange(1, flat.shape[1] + 1, dtype=torch.float64)
        result[name] = torch.stack([flat.sum(1), flat.norm(dim=1), flat @ falling], 1).tolist()
    return result


# -- run ids of SuperGLUE ----------------------------------------------------------------------------------------

DATA, WEIGHTS = "d" * 64, {"sha256": "e" * 64}
CHANGES = (  # beside every task as it is
    ("boolq", "++task.truncate=''"),
    ("copa", "++task.truncate=text_a"),
    ("wic", "++task.spans=marks"),
    ("wic", "++task.spans=''"),
    ("wsc", "++task.spans=marks"),
    ("wsc", "++task.truncate=text_a"),
)


def run_ids(folder: Path) -> dict[str, str]:
    """The run id of SoRA on every SuperGLUE task, and with its truncation or its spans changed."""
    commands = [(name,) for name in superglue.FOLDERS] + list(CHANGES)
    result = {}
    for name, *changes in commands:
        (run,) = composing.runs(folder, "recipe=none", "trainer.optimizer=adamw", f"task={name}", *changes)
        result[" ".join((name, *changes))] = run_id(run, DATA, WEIGHTS)
    return result


def data_hashes(folder: Path) -> dict[str, str]:
    """The hash of the examples of every task, from a small download, as it goes into a run id."""
    superglue.download(folder, *superglue.FOLDERS)
    data = DataConfig(dir=str(folder), allow_partial=True)
    return {name: load(load_task(name), ProtocolConfig("paper"), data).sha256 for name in superglue.FOLDERS}


# -- the file ----------------------------------------------------------------------------------------------------


def measure(folder: Path) -> dict[str, Any]:
    """Everything the file holds; ``folder`` is for what is written on the way."""
    for name in ("ids", "data"):
        (folder / name).mkdir()
    return {
        "dropout_keys": dropout_keys(),
        "counters": counters(),
        "masks": masks(),
        "order": {"bucketing": order(True), "plain": order(False)},
        "relative_rows": {str(buckets): relative_rows(buckets) for buckets in TABLES},
        "ten_steps": {f"{f}/{m}": ten_steps(f, m, folder / f / m) for f, m in CASES},
        "run_ids": run_ids(folder / "ids"),
        "data_hashes": data_hashes(folder / "data"),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    FILE.parent.mkdir(exist_ok=True)
    lines = [f'"{key}": {_text(value)}' for key, value in found.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")


def _text(value: Any, depth: int = 3) -> str:
    """JSON with a line for every entry of the outer ``depth`` levels, so that a difference can be read."""
    value = _shortened(value)
    if not isinstance(value, dict) or not depth:
        return json.dumps(value, separators=(",", ":"))
    return "{\n" + ",\n".join(f'"{key}": {_text(each, depth - 1)}' for key, each in value.items()) + "\n}"


def _shortened(value: Any) -> Any:
    """Numbers to eleven decimals: two more than are compared."""
    if isinstance(value, list):
        return [_shortened(each) for each in value]
    return round(value, 11) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
