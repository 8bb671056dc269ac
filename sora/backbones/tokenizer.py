"""Tokenizers, pinned by golden ids in the tests, and the encoded texts of a split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sora.backbones.source import tokenizer_folder
from sora.backbones.token_check import check_fit
from sora.config import BackboneConfig
from sora.errors import UserError
from sora.files import as_user_error

SENTENCEPIECE = "spm.model"


def load_tokenizer(config: BackboneConfig, folder: Path | None = None) -> Any:
    """The fast tokenizer of a backbone, from ``folder`` or where the backbone says.

    transformers 5 builds DeBERTaV3's without the NFKC step of its sentencepiece model: a ligature or an ellipsis
    becomes [UNK]. ``backbone.tokenizer=spm`` (the default) puts the model's own normaliser back; ``hf`` leaves it.

    Raises:
        UserError: there is no tokenizer, it cannot be read, or it is not the backbone's.
    """
    from transformers import AutoTokenizer

    folder = tokenizer_folder(config) if folder is None else folder
    normalizer = None
    if config.family == "deberta-v2" and config.tokenizer == "spm":
        # first, because what transformers says of a damaged one misleads
        normalizer = sentencepiece_normalizer(folder / SENTENCEPIECE)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # each format has its own errors for a damaged file
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{folder}: its tokenizer cannot be read ({reason}); fetch its files again") from error
    if not tokenizer.is_fast:
        raise UserError(f"{folder}: {type(tokenizer).__name__} has no fast form (tokenizer.json), which is needed here")
    if normalizer is not None:
        tokenizer.backend_tokenizer.normalizer = normalizer
    check_fit(tokenizer, config, folder)
    return tokenizer


def sentencepiece_normalizer(model: Path) -> Any:
    """What a sentencepiece model does to a text before it splits it: strip, its character map, single spaces.

    Raises UserError when the file is missing or no such model.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Regex
    from tokenizers.normalizers import Precompiled, Replace, Sequence, Strip

    proto = sentencepiece_model_pb2.ModelProto()
    advice = "put the file of the pretrained model there, or take backbone.tokenizer=hf"
    with as_user_error(model, "no sentencepiece model", advice, (OSError, DecodeError)):
        proto.ParseFromString(model.read_bytes())
    charsmap = proto.normalizer_spec.precompiled_charsmap
    return Sequence([Strip(), Precompiled(charsmap), Replace(Regex(" {2,}"), " ")])


