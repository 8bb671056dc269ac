"""The frozen encoder of a pack: exact architecture, checked weights, replica-aware attention, counted dropout."""

from __future__ import annotations

import fnmatch
import functools
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import logging as messages

from sora.backbones import attention, build, deberta, encoder_checks, mpnet
from sora.backbones.dropout import CounterDropout, DropoutContext, new_site, replace_dropouts
from sora.backbones.families import FAMILIES, uses
from sora.backbones.source import base_name, tokenizer_folder
from sora.backbones.token_cache import cached, token_key
from sora.backbones.tokenizer import Encoding, encode, load_tokenizer
from sora.config import BackboneConfig
from sora.errors import UserError

INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # of every encoder


class Fp32LayerNorm(nn.LayerNorm):
    """LayerNorm in fp32 between bf16 neighbours."""

    rounded: tuple[Tensor, Tensor | None] | None = None  # weight and bias, for a GPU's kernel

    def forward(self, input: Tensor) -> Tensor:
        """[..., d] of any dtype -> the same shape and dtype."""
        if input.is_cuda and input.dtype == torch.bfloat16 and not self.weight.requires_grad:
            # the kernel computes in fp32 inside, and these weights were rounded to bf16 when they were read
            if self.rounded is None or self.rounded[0].device != input.device:
                bias: Tensor | None = self.bias  # ModernBERT's have none
                self.rounded = (self.weight.to(input.dtype), None if bias is None else bias.to(input.dtype))
            return F.layer_norm(input, self.normalized_shape, *self.rounded, self.eps)
        out = F.layer_norm(input.float(), self.normalized_shape, self.weight, self.bias, self.eps)
        return out.to(input.dtype)


