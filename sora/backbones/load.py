"""The frozen encoder of a pack: exact architecture, checked weights, replica-aware attention, counted dropout."""

from __future__ import annotations

import fnmatch
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sora.backbones import attention, deberta
from sora.backbones.dropout import CounterDropout, DropoutContext, replace_dropouts
from sora.backbones.source import WAYS_OUT, checked_hash, tokenizer_folder, weights_file
from sora.backbones.token_cache import cached, token_key
from sora.backbones.tokenizer import Encoding, encode, load_tokenizer
from sora.backbones.weights import read_state
from sora.config import BackboneConfig
from sora.errors import UserError

PREFIXES = {
    "bert": "bert",
    "roberta": "roberta",
    "deberta-v2": "deberta",
}  # attribute of the encoder in *For... classes
PROBABILITIES = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "pooler_dropout", "classifier_dropout"),
    "cls_dropout",  # DeBERTa's name of the last
)
INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # of every encoder
SHARED_ENDS = ("attention.output.dense", "intermediate.dense", "output.dense")
LAYER_TARGETS = {  # the six matrices of a layer (SoRA, Appendix A)
    "bert": (*(f"attention.self.{x}" for x in ("query", "key", "value")), *SHARED_ENDS),
    "roberta": (*(f"attention.self.{x}" for x in ("query", "key", "value")), *SHARED_ENDS),
    "deberta-v2": (*(f"attention.self.{x}_proj" for x in ("query", "key", "value")), *SHARED_ENDS),
}


@dataclass(frozen=True)
class Architecture:
    """Sizes that others need."""

    family: str  # bert | roberta | deberta-v2
    hidden: int
    layers: int
    heads: int
    initializer_range: float


class Fp32LayerNorm(nn.LayerNorm):
    """LayerNorm in fp32 between bf16 neighbours."""

    rounded: tuple[Tensor, Tensor] | None = None  # weight and bias, for a GPU's kernel

    def forward(self, input: Tensor) -> Tensor:
        """[..., d] of any dtype -> the same shape and dtype."""
        if input.is_cuda and input.dtype == torch.bfloat16 and not self.weight.requires_grad:
            # the kernel computes in fp32 inside, and these weights were rounded to bf16 when they were read
            if self.rounded is None or self.rounded[0].device != input.device:
                self.rounded = (self.weight.to(input.dtype), self.bias.to(input.dtype))
            return F.layer_norm(input, self.normalized_shape, *self.rounded, self.eps)
        out = F.layer_norm(input.float(), self.normalized_shape, self.weight, self.bias, self.eps)
        return out.to(input.dtype)


class Backbone(nn.Module):
    """An encoder of transformers whose modules keep their names, frozen, with its tokenizer.

    Attributes:
        encoder: ``AutoModel`` without pooler. hf_config: its configuration.
        prefix: name of the encoder inside transformers' sequence-classification class.
        source: what ``from_pretrained`` takes to get the same weights elsewhere.
        pooler: pretrained weight [d, d] and bias [d] of the pooler, where the checkpoint has one.
        dropout: the state of all dropout sites; a training step begins and ends it.
    """

    def __init__(
        self, config: BackboneConfig, encoder: nn.Module, hf_config: Any, precision: str, replicas: int
    ) -> None:
        super().__init__()
        self.config, self.encoder, self.hf_config = config, encoder, hf_config
        self.precision, self.replicas = precision, replicas
        self.prefix = PREFIXES[config.family]
        self.source = (
            config.hub or config.name if config.weights in ("pretrained", "random") else Path(config.weights).name
        )
        self.arch = Architecture(
            config.family,
            hf_config.hidden_size,
            hf_config.num_hidden_layers,
            hf_config.num_attention_heads,
            hf_config.initializer_range,
        )
        self.pooler: dict[str, Tensor] = {}
        self.dropout = DropoutContext()
        self.autocast = False
        self._tokenizer: Any = None

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """``input_ids``, ``attention_mask``, ``token_type_ids`` [R*b, t], replica-major -> hidden [R*b, t, d] fp32.

        Other entries of ``batch`` are the head's.
        """
        device = batch["input_ids"].device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self.autocast):
            inputs = {name: batch[name] for name in INPUTS if name in batch}
            hidden: Tensor = self.encoder(**inputs).last_hidden_state
        return hidden.float() if hidden.dtype in attention.LOW_PRECISION else hidden

    def encode(self, texts: tuple[list[str], ...], max_length: int, cache: Path | None = None, **how: Any) -> Encoding:
        """Tokenise columns of N texts as ``tokenizer.encode`` does, or take their tokens from the folder ``cache``.

        ``cache`` None keeps none. Raises UserError where no tokenizer can be had, or tokens cannot be kept.
        """
        segments = int(getattr(self.hf_config, "type_vocab_size", 0)) > 1

        def tokenise() -> Encoding:
            if self._tokenizer is None:
                self._tokenizer = load_tokenizer(self.config)
            return encode(self._tokenizer, texts, max_length, segments, **how)

        if cache is None:
            return tokenise()
        key = token_key(self.config, tokenizer_folder(self.config), texts, max_length, segments, **how)
        return cached(cache, key, tokenise)

    def dropout_site(self, p: float, name: str) -> CounterDropout:
        """A new dropout site with masks of its own. Raises ValueError for a name that is taken."""
        return CounterDropout(p, self.dropout, name)

    def linear_targets(self, patterns: list[str] | None = None) -> dict[str, nn.Linear]:
        """The linear layers to adapt, by full name in the order of the model.

        Args:
            patterns: shell patterns of full names, or ends of names as in PEFT; None = the six matrices of each layer.

        Raises:
            UserError: a pattern that matches nothing, or nothing linear.
        """
        every = dict(self.encoder.named_modules())
        linear = {name: module for name, module in every.items() if isinstance(module, nn.Linear)}
        ends = LAYER_TARGETS[self.arch.family]
        if patterns is None:
            names = [f"encoder.layer.{layer}.{end}" for layer in range(self.arch.layers) for end in ends]
            return {name: linear[name] for name in names}
        chosen: set[str] = set()
        for pattern in patterns:
            found = {name for name in linear if matches(name, pattern)}
            if not found:
                other = [name for name in every if name and matches(name, pattern)]
                what = f"matches {other[0]}, which is no linear layer" if other else "matches no module"
                candidates = ", ".join(dict.fromkeys(name.split(".", 3)[-1] for name in linear if ".layer." in name))
                raise UserError(
                    f"method.targets: {pattern!r} {what} of backbone={self.config.name}; each layer has {candidates}"
                )
            chosen |= found
        return {name: module for name, module in linear.items() if name in chosen}

    def unfreeze(self) -> None:
        """Make every weight of the encoder trainable, in fp32; with precision=bf16 its products still run in bf16."""
        self.encoder.float().requires_grad_(True)
        self.autocast = self.precision == "bf16"