@dataclass(frozen=True)
class Encoding:
    """The tokens of N examples, one after the other, with special tokens and without padding.

    An example is K = ``choices`` sequences: one, or one for each choice.
    """

    ids: np.ndarray  # int32 [total]
    types: np.ndarray | None  # uint8 [total], segment of each token, where the model has segments
    starts: np.ndarray  # int64 [N * K + 1], offset of each sequence
    pad: int  # id of the padding token
    choices: int = 1
    spans: np.ndarray | None = None  # int32 [N, S, 2], first token and end of each marked span
    truncated: int = 0  # examples of which something was cut off

    @cached_property
    def sequence_lengths(self) -> np.ndarray:
        """Tokens of each sequence, int64 [N * K]."""
        return np.diff(self.starts)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each example's longest sequence, int64 [N]: what it makes the others pad to."""
        return self.sequence_lengths.reshape(-1, self.choices).max(axis=1)

    @cached_property
    def counts(self) -> np.ndarray:
        """Tokens of each example, int64 [N]."""
        return self.sequence_lengths.reshape(-1, self.choices).sum(axis=1)

    def collate(self, indices: np.ndarray) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and where the model has segments ``token_type_ids``, int64 [n * K, t].

        t is the longest sequence of the examples at ``indices`` [n]; padding is on the right. Marked spans come
        as ``spans``, int64 [n, S, 2].
        """
        examples = indices
        if self.choices > 1:
            indices = (indices[:, None] * self.choices + np.arange(self.choices)).reshape(-1)
        lengths = self.sequence_lengths[indices]
        shape = (len(indices), int(lengths.max()))
        mask = np.arange(shape[1]) < lengths[:, None]
        places = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in indices])
        batch = {"input_ids": np.full(shape, self.pad, dtype=np.int64), "attention_mask": mask.astype(np.int64)}
        batch["input_ids"][mask] = self.ids[places]
        if self.types is not None:
            batch["token_type_ids"] = np.zeros(shape, dtype=np.int64)
            batch["token_type_ids"][mask] = self.types[places]
        if self.spans is not None:
            batch["spans"] = self.spans[examples].astype(np.int64)
        return {name: torch.from_numpy(array) for name, array in batch.items()}


def encode(
    tokenizer: Any,
    texts: tuple[list[str], ...],
    max_length: int,
    segments: bool,
    *,
    choices: int = 1,
    truncate: str = "",
    spans: np.ndarray | None = None,
    where: Callable[[int], str] = "example {}".format,
) -> Encoding:
    """Tokenise columns of N texts, truncated to ``max_length`` tokens.

    Args:
        texts: one column; or two, read as pairs; or with K ``choices`` one and K more, each read with the first.
        truncate: ``text_a`` cuts the first text alone; otherwise the longer one gives way.
        spans: int64 [N, S, 3], text column, first character and end of spans whose tokens are to be known.
        where: names an example, for messages.

    Raises:
        UserError: there is no room left for the first text, or a span was cut off.
    """
    # A lone surrogate cannot be encoded; a question mark is what Python's encoder puts there. Offsets stay.
    columns = [[text.encode("utf-8", "replace").decode() for text in column] for column in texts]
    if choices > 1:
        first, rest = columns[0], columns[1:]
        columns = [[text for text in first for _ in rest], [text for pair in zip(*rest, strict=True) for text in pair]]
    only_first = truncate == "text_a"
    if only_first:
        _check_room(tokenizer, columns, max_length, lambda row: where(row // choices))
    encoded = tokenizer(
        *columns,
        truncation="only_first" if only_first else "longest_first",
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
    cut = np.array([bool(sequence.overflowing) for sequence in encoded.encodings])
    return Encoding(
        ids,
        types,
        starts,
        int(tokenizer.pad_token_id),
        choices,
        None if spans is None else _token_spans(encoded.encodings, spans, max_length, where),
        int(cut.reshape(-1, choices).any(axis=1).sum()),
    )


def _check_room(tokenizer: Any, columns: list[list[str]], max_length: int, where: Callable[[int], str]) -> None:
    """Refuse a second text that leaves not one token to the first."""
    second = tokenizer(columns[1], add_special_tokens=False, return_attention_mask=False)["input_ids"]
    fixed = tokenizer.num_special_tokens_to_add(pair=True)
    for row, tokens in enumerate(second):
        if len(tokens) + fixed >= max_length:
            raise UserError(
                f"trainer.max_length={max_length}: the text that must not be cut has {len(tokens)} tokens in "
                f"{where(row)}, and {fixed} special ones are added; set trainer.max_length above "
                f"{len(tokens) + fixed}"
            )


def _token_spans(encodings: list[Any], spans: np.ndarray, max_length: int, where: Callable[[int], str]) -> np.ndarray:
    """First token and end of every span: int32 [N, S, 2], from its characters [N, S, 3]."""
    result = np.zeros((*spans.shape[:2], 2), dtype=np.int32)
    for row, (encoding, marked) in enumerate(zip(encodings, spans.tolist(), strict=True)):
        for number, (column, start, end) in enumerate(marked):
            tokens = [
                place
                for place, (sequence, (left, right)) in enumerate(
                    zip(encoding.sequence_ids, encoding.offsets, strict=True)
                )
                if sequence == column and left < end and start < right
            ]
            if not tokens:
                raise UserError(f"trainer.max_length={max_length} cuts off a marked span of {where(row)}; raise it")
            result[row, number] = tokens[0], tokens[-1] + 1
    return result