class Backbone(nn.Module):
    """An encoder of transformers whose modules keep their names, frozen, with its tokenizer.

    Attributes:
        encoder: ``AutoModel`` without pooler. hf_config: its configuration.
        prefix: name of the encoder inside transformers' sequence-classification class.
        source: what ``from_pretrained`` takes to get the same weights elsewhere. hidden: width of its states, d.
        pooler: pretrained ``weight`` [d, d] and ``bias`` [d] of the pooler, where the checkpoint has one; of the head
            of ModernBERT also ``norm.weight`` [d].
        dropout: the state of all dropout sites; a training step begins and ends it.
        unpacked: why it takes one run at a time, where it does.
    """

    def __init__(self, config: BackboneConfig, encoder: nn.Module, hf_config: Any, precision: str) -> None:
        super().__init__()
        self.config, self.encoder, self.hf_config, self.precision = config, encoder, hf_config, precision
        listed = FAMILIES.get(config.family)
        self.prefix = listed.prefix if listed else str(getattr(encoder, "base_model_prefix", ""))
        self.source = base_name(config)
        self.hidden: int = hf_config.hidden_size
        self.pooler: dict[str, Tensor] = {}
        self.dropout = DropoutContext()
        self.autocast = False
        self.unpacked = ""
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
            # a tokenizer that gives its owner no segments gives none here: then all tokens are of the first
            own = segments and "token_type_ids" in self._tokenizer.model_input_names
            return encode(self._tokenizer, texts, max_length, own, **how)

        if cache is None:
            return tokenise()
        key = token_key(self.config, self.tokenizer_folder, texts, max_length, segments, **how)
        return cached(cache, key, tokenise)

    @functools.cached_property
    def tokenizer_folder(self) -> Path:
        """Where its tokenizer lies, looked for once: the hub may have to be asked."""
        return tokenizer_folder(self.config)

    def dropout_site(self, p: float, name: str) -> CounterDropout:
        """A new dropout site with masks of its own. Raises ValueError for a name that is taken."""
        return new_site(p, self.dropout, name, self._uses(name))

    def place_dropout_sites(self) -> None:
        """Put a site of our own in the place of every nn.Dropout of the encoder."""
        replace_dropouts(self.encoder, self.dropout, self._uses)

    def _uses(self, name: str) -> int:
        return uses(name, self.hf_config.to_dict())

    def linear_targets(self, patterns: list[str] | None = None) -> dict[str, nn.Linear]:
        """The linear layers to adapt, by full name in the order of the model.

        Args:
            patterns: shell patterns of full names, or ends of names as in PEFT; None = the matrices of each layer by
                the names of its family, or of a family that is not listed every linear layer of the repeated blocks.

        Raises:
            UserError: a pattern that matches nothing, or nothing linear; there is nothing linear to adapt.
        """
        every = dict(self.encoder.named_modules())
        linear = {name: module for name, module in every.items() if isinstance(module, nn.Linear)}
        lists = tuple(f"{name}." for name, module in every.items() if isinstance(module, nn.ModuleList))
        in_blocks = [name for name in linear if name.startswith(lists)]
        if patterns is None:
            listed = FAMILIES.get(self.config.family)
            if listed is None and not in_blocks:
                raise UserError(
                    f"backbone: {self.config.family} has no linear layer in its blocks to adapt; take another encoder, "
                    "or a method that adapts none (method=bitfit, method=full)"
                )
            if listed is None:
                return {name: linear[name] for name in in_blocks}
            blocks = [name for name in every if re.fullmatch(listed.blocks, name)]
            return {name: linear[name] for name in (f"{block}.{end}" for block in blocks for end in listed.targets)}
        chosen: set[str] = set()
        for pattern in patterns:
            found = {name for name in linear if matches(name, pattern)}
            if not found:
                candidates = dict.fromkeys(re.sub(r".*?\.\d+\.", "", name, count=1) for name in in_blocks)
                raise UserError(
                    f"method.targets: {pattern!r} matches no linear layer of backbone={self.config.name}; each layer "
                    f"has {', '.join(candidates)}"
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


def load_backbone(config: BackboneConfig, *, precision: str = "fp32") -> Backbone:
    """Build the encoder of ``config.arch`` with its weights, everything frozen.

    Weights are read as fp32 whatever the file holds. ``precision``: fp32; tf32, which lets a GPU round the inputs of
    fp32 products; bf16, to which the checkpoint is rounded and in which the frozen weights are multiplied. LayerNorm,
    softmax and all that trains compute in fp32 from there, full fine-tuning and biases from the rounded values.

    Raises:
        UserError: an architecture that transformers refuses; weights that are missing, damaged, of another
            architecture, or of a class that cannot be packed.
    """
    messages.set_verbosity_error()  # advice about uses that are not ours
    messages.disable_progress_bar()
    hf_config = build.configuration(config)
    pooler: dict[str, Tensor] = {}
    if config.weights == "random":
        encoder = build.random(config, hf_config)
    else:
        encoder, pooler = build.pretrained(config, hf_config)
    encoder.requires_grad_(False)
    encoder.eval()
    backbone = Backbone(config, encoder, hf_config, precision)
    backbone.pooler = pooler
    backbone.place_dropout_sites()
    if config.family == "deberta-v2":
        deberta.replace_attention(encoder)
    elif config.family == "mpnet":
        mpnet.replace_attention(encoder)
    elif config.family in FAMILIES:
        _place_attention_sites(backbone, FAMILIES[config.family].attention)
    else:
        encoder_checks.check(backbone)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    if precision == "bf16":
        _to_bf16(encoder)
    return backbone


def _place_attention_sites(backbone: Backbone, end: str) -> None:
    """Give each module of attention whose probabilities are dropped by a bare number a site of its own."""
    for name, module in list(backbone.encoder.named_modules()):
        if name != end and not name.endswith(f".{end}"):
            continue
        site = next(
            (getattr(module, key, None) for key in ("attention_dropout", "dropout") if hasattr(module, key)), 0.0
        )
        if not isinstance(site, CounterDropout):
            site = backbone.dropout_site(float(site or 0.0), f"{name}.attention_dropout")
        module.attention_site = site


def _to_bf16(encoder: nn.Module) -> None:
    # the angles of rotary positions among them, which transformers keeps in fp32 too
    exact = dict(encoder.named_buffers(remove_duplicate=False))
    encoder.to(torch.bfloat16)
    for name, buffer in exact.items():
        parent, _, child = name.rpartition(".")
        setattr(encoder.get_submodule(parent), child, buffer)
    for name, module in list(encoder.named_modules()):
        if isinstance(module, nn.LayerNorm):
            norm = Fp32LayerNorm(module.normalized_shape, module.eps, bias=module.bias is not None)
            norm.load_state_dict({key: value.float() for key, value in module.state_dict().items()})
            norm.requires_grad_(False)
            encoder.set_submodule(name, norm)
