"""Byte-level BPE (Radford et al., 2019) and WordPiece (Devlin et al., 2019), written from their descriptions.

Slow and plain: what fast tokenizers are compared with.
"""

from __future__ import annotations

import json
import unicodedata
from itertools import pairwise
from pathlib import Path

import regex

WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def _letters() -> dict[int, str]:
    """A printable character for every byte: itself where it is one, else the next from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(rest)}


class ByteBpe:
    """From ``vocab.json`` and ``merges.txt``; ids with RoBERTa's <s> and </s>."""

    def __init__(self, folder: Path) -> None:
        self.vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
        pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
        self.rank = {pair: i for i, pair in enumerate(pairs)}
        self.letters = _letters()

    def ids(self, text: str) -> list[int]:
        found = [self.vocabulary["<s>"]]
        for word in WORDS.findall(text):
            parts = [self.letters[byte] for byte in word.encode()]
            while len(parts) > 1:
                best = min(pairwise(parts), key=lambda pair: self.rank.get(pair, len(self.rank)))
                if best not in self.rank:
                    break
                merged, i = [], 0
                while i < len(parts):
                    joins = i + 1 < len(parts) and (parts[i], parts[i + 1]) == best
                    merged.append(parts[i] + parts[i + 1] if joins else parts[i])
                    i += 2 if joins else 1
                parts = merged
            found += [self.vocabulary[part] for part in parts]
        return [*found, self.vocabulary["</s>"]]


def _is_punctuation(character: str) -> bool:
    code = ord(character)
    ascii_symbol = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_symbol or unicodedata.category(character).startswith("P")


class WordPiece:
    """From the ``vocab.txt`` of an uncased model; ids with [CLS] and [SEP]."""

    def __init__(self, path: Path) -> None:
        words = path.read_text(encoding="utf-8").splitlines()
        self.vocabulary = {word: i for i, word in enumerate(words)}

    def ids(self, text: str) -> list[int]:
        pieces = ["[CLS]"]
        for word in self._words(text):
            pieces += self._pieces(word)
        return [self.vocabulary[piece] for piece in [*pieces, "[SEP]"]]

    def _words(self, text: str) -> list[str]:
        cleaned = ""
        for character in text:
            if character in "\t\n\r" or unicodedata.category(character) == "Zs":
                cleaned += " "
            elif not unicodedata.category(character).startswith("C"):
                cleaned += character
        plain = "".join(c for c in unicodedata.normalize("NFD", cleaned.lower()) if unicodedata.category(c) != "Mn")
        return "".join(f" {c} " if _is_punctuation(c) else c for c in plain).split()

    def _pieces(self, word: str) -> list[str]:
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = (end for end in range(len(word), start, -1) if prefix + word[start:end] in self.vocabulary)
            end = next(ends, None)
            if end is None:
                return ["[UNK]"]
            pieces.append(prefix + word[start:end])
            start = end
        return pieces
