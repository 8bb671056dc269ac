"""What a run hands to the rest of the world: a standard PEFT folder, or a plain transformers model.

A SoRA adapter whose dead ranks are cut out is a LoRA whose rank differs from matrix to matrix: PEFT says that with
``rank_pattern`` and ``alpha_pattern``. The scale s = alpha / r_max stays what it was, so alpha_i = s * r_i. A matrix
whose ranks all died is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sora.backbones.head import form_of
from sora.files import as_user_error, replaced, write_text

if TYPE_CHECKING:
    from sora.backbones import Backbone, Head
    from sora.config import TaskConfig

Factors = dict[str, tuple[Tensor, Tensor]]
PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
PEFT_PREFIX = "base_model.model."
MODEL_WEIGHTS = "model.safetensors"
HEAD_WEIGHTS = "head.safetensors"
OWN_WEIGHTS = "adapter.safetensors"


def write_lora(
    folder: Path,
    factors: Factors,
    scaling: float,
    *,
    base: str,
    task_type: str | None = None,
    saved: dict[str, Tensor] | None = None,
    modules_to_save: Sequence[str] | None = None,
) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, which plain PEFT loads, into ``folder``.

    Args:
        factors: A [r', in] and B [out, r'] of every adapted matrix by its full name in the model; r' may be 0.
        scaling: s of W0 + s B A.
        base: what ``from_pretrained`` takes to get the model that the adapter belongs to.
        saved: whole weights that travel with the adapter, by their name in the model; all of ``modules_to_save``.
    """
    alive = {name: pair for name, pair in factors.items() if pair[0].shape[0] > 0}
    if not alive:  # PEFT refuses an adapter without modules: one rank of zeros stands for nothing
        name, (a, b) = next(iter(factors.items()))
        alive = {name: (a.new_zeros(1, a.shape[1]), b.new_zeros(b.shape[0], 1))}
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in alive.items():
        tensors[f"{PEFT_PREFIX}{name}.lora_A.weight"] = a
        tensors[f"{PEFT_PREFIX}{name}.lora_B.weight"] = b
    tensors |= {f"{PEFT_PREFIX}{name}": value for name, value in (saved or {}).items()}
    ranks = {name: a.shape[0] for name, (a, _) in alive.items()}
    top = max(ranks.values())
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": top,
        "lora_alpha": scaling * top,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "target_modules": sorted(ranks),
        "rank_pattern": {_key(name, ranks): rank for name, rank in sorted(ranks.items()) if rank != top},
        "alpha_pattern": {_key(name, ranks): scaling * rank for name, rank in sorted(ranks.items()) if rank != top},
        "modules_to_save": list(modules_to_save) if modules_to_save else None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _save(tensors, folder / PEFT_WEIGHTS)
    write_text(folder / PEFT_CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _key(name: str, ranks: dict[str, int]) -> str:
    """What stands for ``name`` in a pattern of PEFT: the name, or an expression where that also fits another rank.

    PEFT takes a key for the end of a name, a dot in it for any character, and the first key that fits.
    """
    end = re.compile(r"(.*\.)?" + re.escape(name).replace(r"\.", "."))
    unlike = (other for other, rank in ranks.items() if rank != ranks[name])
    return f"^{re.escape(name)}" if any(map(end.fullmatch, unlike)) else name


def write_peft(folder: Path, factors: Factors, scaling: float, backbone: Backbone, head: Head, replica: int) -> None:
    """Write the adapter of one replica with its head; ``factors`` by names in the encoder.

    A head that transformers' sequence-classification class has travels as PEFT's ``modules_to_save``. No such class
    pools by mean or reads span vectors: there the adapter is one for feature extraction and the head lies next to it in
    ``head.safetensors``.
    """
    state = head.export_state(replica)
    if head.fits_class:
        named = {f"{backbone.prefix}.{name}": pair for name, pair in factors.items()}
        write_lora(
            folder,
            named,
            scaling,
            base=backbone.source,
            task_type="SEQ_CLS",
            saved=state,
            modules_to_save=head.module_names(),
        )
    else:
        write_lora(folder, factors, scaling, base=backbone.source, task_type="FEATURE_EXTRACTION")
        _save(state, folder / HEAD_WEIGHTS)


def write_model(folder: Path, backbone: Backbone, head: Head, replica: int) -> None:
    """Write a model that ``AutoModelForSequenceClassification.from_pretrained(folder)`` loads.

    With a head that this class lacks it is a plain encoder (``AutoModel``) and the head lies next to it.
    """
    write_plain(folder, backbone, backbone.encoder.state_dict(), head.export_state(replica), head.fits_class)


def write_plain(
    folder: Path, backbone: Backbone, encoder: dict[str, Tensor], head: dict[str, Tensor], fits_class: bool
) -> None:
    """:func:`write_model` from the weights themselves: ``encoder`` by its own names, ``head`` by transformers'."""
    config = backbone.hf_config.to_dict()
    folder.mkdir(parents=True, exist_ok=True)
    if fits_class:
        form = form_of(backbone.config.family, backbone.hf_config)
        outputs = head[f"{form.output}.weight"].shape[0]
        config["architectures"] = [form.cls]
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(outputs)}
        config["label2id"] = {f"LABEL_{i}": i for i in range(outputs)}
        encoder = {f"{backbone.prefix}.{name}": value for name, value in encoder.items()} | head
    else:
        _save(head, folder / HEAD_WEIGHTS)
    _save(encoder, folder / MODEL_WEIGHTS)
    config["dtype"] = "float32"
    write_text(folder / "config.json", json.dumps(config, indent=2, sort_keys=True, default=str) + "\n")


