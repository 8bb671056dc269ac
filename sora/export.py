"""What a run hands to the rest of the world: a standard PEFT folder, or a plain transformers model.

A SoRA adapter whose dead ranks are cut out is a LoRA whose rank differs from matrix to matrix: PEFT says that with
``rank_pattern`` and ``alpha_pattern``. The scale s = alpha / r_max stays what it was, so alpha_i = s * r_i. A matrix
whose ranks all died is left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sora.backbones import Backbone, Head
from sora.records import write_text

PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
HEAD_WEIGHTS = "head.safetensors"


def write_peft(
    folder: Path,
    factors: dict[str, tuple[Tensor, Tensor]],
    scaling: float,
    backbone: Backbone,
    head: Head,
    replica: int,
) -> None:
    """Write ``adapter_config.json``, ``adapter_model.safetensors`` and a README into ``folder``.

    Args:
        factors: A [r', in] and B [out, r'] of every adapted matrix by its name in the encoder; r' may be 0.
        scaling: s of W0 + s B A.
        head: with cls pooling its weights travel as PEFT's ``modules_to_save``; no sequence-classification class
            of transformers pools by mean, so there the adapter is one for feature extraction and the head lies
            beside it in ``head.safetensors``.
    """
    classifies = head.fits_class
    prefix = f"{backbone.prefix}." if classifies else ""
    alive = {name: pair for name, pair in factors.items() if pair[0].shape[0] > 0}
    if not alive:  # PEFT refuses an adapter without modules: one rank of zeros stands for nothing
        name, (a, b) = next(iter(factors.items()))
        alive = {name: (a.new_zeros(1, a.shape[1]), b.new_zeros(b.shape[0], 1))}
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in alive.items():
        tensors[f"base_model.model.{prefix}{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{prefix}{name}.lora_B.weight"] = b
    state = head.export_state(replica)
    if classifies:
        tensors |= {f"base_model.model.{key}": value for key, value in state.items()}
    ranks = {f"{prefix}{name}": a.shape[0] for name, (a, _) in alive.items()}
    top = max(ranks.values())
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if classifies else "FEATURE_EXTRACTION",
        "base_model_name_or_path": backbone.source,
        "inference_mode": True,
        "r": top,
        "lora_alpha": scaling * top,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "target_modules": sorted(ranks),
        "rank_pattern": {name: rank for name, rank in sorted(ranks.items()) if rank != top},
        "alpha_pattern": {name: scaling * rank for name, rank in sorted(ranks.items()) if rank != top},
        "modules_to_save": head.module_names() if classifies else None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _save(tensors, folder / PEFT_WEIGHTS)
    if not classifies:
        _save(state, folder / HEAD_WEIGHTS)
    write_text(folder / PEFT_CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
    write_text(folder / "README.md", _adapter_readme(backbone, head, ranks, factors, classifies))


def write_model(folder: Path, backbone: Backbone, head: Head, replica: int) -> None:
    """Write a model that ``AutoModelForSequenceClassification.from_pretrained(folder)`` loads.

    With mean pooling it is a plain encoder (``AutoModel``) and the head lies beside it.
    """
    classifies = head.fits_class
    prefix = f"{backbone.prefix}." if classifies else ""
    tensors = {f"{prefix}{name}": value for name, value in backbone.encoder.state_dict().items()}
    state = head.export_state(replica)
    config = backbone.hf_config.to_dict()
    if classifies:
        tensors |= state
        config["architectures"] = [head.classification_class()]
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(head.outputs)}
        config["label2id"] = {f"LABEL_{i}": i for i in range(head.outputs)}
    folder.mkdir(parents=True, exist_ok=True)
    _save(tensors, folder / "model.safetensors")
    if not classifies:
        _save(state, folder / HEAD_WEIGHTS)
    config["dtype"] = "float32"
    write_text(folder / "config.json", json.dumps(config, indent=2, sort_keys=True, default=str) + "\n")


def write_tensors(
    folder: Path, tensors: dict[str, Tensor], backbone: Backbone, head: Head, replica: int, equation: str
) -> None:
    """Write ``adapter.safetensors`` with its head, and a README with the ``equation`` they stand in.

    For adapters that neither PEFT nor transformers has a class for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save(tensors | head.export_state(replica), folder / "adapter.safetensors")
    lines = ["# Adapter", "", f"Base: {backbone.source}.", "", equation, ""]
    write_text(folder / "README.md", "\n".join(lines))


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    plain = {key: value.detach().to("cpu", torch.float32).contiguous().clone() for key, value in tensors.items()}
    partial = path.with_suffix(".tmp")
    save_file(plain, partial, metadata={"format": "pt"})
    partial.replace(path)


def _adapter_readme(
    backbone: Backbone, head: Head, ranks: dict[str, int], factors: dict[str, Any], classifies: bool
) -> str:
    lines = [
        "# Low-rank adapter",
        "",
        f"Base: {backbone.source}. {len(ranks)} of {len(factors)} matrices keep {sum(ranks.values())} ranks.",
        "",
    ]
    if backbone.config.weights == "random":
        lines += [
            f"The base has random weights (init_seed {backbone.config.init_seed}): of use only with them.",
            "",
        ]
    loader, extra = (
        ("AutoModelForSequenceClassification", f", num_labels={head.outputs}") if classifies else ("AutoModel", "")
    )
    lines += [
        "```python",
        "from peft import PeftModel",
        f"from transformers import {loader}",
        "",
        "import torch",
        "",
        f'base = {loader}.from_pretrained("{backbone.source}"{extra}, dtype=torch.float32)',
        'model = PeftModel.from_pretrained(base, "path/of/this/folder").eval()',
        "```",
    ]
    if not classifies:
        lines += ["", f"The head, for the mean of the hidden states under the attention mask, is in {HEAD_WEIGHTS}."]
    return "\n".join(lines) + "\n"
