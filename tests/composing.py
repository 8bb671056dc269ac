"""Composed configurations without the program: a tiny backbone beside the repository's own conf/."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra import compose, initialize_config_dir

from sora.config import RunConfig
from sora.runs import schema
from sora.runs.records import arrays_digest
from sora.runs.resolve import build_runs

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
    """A whole record, from the examples of the schema, whose arrays are :func:`arrays`."""
    made = schema.example()
    made["run_id"], made["pack"]["members"] = run_id, [run_id]
    made["data"]["arrays_sha256"] = arrays_digest(arrays())
    return made
