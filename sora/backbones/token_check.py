"""Token ids that a tokenizer must give, on text that tokenizers and their versions disagree about.

``golden_tokens.json`` has them, special tokens included, for each ``backbone.golden``, with the rows of its embeddings.
DeBERTaV3: what its sentencepiece model gives by itself, but for characters outside its vocabulary, which are [UNK]
here as in every fast tokenizer of transformers (the model alone would spell them in bytes). RoBERTa and the uncased
BERT vocabulary of MiniLM: compared in the tests with independent implementations of byte-level BPE and WordPiece. MPNet
has BERT's after four tokens of its own, with <s> and </s> around.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from sora.config import BackboneConfig
from sora.errors import UserError

PLAIN = "The cat sat on the mat, didn't it?"


@functools.cache
def golden() -> dict[str, dict[str, Any]]:
    """``backbone.golden`` -> rows of the embeddings, and ids: text -> token ids."""
    content: dict[str, Any] = json.loads(Path(__file__).with_name("golden_tokens.json").read_text(encoding="utf-8"))
    return content


def golden_of(config: BackboneConfig) -> dict[str, list[int]]:
    """The golden ids of a pinned backbone; {} where none are pinned, as for somebody's own weights or vocabulary.

    Raises UserError for a name that stands for none.
    """
    if config.golden and config.golden not in golden():
        raise UserError(f"backbone.golden: got {config.golden!r}, must be empty or one of {', '.join(golden())}")
    known: dict[str, Any] = golden().get(config.golden, {})
    own = config.weights not in ("pretrained", "random")
    return {} if own or config.arch.get("vocab_size") != known.get("rows") else known.get("ids", {})


def differences(tokenizer: Any, config: BackboneConfig) -> list[str]:
    """The golden texts that ``tokenizer`` reads otherwise; ``backbone.tokenizer=hf`` is held to plain text only."""
    plain_only = config.tokenizer == "hf" and config.family == "deberta-v2"
    wanted = {text: ids for text, ids in golden_of(config).items() if text == PLAIN or not plain_only}
    return [text for text, ids in wanted.items() if tokenizer(text)["input_ids"] != ids]


def check_fit(tokenizer: Any, config: BackboneConfig, place: object) -> None:
    """Raises UserError when the tokenizer in ``place`` cannot be the one the backbone was trained with."""
    highest = max(tokenizer.get_vocab().values(), default=-1) + 1
    size = int(config.arch.get("vocab_size", highest))
    pad = config.arch.get("pad_token_id")
    wrong = ""
    if highest > size:
        wrong = f"{highest:,} tokens, but the embeddings have {size:,} rows"
    elif tokenizer.pad_token_id is None:
        wrong = "it has no padding token"
    elif pad not in (None, tokenizer.pad_token_id):
        wrong = f"padding is token {tokenizer.pad_token_id}, but the backbone's is {pad}"
    elif PLAIN in differences(tokenizer, config):
        wrong = f"{PLAIN!r} gets other token ids than the backbone was trained with"
    if wrong:
        raise UserError(
            f"{place}: the tokenizer does not fit backbone={config.name} ({wrong}); "
            "put the files of the pretrained model's tokenizer there"
        )
