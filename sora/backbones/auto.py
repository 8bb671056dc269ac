"""A backbone from its own config.json: ``backbone=auto backbone.weights=<folder or hub name>`` (torch-free).

What comes out is an ordinary backbone with its architecture written out: its runs are named as any other's.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from sora.backbones.families import ENCODERS, FAMILIES, NAMES, dimension, own_pooling
from sora.backbones.source import backbone_identity, read_config_json, tokenizer_folder, tokenizer_identity
from sora.config import BackboneConfig
from sora.errors import UserError

AUTO = "auto"
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
# Keys of a config.json that are about a head, a tokenizer, generation or the file itself, not about the encoder.
NOT_ARCHITECTURE = re.compile(
    r"_.*|architectures|auto_map|transformers_version|(torch_)?dtype|id2label|label2id|num_labels|finetuning_task|"
    r"problem_type|use_cache|output_.*|return_dict.*|gradient_checkpointing|task_specific_params|torchscript|"
    r"prefix|tokenizer_class|.*_attn_implementation|reference_compile|repad_logits_with_grad|chunk_size_feed_forward"
)


def described(config: BackboneConfig) -> BackboneConfig:
    """``config`` with ``auto`` replaced by what config.json says, in family, architecture, pooling and name.

    The name of ``backbone=auto`` is made of the architecture and a hash of weights and tokenizer, not of their place:
    tables keep two models apart, and a moved folder is still the same backbone.

    Raises:
        UserError: no model is named, or none is there; it is no encoder that can be trained on.
    """
    config = _placed(config)
    if config.family == AUTO:
        config = _read(config)
    if config.pooling == AUTO:
        config = replace(config, pooling=own_pooling(config.family, config.arch))
    if config.name == AUTO:
        config = replace(config, name=_name(config))
    return config


def _placed(config: BackboneConfig) -> BackboneConfig:
    """With a hub name that was given as ``weights`` where hub names stand."""
    if config.hub and (config.hub[0] in "~./" or Path(config.hub).expanduser().is_dir()):
        raise UserError(
            f"backbone.hub: got {config.hub!r}, a folder; hub is the name of a repository such as org/model, a folder "
            "is given as backbone.weights"
        )
    if config.family != AUTO or config.weights in ("pretrained", "random"):
        return config
    if Path(config.weights).expanduser().is_dir() or not HUB_NAME.fullmatch(config.weights):
        return config
    return replace(config, hub=config.weights, weights="pretrained", dir="", package="")


def _read(config: BackboneConfig) -> BackboneConfig:
    named = config.weights != "pretrained" or config.hub or config.dir or config.package
    if config.weights == "random" or not named:
        raise UserError(
            f"backbone={config.name}: reads its architecture from a model; name one with backbone.weights=FOLDER, or "
            "its name on the hub"
        )
    path, values = read_config_json(config)
    kind = values.get("model_type")
    if why := _unsupported(values):
        raise UserError(f"{path}: {why}; {ENCODERS}")
    arch = {key: value for key, value in sorted(values.items()) if value is not None}
    arch = {key: value for key, value in arch.items() if not NOT_ARCHITECTURE.fullmatch(key)} | config.arch
    missing = [name for name in NAMES if "drop" not in name and dimension(arch, name) is None]
    if missing or kind not in FAMILIES:  # a decoder is refused before its weights are fetched
        arch |= _defaults(str(kind), arch, missing)
    config = replace(config, family=str(kind), arch=arch)
    if kind == "deberta-v2" and not (tokenizer_folder(config) / "spm.model").is_file():
        config = replace(config, tokenizer="hf")  # there is no sentencepiece model whose normaliser could be put back
    return config


def _unsupported(values: dict[str, Any]) -> str:
    """Why a model is not taken, as far as its config.json shows; the rest is seen when it is run."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or not kind:
        return (
            'names no model_type; if it is of a model of transformers, write that into it, as in "model_type": "bert"'
        )
    classes = [str(name) for name in values.get("architectures") or []]
    what = ""
    if "quantization_config" in values:
        what = "quantised"
    elif values.get("is_encoder_decoder"):
        what = "an encoder-decoder"
    elif values.get("is_decoder") or (kind not in FAMILIES and any("CausalLM" in name for name in classes)):
        what = "a decoder, which reads from left to right"
    elif "vision_config" in values or "image_size" in values:
        what = "a model of images"
    if what:
        return f"this {kind} is {what}, which is not supported"
    other = next((name for name in classes if _of_another(name, kind)), None)
    return f"says model_type {kind}, but architectures {other}; correct it, or fetch it again" if other else ""


def _of_another(name: str, kind: str) -> bool:
    """Return whether ``name`` is a class of transformers for another model than ``kind``."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    stem = CONFIG_MAPPING_NAMES.get(kind, "").removesuffix("Config")
    stems = {config.removesuffix("Config") for config in CONFIG_MAPPING_NAMES.values()}
    found = re.fullmatch(r"(\w+?)(Model|For[A-Z]\w+)", name)
    return found is not None and found[1] in stems and bool(stem) and not name.startswith(stem)


def _defaults(kind: str, arch: dict[str, Any], missing: list[str]) -> dict[str, Any]:
    """Sizes that config.json leaves to the defaults of transformers' class. Raises UserError as ``configuration``."""
    from sora.backbones.build import configuration

    made = configuration(BackboneConfig(AUTO, kind, arch=arch))
    return {name: value for name in missing if isinstance(value := getattr(made, name, None), int)}


def _name(config: BackboneConfig) -> str:
    """``modernbert-22x768-3f2a91c0``: with the tokenizer in it, as a run id has no other word of that."""
    layers, hidden = (dimension(config.arch, key, 0) for key in ("num_hidden_layers", "hidden_size"))
    kind = re.sub(r"[^\w.+-]", "-", config.family)
    (weights,) = backbone_identity(config).values()
    if config.weights != "random":
        weights = hashlib.sha256(f"{weights} {tokenizer_identity(config)}".encode()).hexdigest()
    return f"{kind}-{layers}x{hidden}-{str(weights)[:8]}"
