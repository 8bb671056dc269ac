"""Composed configurations without the program: a tiny backbone beside the repository's own conf/."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra import compose, initialize_config_dir

from sora.config import RunConfig
from sora.records import SCHEMA_VERSION, arrays_digest
from sora.resolve import build_runs

CONF = Path(__file__).resolve().parents[1] / "conf"
TINY = {"name": "tiny", "family": "bert", "arch": {"hidden_size": 32, "max_position_embeddings": 512}}


def config_dir(folder: Path, *names: str) -> Path:
    """A folder for --config-dir that has the backbones ``tiny`` and ``names``; those of conf/ win."""
    (folder / "backbone").mkdir(parents=True, exist_ok=True)
    for name in ("tiny", *names):
        (folder / "backbone" / f"{name}.yaml").write_text(yaml.safe_dump(TINY | {"name": name}), encoding="utf-8")
    return folder


def composed(folder: Path, *overrides: str, backbone: str = "tiny") -> Any:
    """What ``python run.py backbone=<backbone> <overrides>`` composes."""
    search = f"hydra.searchpath=[file://{config_dir(folder, backbone)}]"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [f"backbone={backbone}", *overrides, search])


def runs(folder: Path, *overrides: str, backbone: str = "tiny") -> list[RunConfig]:
    """The runs of that command."""
    return build_runs(composed(folder, *overrides, backbone=backbone))


def arrays() -> dict[str, np.ndarray]:
    """Logits and labels of three examples of each split."""
    result = {}
    for name in ("select", "report"):
        result[f"{name}_ids"] = np.arange(3)
        result[f"{name}_logits"] = np.array([[0.5, 1.5], [2.0, -1.0], [0.0, 0.25]], dtype=np.float16)
        result[f"{name}_labels"] = np.array([1, 0, 0])
    return result


def record(run_id: str = "0123456789ab") -> dict[str, Any]:
    """A whole record whose arrays are :func:`arrays`."""
    evaluation = {"step": 20, "select": {"accuracy": 0.75}, "report": {"accuracy": 0.5}}
    return {
        "schema": SCHEMA_VERSION,
        "run_id": run_id,
        "status": "ok",
        "flags": {
            "one_class": False,
            "partial": False,
            "synthetic": False,
            "random_weights": False,
            "members_changed": False,
            "diverged_at": None,
        },
        "config": {
            "backbone": {"name": "tiny"},
            "method": {"name": "sora"},
            "task": {"name": "rte"},
            "protocol": {"name": "paper"},
            "trainer": {},
            "schedule": {},
            "seed": 0,
            "weights": {"kind": "random"},
        },
        "history": [
            {
                "step": 20,
                "epoch": 1.0,
                "lr": 0.0,
                "threshold": 1e-4,
                "loss": 0.7,
                "select": {"accuracy": 0.75},
                "live_ranks": 7,
            }
        ],
        "level_results": [],
        "pack": {"size": 1, "members": [run_id]},
        "metrics": {"selected": evaluation, "last": deepcopy(evaluation)},
        "params": {"trainable": 10, "live": 6, "authors_formula": 8, "head": 4},
        "ranks": {"layer.0.query": 7},
        "data": {
            "sizes": {"train": 2490},
            "partial": {},
            "sha256": "0" * 64,
            "sources": {"train": "RTE/train.tsv"},
            "arrays_sha256": arrays_digest(arrays()),
        },
        "time": {"setup_s": 1.0, "train_s": 2.0, "eval_s": 3},
        "throughput": {"examples_per_s": 10.0, "tokens_per_s": 100.0, "padding": 0.1},
        "memory": {"peak_bytes": None},
        "provenance": {
            "command": "python run.py",
            "git": None,
            "versions": {"python": "3.11"},
            "device": "cpu",
            "threads": 1,
            "started": "2024-01-01T00:00:00+00:00",
            "finished": "2024-01-01T00:00:06+00:00",
            "resumed_at": [],
        },
    }