def name_labels(folder: Path, task: TaskConfig) -> None:
    """Write the words of the task's labels into ``config.json``, so that transformers' pipelines answer with them.

    A folder without that file, or whose model does not classify, is left as it is.
    """
    path = folder / "config.json"
    if not path.is_file() or (folder / HEAD_WEIGHTS).is_file():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    names = task.labels if task.choices == 1 and task.labels else ["score"]
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    config["label2id"] = {name: index for index, name in enumerate(names)}
    config["problem_type"] = "regression" if task.regression else "single_label_classification"
    write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def read_peft(folder: Path, backbone: Backbone) -> tuple[Factors, float, dict[str, Tensor], bool]:
    """Read what :func:`write_peft` wrote: factors by names in the encoder, s, the head, whether a class has it.

    Raises OSError, ValueError, KeyError or SafetensorError where the folder holds something else.
    """
    config = json.loads((folder / PEFT_CONFIG).read_text(encoding="utf-8"))
    tensors = {key.removeprefix(PEFT_PREFIX): value for key, value in load_file(folder / PEFT_WEIGHTS).items()}
    fits_class = config["task_type"] == "SEQ_CLS"
    prefix = f"{backbone.prefix}." if fits_class else ""
    factors = {
        name.removeprefix(prefix): (tensors.pop(f"{name}.lora_A.weight"), tensors.pop(f"{name}.lora_B.weight"))
        for name in config["target_modules"]
    }
    head = tensors if fits_class else load_file(folder / HEAD_WEIGHTS)
    return factors, config["lora_alpha"] / config["r"], head, fits_class


@torch.no_grad()
def write_merged(folder: Path, adapter: Path, backbone: Backbone) -> None:
    """:func:`write_plain` of what ``adapter``, a folder of :func:`write_peft`, and the frozen weights make together.

    W0 + s B A is summed in float64 and rounded once.
    """
    factors, scaling, head, fits_class = read_peft(adapter, backbone)
    encoder = dict(backbone.encoder.state_dict())
    for name, (a, b) in factors.items():
        base = encoder[f"{name}.weight"].double()
        encoder[f"{name}.weight"] = (base + scaling * (b.double() @ a.double())).float()
    write_plain(folder, backbone, encoder, head, fits_class)


def write_tensors(
    folder: Path, tensors: dict[str, Tensor], backbone: Backbone, head: Head, replica: int, equation: str
) -> None:
    """Write ``adapter.safetensors``: adapter and head, and in its metadata the ``equation`` they stand in.

    For adapters that neither PEFT nor transformers has a class for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save(tensors | head.export_state(replica), folder / OWN_WEIGHTS, base=backbone.source, equation=equation)


def _save(tensors: dict[str, Tensor], path: Path, **metadata: str) -> None:
    plain = {key: value.detach().to("cpu", torch.float32).contiguous().clone() for key, value in tensors.items()}
    full = (OSError, SafetensorError)
    with (
        as_user_error(path, "cannot be written", "make room or choose another folder", full),
        replaced(path) as partial,
    ):
        save_file(plain, partial, metadata={"format": "pt"} | metadata)