def matches(name: str, pattern: str) -> bool:
    """Whether ``pattern`` is a shell pattern of a module's full name, or the end of that name."""
    return fnmatch.fnmatchcase(name, pattern) or name.endswith(f".{pattern}")


def load_backbone(
    config: BackboneConfig, *, precision: str = "fp32", replicas: int = 1, cache: Path | None = None
) -> Backbone:
    """Build the encoder of ``config.arch`` with its weights, everything frozen.

    Weights are read as fp32 whatever the file holds. ``precision``: fp32; tf32, which lets a GPU round the inputs of
    fp32 products; bf16, to which the checkpoint is rounded and in which the frozen weights are multiplied. LayerNorm,
    softmax and all that trains compute in fp32 from there, full fine-tuning and biases from the rounded values.
    A pickled file is converted once into the folder ``cache``; None reads the pickle every time.

    Raises:
        UserError: an architecture that transformers refuses; weights that are missing, damaged, of another
            architecture, or of a class that cannot be packed.
    """
    from transformers import AutoConfig, AutoModel

    logging.getLogger("transformers").setLevel(logging.ERROR)  # its advice is about uses that are not ours
    arch = dict(config.arch)
    kind = arch.pop("model_type", config.family)
    if config.dropout is not None:
        arch |= dict.fromkeys(PROBABILITIES, config.dropout)
    implementation = "eager" if config.family == "deberta-v2" else attention.register()
    extra = {} if config.family == "deberta-v2" else {"add_pooling_layer": False}
    try:
        hf_config = AutoConfig.for_model(kind, **arch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.init_seed)
            encoder = AutoModel.from_config(hf_config, dtype=torch.float32, attn_implementation=implementation, **extra)
    except Exception as error:  # of any type: an activation that does not exist is a KeyError, a size a ValueError
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"backbone.arch: transformers cannot build this {kind} ({reason})") from error
    backbone = Backbone(config, encoder, hf_config, precision, replicas)
    if config.weights != "random":
        backbone.pooler = _load_weights(encoder, config, cache)
    replace_dropouts(encoder, backbone.dropout)
    if config.family == "deberta-v2":
        deberta.replace_attention(encoder)
    encoder.requires_grad_(False)
    encoder.eval()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if precision == "bf16":
        _to_bf16(encoder)
    return backbone


def _load_weights(encoder: nn.Module, config: BackboneConfig, cache: Path | None) -> dict[str, Tensor]:
    """Fill the encoder from its file; returns the pooler's weights, {} where the file has none."""
    path = weights_file(config)
    sha256 = checked_hash(config, path)
    state = read_state(path, sha256, cache)
    prefix = PREFIXES[config.family] + "."
    state = {key.removeprefix(prefix): value.float() for key, value in state.items()}
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):  # LayerNorm's names in the oldest checkpoints
        state = {key.removesuffix(old) + new if key.endswith(old) else key: value for key, value in state.items()}
    wanted = encoder.state_dict()
    missing = [key for key in wanted if key not in state]
    unlike = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    if missing or unlike:
        what = f"lacks {missing[0]}" if missing else f"has {unlike[0]} of shape {list(state[unlike[0]].shape)}"
        raise UserError(
            f"{path}: not the architecture of backbone={config.name} ({what}; "
            f"{len(missing) + len(unlike)} tensors do not fit); choose the backbone they belong to, or {WAYS_OUT}"
        )
    encoder.load_state_dict({key: state[key] for key in wanted})
    pooler = {
        key.removeprefix("pooler.dense."): value for key, value in state.items() if key.startswith("pooler.dense.")
    }
    return pooler if set(pooler) == {"weight", "bias"} else {}


def _to_bf16(encoder: nn.Module) -> None:
    encoder.to(torch.bfloat16)
    for name, module in list(encoder.named_modules()):
        if isinstance(module, nn.LayerNorm):
            norm = Fp32LayerNorm(module.normalized_shape, module.eps)
            norm.load_state_dict({key: value.float() for key, value in module.state_dict().items()})
            norm.requires_grad_(False)
            parent, _, child = name.rpartition(".")
            setattr(encoder.get_submodule(parent), child, norm)
