"""What is known of an encoder family by name, and sizes under the names of any configuration (torch-free).

A family that is not listed is read from its model: see :mod:`sora.backbones.encoder_checks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ENCODERS = "backbone.weights takes an encoder of text, such as a BERT, RoBERTa, DeBERTa or ModernBERT"
_BERT = (
    *(f"attention.self.{name}" for name in ("query", "key", "value")),
    *("attention.output.dense", "intermediate.dense", "output.dense"),
)


@dataclass(frozen=True)
class Family:
    """Names inside transformers' classes of one ``model_type``."""

    prefix: str  # the encoder inside the sequence-classification class
    blocks: str  # regular expression: full names of the repeated blocks
    targets: tuple[str, ...]  # the matrices of a block (SoRA, Appendix A), in the order of the computation
    attention: str = "attention.self"  # end of the name of the modules that compute attention probabilities
    offset: int = 0  # rows of the position table before that of the first token


FAMILIES: dict[str, Family] = {
    "bert": Family("bert", r"encoder\.layer\.\d+", _BERT),
    "electra": Family("electra", r"encoder\.layer\.\d+", _BERT),
    "roberta": Family("roberta", r"encoder\.layer\.\d+", _BERT, offset=2),
    "xlm-roberta": Family("roberta", r"encoder\.layer\.\d+", _BERT, offset=2),
    "camembert": Family("roberta", r"encoder\.layer\.\d+", _BERT, offset=2),
    "deberta-v2": Family(
        "deberta",
        r"encoder\.layer\.\d+",
        (*(f"attention.self.{name}_proj" for name in ("query", "key", "value")), *_BERT[3:]),
    ),
    "distilbert": Family(
        "distilbert",
        r"transformer\.layer\.\d+",
        (*(f"attention.{name}_lin" for name in ("q", "k", "v", "out")), "ffn.lin1", "ffn.lin2"),
        attention="attention",
    ),
    "albert": Family(
        "albert",
        r"encoder\.albert_layer_groups\.\d+\.albert_layers\.\d+",
        (*(f"attention.{name}" for name in ("query", "key", "value", "dense")), "ffn", "ffn_output"),
        attention="attention",
    ),
    "mpnet": Family(
        "mpnet",
        r"encoder\.layer\.\d+",
        (*(f"attention.attn.{name}" for name in ("q", "k", "v", "o")), *_BERT[4:]),
        attention="attention.attn",
        offset=2,
    ),
    "modernbert": Family(  # queries, keys and values are one matrix, and so are the two halves of the gated layer
        "model", r"layers\.\d+", ("attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"), attention="attn"
    ),
}

NAMES: dict[str, tuple[str, ...]] = {  # of one size in the configurations of transformers
    "hidden_size": ("hidden_size", "dim", "d_model"),
    "num_hidden_layers": ("num_hidden_layers", "n_layers"),
    "num_attention_heads": ("num_attention_heads", "n_heads"),
    "intermediate_size": ("intermediate_size", "hidden_dim"),
    "vocab_size": ("vocab_size",),
    "max_position_embeddings": ("max_position_embeddings",),
    "attention_probs_dropout_prob": ("attention_probs_dropout_prob", "attention_dropout"),
    "hidden_dropout_prob": ("hidden_dropout_prob", "dropout", "mlp_dropout"),
}


def dimension(arch: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """The value of ``name`` in a configuration, whatever its architecture calls it."""
    return next((arch[key] for key in NAMES[name] if arch.get(key) is not None), default)


def positions(family: str, arch: Mapping[str, Any]) -> int | None:
    """Longest input in tokens, or None where the architecture sets no limit."""
    limit = dimension(arch, "max_position_embeddings")
    if not isinstance(limit, int) or arch.get("position_biased_input") is False:
        return None
    if family in FAMILIES:
        return limit - FAMILIES[family].offset
    pad = arch.get("pad_token_id")  # as in RoBERTa, positions may be counted from the padding token on
    return limit - (pad + 1 if isinstance(pad, int) and pad > 0 else 0)


def own_pooling(family: str, arch: Mapping[str, Any]) -> str:
    """How transformers' sequence-classification class pools: cls or mean."""
    return "mean" if family == "modernbert" and arch.get("classifier_pooling") == "mean" else "cls"


def uses(name: str, arch: Mapping[str, Any]) -> int:
    """How often one forward pass runs the module ``name``: ALBERT's layers share theirs."""
    _, shared, place = name.partition("albert_layer_groups.")
    if not shared:
        return 1
    layers, groups = int(arch.get("num_hidden_layers", 12)), int(arch.get("num_hidden_groups", 1))
    return sum(int(layer / (layers / groups)) == int(place.partition(".")[0]) for layer in range(layers))
