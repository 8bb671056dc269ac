"""Folders as save_pretrained leaves them: tiny random models of any family, with a tokenizer of words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from sora.backbones.auto import described
from sora.config import BackboneConfig
from tests import tiny

DRY = ("method=sora", "dry_run=true")
SHORT = (  # a command that trains for a moment
    *("task=synthetic_pair", "task.sizes={train: 60, validation: 40}", "recipe=none", "budget=none"),
    *("trainer.max_steps=4", "trainer.batch_size=4", "trainer.eval_every=2", "trainer.max_length=32"),
)
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]


def save_tokenizer(folder: Path, tokens: int = tiny.VOCABULARY, pad: int = 0) -> None:
    """A word tokenizer of ``tokens`` tokens; [CLS] a [SEP] b [SEP]."""
    words = [*SPECIAL, *(f"w{place}" for place in range(tokens - len(SPECIAL)))]
    words[0], words[pad] = words[pad], words[0]
    word_tokenizer(words).save_pretrained(folder)


def word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are ``words``, SPECIAL among them: [CLS] a [SEP] b [SEP]."""
    made = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, "[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(word, words.index(word)) for word in ("[CLS]", "[SEP]")],
    )
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", **special)


def arch_of(family: str, **changes: Any) -> dict[str, Any]:
    """The tiny architecture in the names of its own configuration class."""
    arch = tiny.SHARED | tiny.ARCHITECTURES[family] | changes
    if family == "distilbert":
        for ours, theirs in (
            ("hidden_size", "dim"),
            ("num_hidden_layers", "n_layers"),
            ("num_attention_heads", "n_heads"),
        ):
            arch[theirs] = arch.pop(ours)
        arch["hidden_dim"] = arch.pop("intermediate_size")
    return arch


def save_model(folder: Path, family: str = "bert", *, classifier: bool = True, seed: int = 3, **arch: Any) -> Any:
    """A model with its config.json and tokenizer in ``folder``; returns it. ``arch`` changes its sizes."""
    values = arch_of(family, **arch)
    labels = {"num_labels": 5} if classifier else {}  # more than the tasks have: a base that somebody fine-tuned
    config = AutoConfig.for_model(values.pop("model_type"), **values, **labels)
    torch.manual_seed(seed)
    model = (AutoModelForSequenceClassification if classifier else AutoModel).from_config(config)
    model.save_pretrained(folder)
    save_tokenizer(folder, pad=int(values.get("pad_token_id", 0)))
    return model.eval()


def edit(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None takes one away."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def auto(folder: Path, **changes: Any) -> BackboneConfig:
    """``backbone=auto backbone.weights=<folder>``, with what its config.json says."""
    return described(BackboneConfig("auto", "auto", weights=str(folder), pooling="auto", **changes))
