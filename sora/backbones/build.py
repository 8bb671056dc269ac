"""transformers' encoder of a configuration: with random weights, or with those of its files, which must fit."""

from __future__ import annotations

import inspect
import re
import textwrap
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sora.backbones import attention
from sora.backbones.families import ENCODERS, FAMILIES
from sora.backbones.source import CONFIG, WAYS_OUT, backbone_identity, check_config_json, weights_files
from sora.config import BackboneConfig
from sora.errors import UserError

PROBABILITIES = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "pooler_dropout", "classifier_dropout"),
    "cls_dropout",  # DeBERTa's name of the last
)
# Parts of the encoder's own class that carry nothing here: the pooler (the head takes it where it can), constant tables
# that older versions saved, and a copy of DeBERTa's embeddings.
HARMLESS = re.compile(r"pooler\.|.*(position_ids|token_type_ids|inv_freq|_weight)$")
POOLERS = {"albert": {"pooler.weight": "weight", "pooler.bias": "bias"}}
POOLERS["modernbert"] = {f"head.{name}": name.removeprefix("dense.") for name in ("dense.weight", "dense.bias")}
POOLERS["modernbert"] |= {"head.norm.weight": "norm.weight", "head.norm.bias": "norm.bias"}
OTHERS = {"pooler.dense.weight": "weight", "pooler.dense.bias": "bias"}


def configuration(config: BackboneConfig) -> Any:
    """transformers' configuration of ``config.arch``, with the dropout asked for.

    Raises UserError if transformers refuses it, or if it is of a model that is no encoder of text.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    arch = dict(config.arch)
    kind = arch.pop("model_type", config.family)
    with _building(kind):
        if config.dropout is not None:
            given = {key for key in AutoConfig.for_model(kind).to_dict() | arch if "drop" in key}
            arch |= dict.fromkeys([*PROBABILITIES, *sorted(given)], config.dropout)
        hf_config = AutoConfig.for_model(kind, **arch)
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise UserError(f"backbone: {kind} is a decoder, which reads from left to right; {ENCODERS}")
    if not all(isinstance(getattr(hf_config, size, None), int) for size in ("vocab_size", "hidden_size")):
        raise UserError(f"backbone: {kind} is not a text encoder; {ENCODERS}")
    return hf_config


@contextmanager
def _building(kind: str) -> Iterator[None]:
    """Turn what transformers raises into UserError: a size that is no number is a TypeError, a bad name a KeyError."""
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    except MemoryError:
        raise
    except Exception as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")
        raise UserError(f"backbone.arch: transformers cannot build this {kind} ({reason})") from error


def _class(hf_config: Any) -> tuple[Any, dict[str, Any]]:
    """The class of the bare encoder, and how it is built: fp32, our attention where it can be had, no pooler."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    cls: Any = MODEL_MAPPING[type(hf_config)]
    ours = hf_config.model_type in FAMILIES or getattr(cls, "_supports_attention_backend", False)
    ours = ours and hf_config.model_type != "deberta-v2"
    pooler = "add_pooling_layer" in inspect.signature(cls.__init__).parameters
    return cls, {
        "dtype": torch.float32,
        "attn_implementation": attention.register() if ours else "eager",
        **({"add_pooling_layer": False} if pooler else {}),
    }


def random(config: BackboneConfig, hf_config: Any) -> nn.Module:
    """The encoder with weights drawn from ``backbone.init_seed``. Raises UserError where transformers refuses it."""
    from transformers import AutoModel

    with _building(hf_config.model_type):
        torch.manual_seed(config.init_seed)
        made: nn.Module = AutoModel.from_config(hf_config, **_class(hf_config)[1])
    return made


def pretrained(config: BackboneConfig, hf_config: Any) -> tuple[nn.Module, dict[str, Tensor]]:
    """The encoder with the weights of its files, and those of its pooler, {} where the files have none.

    Raises:
        UserError: the files are not those that are pinned, or of another architecture: they lack a tensor of the
            encoder, hold one of another shape, or more than are built; or hold nan.
    """
    check_config_json(config)
    backbone_identity(config)
    files = weights_files(config)
    state = read_state(files)
    with _building(hf_config.model_type):
        cls, how = _class(hf_config)
        prefix = f"{cls.base_model_prefix}."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        encoder, report = cls.from_pretrained(
            None,
            config=hf_config,
            state_dict=own or dict(state),  # the encoder was saved alone
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **how,
        )
    small = next((key for key, value in state.items() if value.dtype.itemsize == 1 and value.dtype != torch.bool), None)
    if small is not None:
        raise UserError(f"{files[0]}: {small} is {state[small].dtype}, quantised, which is not supported; {ENCODERS}")
    wrong = [f"{key} is missing" for key in sorted(report["missing_keys"])]
    for key, found, wanted in sorted(report["mismatched_keys"]):
        wrong.append(f"{key} is {list(found)}, {list(wanted)} expected")
    wrong += [f"{key} has no place in it" for key in sorted(report["unexpected_keys"]) if not HARMLESS.search(key)]
    if wrong:
        more = f"; {len(wrong)} tensors do not fit" if len(wrong) > 1 else ""
        way = "choose the backbone they belong to"
        if (files[0].parent / CONFIG).is_file():  # which says what was built: else it had been refused before
            way = f"{CONFIG} and weights there do not belong together: fetch both again"
        raise UserError(
            f"{files[0]}: not the architecture of backbone={config.name} ({wrong[0]}{more}); {way}, or {WAYS_OUT}"
        )
    lost = next((key for key, value in encoder.named_parameters() if not bool(value.isfinite().all())), None)
    if lost is not None:
        raise UserError(f"{files[0].parent}: {lost} holds nan or inf; its training diverged, or the file is damaged")
    return encoder, _pooler(config.family, state, prefix, hf_config.hidden_size)


def read_state(files: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors of ``files``, the shards of one model, in the dtype of the files; nothing else is unpickled.

    Raises UserError for a file that cannot be read.
    """
    state: dict[str, Tensor] = {}
    for path in files:
        try:
            if path.suffix == ".bin":
                mapped = zipfile.is_zipfile(path)  # not before torch 1.6
                state |= torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            else:
                state |= load_file(path)
        except Exception as error:  # each reader has its own errors for a damaged file
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"{path}: cannot be read as weights ({reason}); fetch the file again") from error
    return state


def _pooler(family: str, state: dict[str, Tensor], prefix: str, hidden: int) -> dict[str, Tensor]:
    names = POOLERS.get(family, OTHERS)
    plain = {key.removeprefix(prefix): value for key, value in state.items()}
    found = {new: plain[old].float() for old, new in names.items() if old in plain}
    whole = {"weight"} if family == "modernbert" else {"weight", "bias"}
    return found if whole <= set(found) and found["weight"].shape == (hidden, hidden) else {}
