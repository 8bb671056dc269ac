"""Small random models and token data with which tests train real packs in milliseconds. No tokenizer, no files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sora.backbones.families import FAMILIES as KNOWN
from sora.runs.resolve import build_runs
from sora.tasks import Examples, TaskData
from sora.training.logging import Tracker
from sora.training.loop import Loop
from sora.training.pack import EncodedSplit, Pack, build_pack

VOCABULARY, HIDDEN, LAYERS = 60, 32, 2
SHARED = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.2,  # larger than usual, so that so small a model has something to say
    "pad_token_id": 0,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", "max_position_embeddings": 64, "type_vocab_size": 2},
    "roberta": {"model_type": "roberta", "max_position_embeddings": 64, "type_vocab_size": 1, "pad_token_id": 1},
    "deberta-v2": {
        "model_type": "deberta-v2",
        "max_position_embeddings": 64,
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "max_relative_positions": -1,
        "pooler_dropout": 0,
        "pooler_hidden_act": "gelu",
        "pooler_hidden_size": HIDDEN,
        "layer_norm_eps": 1e-7,
    },
}
FAMILIES = tuple(ARCHITECTURES)  # of the backbones with every method; what follows is put to the same proofs with one
_BERT = {"max_position_embeddings": 64, "type_vocab_size": 2}
ARCHITECTURES |= {
    "xlm-roberta": ARCHITECTURES["roberta"] | {"model_type": "xlm-roberta"},
    "electra": _BERT | {"model_type": "electra", "embedding_size": 16},
    "distilbert": {
        "model_type": "distilbert",
        "max_position_embeddings": 64,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation": "gelu",
    },
    "albert": _BERT
    | {
        "model_type": "albert",
        "embedding_size": 16,
        "num_hidden_layers": 4,
        "num_hidden_groups": 2,
        "classifier_dropout_prob": 0.1,
        "hidden_act": "gelu_new",
    },
    "mpnet": {"model_type": "mpnet", "max_position_embeddings": 64, "pad_token_id": 1},
    "modernbert": {
        "model_type": "modernbert",
        "num_hidden_layers": 3,
        "max_position_embeddings": 64,
        "local_attention": 16,  # 8 tokens to each side
        "attention_dropout": 0.1,
        "embedding_dropout": 0.1,
        "mlp_dropout": 0.1,
        "classifier_dropout": 0.1,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    # not listed by name: attention of its own, and by transformers' interface
    "rembert": _BERT | {"model_type": "rembert", "input_embedding_size": 16, "output_embedding_size": 16},
    "ernie": _BERT | {"model_type": "ernie"},
}
EVERY = tuple(ARCHITECTURES)
METHODS: dict[str, dict[str, Any]] = {  # every packable method, in the readings that compute differently
    "lora": {"name": "lora"},
    "lora-rslora": {"name": "lora", "rslora": True, "targets": ["output.dense"]},
    "masked_lora": {"name": "masked_lora", "pattern": "permuted"},
    "sora": {"name": "sora"},
    "sora-paper": {"name": "sora", "fidelity": "paper", "threshold": 2e-3},
    "sora-sum": {"name": "sora", "penalty_rule": "sum", "penalty": 1e-3},
    "adalora": {"name": "adalora", "r": 2, "init_r": 4, "warmup": 0.2, "final": 0.3, "interval": 2},
    "bitfit": {"name": "bitfit"},
    "adapter": {"name": "adapter", "bottleneck": 3},
}


class Tokens:
    """Stands in for the encoded texts of a split: the same interface over ready-made ids."""

    def __init__(self, rows: list[list[int]], pad: int) -> None:
        self.rows, self.pad = rows, pad
        self.lengths = self.counts = np.array([len(row) for row in rows])
        self.choices, self.truncated = 1, 0

    def collate(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        chosen = [self.rows[i] for i in indices]
        width = max(map(len, chosen))
        ids = torch.tensor([row + [self.pad] * (width - len(row)) for row in chosen])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in chosen])
        return {"input_ids": ids, "attention_mask": mask}


def ranks(family: str = "bert") -> dict[str, int]:
    """Ranks from 0 to 4 of the adapted matrices of the tiny backbone, by their full names."""
    names = [f"encoder.layer.{layer}.{end}" for layer in range(LAYERS) for end in KNOWN[family].targets]
    return {name: (3 * place + 1) % 5 for place, name in enumerate(names)}


def runs(family: str = "bert", seeds: list[int] | int = 0, **groups: Any) -> list[Any]:
    """Runs on a tiny random backbone; each keyword updates one group of the configuration."""
    config: dict[str, Any] = {
        "backbone": {
            "name": "tiny",
            "family": family,
            "weights": "random",
            "arch": SHARED | ARCHITECTURES[family],
            "dropout": 0.0,
        },
        "task": {
            "name": "toy",
            "benchmark": "synthetic",
            "reader": "synthetic",
            "labels": ["0", "1"],
            "max_length": 32,
        },
        "protocol": {"name": "dev"},
        "trainer": {
            "max_steps": 20,
            "batch_size": 4,
            "learning_rate": 5e-3,
            "eval_every": 10,
            "checkpoint_every": 5,
            "log_every": 5,
        },
        "schedule": {"kind": "none"},
        "seed": seeds,
    }
    method = {"name": "sora"} | groups.pop("method", {})
    small = {"sora": {"r": 4, "threshold": 1e-3}, "lora": {"r": 4}, "masked_lora": {"r": 4}}
    config["method"] = small.get(method["name"], {}) | method
    if method["name"] == "masked_lora":
        config["method"] = {"ranks": ranks(family)} | config["method"]
    for key, value in groups.items():
        config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
    return build_runs(config)


def data(task: Any, family: str = "bert", train: int = 60, held: int = 30) -> TaskData:
    """Learnable toy data: the class is whether a sentence holds more large than small token ids."""
    rng = np.random.default_rng(7)
    splits, rows = {}, {}
    for name, size in (("train", train), ("select", held), ("report", held)):
        rows[name] = [rng.integers(5, VOCABULARY, rng.integers(4, 14)).tolist() for _ in range(size)]
        score = np.array([np.mean(row) for row in rows[name]])
        labels = (score - score.mean()).astype(np.float32) if task.regression else (score > 32).astype(np.int64)
        splits[name] = Examples(f"toy/{name}.tsv", np.arange(size), ([""] * size,), labels)
    splits["train_subset"] = splits["train"].take(np.arange(20))
    rows["train_subset"] = rows["train"][:20]
    sizes = {name: len(examples) for name, examples in splits.items()}
    made = TaskData(task, splits, sizes, {}, "0" * 64)
    object.__setattr__(made, "rows", rows)
    object.__setattr__(made, "pad", ARCHITECTURES[family].get("pad_token_id", 0))
    return made


def pack(configs: list[Any], dtype: torch.dtype = torch.float32, device: str = "cpu", **sizes: int) -> Pack:
    """A pack on the toy data, ready to train."""
    family = configs[0].backbone.family
    toy = data(configs[0].task, family, **sizes)
    built = build_pack(configs, toy, torch.device(device), dtype=dtype, encode=False)
    for name, examples in toy.splits.items():
        built.splits[name] = EncodedSplit(examples, Tokens(toy.rows[name], toy.pad))  # type: ignore[attr-defined, arg-type]
    return built


def train(configs: list[Any], folder: Any, dtype: torch.dtype = torch.float32, **loop_arguments: Any) -> Loop:
    """Train a pack of ``configs`` to its end in ``folder``; run ids are the seeds."""
    return finish(pack(configs, dtype), folder, **loop_arguments)


class Stopped(Exception):
    """What ends :func:`stop` in the middle of a training."""


def stop(configs: list[Any], folder: Any, step: int) -> None:
    """Begin to train as :func:`train` does, and stop when the checkpoint of ``step`` is written."""

    def end(now: int) -> None:
        if now == step:
            raise Stopped

    with pytest.raises(Stopped):
        train(configs, folder, after_checkpoint=end)


def finish(built: Pack, folder: Any, names: list[str] | None = None, **loop_arguments: Any) -> Loop:
    """Train a pack that is built."""
    names = names or [f"seed-{run.seed}" for run in built.runs]
    folders = [folder / name for name in names]
    with Tracker(folders, names, built.total_steps, interactive=False) as tracker:
        loop = Loop(built, tracker, names, folders, **loop_arguments)
        loop.resume()
        loop.run()
    return loop
