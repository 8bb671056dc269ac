"""Token ids that a tokenizer must give, on text that tokenizers and their versions disagree about.

DeBERTaV3: what its sentencepiece model gives by itself, but for characters outside its vocabulary, which are [UNK]
here as in every fast tokenizer of transformers (the model alone would spell them in bytes). RoBERTa and the uncased
BERT vocabulary of MiniLM: compared in the tests with independent implementations of byte-level BPE and WordPiece.
"""

from __future__ import annotations

from typing import Any

from sora.config import BackboneConfig
from sora.errors import UserError

PLAIN = "The cat sat on the mat, didn't it?"
LIGATURES = "ﬁne print, oﬃce"
SPACES = "ten\u00a0km a\u202fway"  # a no-break space and a narrow one
ELLIPSES = "Wait… what…?"
EMOJI = "I 🙂 it 👩\u200d🔬"  # the second joins two characters with U+200D
SYMBOLS = "½ cup, x² ™ Ｆull"
TYPOGRAPHY = "naïve café — “it’s”"

GOLDEN: dict[str, dict[str, list[int]]] = {  # backbone.golden -> text -> ids, special tokens included
    "deberta-v3": {
        PLAIN: [1, 279, 3185, 3208, 277, 262, 8358, 261, 590, 280, 297, 278, 302, 2],
        LIGATURES: [1, 1399, 2118, 261, 832, 2],
        SPACES: [1, 2023, 3964, 266, 384, 2],
        ELLIPSES: [1, 9973, 260, 260, 260, 339, 260, 260, 260, 302, 2],
        EMOJI: [1, 273, 11799, 278, 507, 124709, 507, 3, 2],
        SYMBOLS: [1, 14624, 3189, 261, 1204, 445, 15043, 3306, 2],
        TYPOGRAPHY: [1, 34972, 15924, 533, 317, 1632, 276, 268, 318, 2],
    },
    "roberta": {
        PLAIN: [0, 133, 4758, 4005, 15, 5, 7821, 6, 399, 75, 24, 116, 2],
        LIGATURES: [0, 43251, 11582, 10172, 858, 5780, 6, 1021, 43251, 11582, 862, 1755, 2],
        SPACES: [0, 3869, 50141, 7203, 10, 17, 10965, 1970, 2],
        ELLIPSES: [0, 36446, 1174, 99, 1174, 116, 2],
        EMOJI: [0, 100, 45868, 24, 26964, 15375, 17, 8384, 6569, 10674, 11582, 2],
        SYMBOLS: [0, 14989, 4946, 6, 3023, 40632, 14333, 41735, 33549, 4394, 18164, 5023, 2],
        TYPOGRAPHY: [0, 2133, 48350, 26059, 93, 44, 48, 405, 17, 27, 29, 17, 46, 2],
    },
    "bert-uncased": {
        PLAIN: [101, 1996, 4937, 2938, 2006, 1996, 13523, 1010, 2134, 1005, 1056, 2009, 1029, 102],
        LIGATURES: [101, 1984, 2638, 6140, 1010, 100, 102],
        SPACES: [101, 2702, 2463, 1037, 2126, 102],
        ELLIPSES: [101, 3524, 1529, 2054, 1529, 1029, 102],
        EMOJI: [101, 1045, 100, 2009, 100, 102],
        SYMBOLS: [101, 1092, 2452, 1010, 1060, 10701, 1580, 100, 102],
        TYPOGRAPHY: [101, 15743, 7668, 1517, 1523, 2009, 1521, 1055, 1524, 102],
    },
}


GOLDEN["mpnet"] = {  # BERT's vocabulary after four tokens, with <s> and </s> around
    text: [0, *(token + 4 for token in ids[1:-1]), 2] for text, ids in GOLDEN["bert-uncased"].items()
}
ROWS = {"deberta-v3": 128100, "roberta": 50265, "bert-uncased": 30522, "mpnet": 30527}  # of the embeddings


def golden_of(config: BackboneConfig) -> dict[str, list[int]]:
    """The golden ids of a pinned backbone; {} where none are pinned, as for somebody's own weights or vocabulary."""
    own = config.weights not in ("pretrained", "random")
    if own or not config.golden or config.arch.get("vocab_size") != ROWS[config.golden]:
        return {}
    return GOLDEN[config.golden]


def differences(tokenizer: Any, config: BackboneConfig) -> list[str]:
    """The golden texts that ``tokenizer`` reads otherwise; ``backbone.tokenizer=hf`` is held to plain text only."""
    golden = golden_of(config)
    if config.tokenizer == "hf" and config.family == "deberta-v2":
        golden = {text: ids for text, ids in golden.items() if text == PLAIN}
    return [text for text, ids in golden.items() if tokenizer(text)["input_ids"] != ids]


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
    elif PLAIN in golden_of(config) and tokenizer(PLAIN)["input_ids"] != golden_of(config)[PLAIN]:
        wrong = f"{PLAIN!r} gets other token ids than the backbone was trained with"
    if wrong:
        raise UserError(
            f"{place}: the tokenizer does not fit backbone={config.name} ({wrong}); "
            "put the files of the pretrained model's tokenizer there"
        )
