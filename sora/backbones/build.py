"""transformers' encoder of a configuration: with random weights, or with those of its files, which must fit."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sora.backbones import attention, encoder_checks
from sora.backbones.families import FAMILIES
from sora.backbones.source import WAYS_OUT, check_config_json, checked_hash, weights_files
from sora.backbones.weights import read_state
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

    Raises:
        UserError: transformers refuses it, or it is of a model that is no text encoder.
    """
    from transformers import AutoConfig

    arch = dict(config.arch)
    kind = arch.pop("model_type", config.family)
    try:
        if config.dropout is not None:
            given = {key for key in AutoConfig.for_model(kind).to_dict() | arch if "drop" in key}
            arch |= dict.fromkeys([*PROBABILITIES, *sorted(given)], config.dropout)
        hf_config = AutoConfig.for_model(kind, **arch)
    except Exception as error:  # of any type: a size that is no number is a TypeError
        raise _refused(kind, error) from error
    encoder_checks.check_kind(kind, hf_config)
    return hf_config


def _refused(kind: str, error: Exception) -> UserError:
    reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" ...")
    return UserError(f"backbone.arch: transformers cannot build this {kind} ({reason})")


def _options(cls: Any) -> dict[str, Any]:
    """How the encoder is built: in fp32, with our attention where it can be had, without a pooler."""
    ours = cls.config_class.model_type in FAMILIES or getattr(cls, "_supports_attention_backend", False)
    ours = ours and cls.config_class.model_type != "deberta-v2"
    pooler = "add_pooling_layer" in inspect.signature(cls.__init__).parameters
    return {
        "dtype": torch.float32,
        "attn_implementation": attention.register() if ours else "eager",
        **({"add_pooling_layer": False} if pooler else {}),
    }


def random(config: BackboneConfig, hf_config: Any) -> nn.Module:
    """The encoder with weights drawn from ``backbone.init_seed``. Raises UserError where transformers refuses it."""
    from transformers import AutoModel

    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.init_seed)
            made: nn.Module = AutoModel.from_config(hf_config, **_options(encoder_checks.encoder_class(hf_config)))
    except Exception as error:  # of any type: an activation that does not exist is a KeyError, a size a ValueError
        raise _refused(hf_config.model_type, error) from error
    return made


def pretrained(config: BackboneConfig, hf_config: Any, cache: Path | None) -> tuple[nn.Module, dict[str, Tensor]]:
    """The encoder with the weights of its files, and those of its pooler, {} where the files have none.

    Raises:
        UserError: the files are of another architecture, lack a tensor or hold more of the encoder than is built.
    """
    files = weights_files(config)
    check_config_json(config)
    state = read_state(files, checked_hash(config, files), cache)
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):  # LayerNorm's names in the oldest checkpoints
        state = {key.removesuffix(old) + new if key.endswith(old) else key: value for key, value in state.items()}
    cls = encoder_checks.encoder_class(hf_config)
    try:
        with torch.random.fork_rng(devices=[]):
            encoder, report = cls.from_pretrained(
                None,
                config=hf_config,
                state_dict=dict(state),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **_options(cls),
            )
    except MemoryError:
        raise
    except Exception as error:
        raise _refused(hf_config.model_type, error) from error
    _check_report(config, files[0], encoder, state, report)
    return encoder, _pooler(config.family, state)


def _check_report(
    config: BackboneConfig, path: Path, encoder: nn.Module, state: dict[str, Tensor], report: dict[str, Any]
) -> None:
    """Refuse what transformers' loader only reports: tensors that are missing, of another shape, or left over."""
    unlike = {key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]}
    wanted = {key: list(value.shape) for key, value in encoder.state_dict().items()}
    missing = set(report["missing_keys"]) | {key for key in unlike if key not in wanted}
    prefix = f"{encoder.base_model_prefix}."
    prefixed = any(key.startswith(prefix) for key in state)  # else the encoder was saved alone
    left = [
        key
        for key in report["unexpected_keys"]
        if (not prefixed or key.startswith(prefix)) and not HARMLESS.search(key.removeprefix(prefix))
    ]
    wrong = [f"{key} is missing" for key in sorted(missing)]
    for key in sorted(unlike - missing):
        found = next((list(state[name].shape) for name in (key, prefix + key) if name in state), "another shape")
        wrong.append(f"{key} is {found}, {wanted[key]} expected")
    wrong += [f"{key} has no place in it" for key in sorted(left)]
    if wrong:
        more = f"; {len(wrong)} tensors do not fit" if len(wrong) > 1 else ""
        raise UserError(
            f"{path}: not the architecture of backbone={config.name} ({wrong[0]}{more}); choose the backbone they "
            f"belong to (backbone=auto backbone.weights={path.parent} reads its config.json), or {WAYS_OUT}"
        )


def _pooler(family: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{FAMILIES[family].prefix}." if family in FAMILIES else ""
    names = POOLERS.get(family, OTHERS)
    plain = {key.removeprefix(prefix): value for key, value in state.items()}
    found = {new: plain[old].float() for old, new in names.items() if old in plain}
    whole = {"weight"} if family == "modernbert" else {"weight", "bias"}
    return found if whole <= set(found) else {}
