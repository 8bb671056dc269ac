"""Tokenizers, pinned by golden ids in the tests, and the encoded texts of a split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sora.backbones.source import tokenizer_folder
from sora.config import BackboneConfig

SENTENCEPIECE = "spm.model"


def load_tokenizer(config: BackboneConfig, folder: Path | None = None) -> Any:
    """The fast tokenizer of a backbone, from ``folder`` or where the backbone says.

    transformers 5 builds DeBERTaV3's without the NFKC step of its sentencepiece model: a ligature or an ellipsis
    becomes [UNK]. ``backbone.tokenizer=spm`` (the default) puts the model's own normaliser back; ``hf`` leaves it.
    """
    from transformers import AutoTokenizer

    folder = tokenizer_folder(config) if folder is None else folder
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if config.family == "deberta-v2" and config.tokenizer == "spm":
        tokenizer.backend_tokenizer.normalizer = sentencepiece_normalizer(folder / SENTENCEPIECE)
    return tokenizer


def sentencepiece_normalizer(model: Path) -> Any:
    """What a sentencepiece model does to a text before it splits it: strip, its character map, single spaces."""
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Regex
    from tokenizers.normalizers import Precompiled, Replace, Sequence, Strip

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.read_bytes())
    charsmap = proto.normalizer_spec.precompiled_charsmap
    return Sequence([Strip(), Precompiled(charsmap), Replace(Regex(" {2,}"), " ")])


@dataclass(frozen=True)
class Encoding:
    """The tokens of N examples, one after the other, with special tokens and without padding."""

    ids: np.ndarray  # int32 [total]
    types: np.ndarray | None  # uint8 [total], segment of each token, where the model has segments
    starts: np.ndarray  # int64 [N + 1], offset of each example
    pad: int  # id of the padding token

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [N]."""
        return np.diff(self.starts)

    def collate(self, indices: np.ndarray) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and where the model has segments ``token_type_ids``, int64 [n, t].

        t is the longest of the examples at ``indices`` [n]; padding is on the right.
        """
        lengths = self.lengths[indices]
        shape = (len(indices), int(lengths.max()))
        mask = np.arange(shape[1]) < lengths[:, None]
        places = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in indices])
        batch = {"input_ids": np.full(shape, self.pad, dtype=np.int64), "attention_mask": mask.astype(np.int64)}
        batch["input_ids"][mask] = self.ids[places]
        if self.types is not None:
            batch["token_type_ids"] = np.zeros(shape, dtype=np.int64)
            batch["token_type_ids"][mask] = self.types[places]
        return {name: torch.from_numpy(array) for name, array in batch.items()}


def encode(tokenizer: Any, texts: tuple[list[str], ...], max_length: int, segments: bool) -> Encoding:
    """Tokenise one or two columns of N texts, truncated to ``max_length`` tokens, the longer text first."""
    # A lone surrogate cannot be encoded; the replacement character is what readers of UTF-8 put there.
    columns = [[text.encode("utf-8", "replace").decode() for text in column] for column in texts]
    encoded = tokenizer(
        *columns,
        truncation="longest_first",
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=segments,
    )
    rows = encoded["input_ids"]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    types = None
    if segments:
        types = np.fromiter((kind for row in encoded["token_type_ids"] for kind in row), np.uint8, int(starts[-1]))
    ids = np.fromiter((token for row in rows for token in row), np.int32, int(starts[-1]))
    return Encoding(ids, types, starts, int(tokenizer.pad_token_id))
