"""Token ids pinned on text that tokenizers disagree about; batches with nothing but the tokens in them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sora.backbones.source import tokenizer_folder
from sora.backbones.token_check import differences, golden, golden_of
from sora.backbones.tokenizer import encode, load_tokenizer
from sora.cli.prepare import backbone_config
from sora.config import BackboneConfig
from sora.errors import UserError
from tests.composing import CONF
from tests.oracles.subwords import ByteBpe, WordPiece

DEBERTA, ROBERTA, BERT = "deberta-v3", "roberta", "bert-uncased"


def backbone(name: str, **changes: Any) -> BackboneConfig:
    """The configuration in conf/backbone/<name>.yaml, with ``changes``."""
    return replace(backbone_config(name), **changes)


@pytest.fixture(scope="module")
def minilm() -> Any:
    return load_tokenizer(backbone("minilm-l6"))


@pytest.fixture(scope="module")
def deberta(shared: Path) -> Any:
    return load_tokenizer(backbone("deberta-v3-base"), shared / "models" / "deberta-v3-tokenizer")


@pytest.fixture(scope="module")
def as_it_comes(shared: Path) -> Any:
    """DeBERTaV3's tokenizer as transformers 5 builds it."""
    return load_tokenizer(backbone("deberta-v3-base", tokenizer="hf"), shared / "models" / "deberta-v3-tokenizer")


@pytest.fixture(scope="module")
def roberta(shared: Path) -> Any:
    return load_tokenizer(backbone("roberta-base"), shared / "models" / "roberta-tokenizer")


# -- golden ids --------------------------------------------------------------------------------------------------


def test_golden_ids_of_minilm(minilm: Any) -> None:
    oracle = WordPiece(tokenizer_folder(backbone("minilm-l6")) / "vocab.txt")
    for text, ids in golden()[BERT]["ids"].items():
        assert minilm(text)["input_ids"] == ids == oracle.ids(text), text
    assert minilm("a", "b")["token_type_ids"] == [0, 0, 0, 1, 1]


def test_golden_ids_of_roberta(roberta: Any, shared: Path) -> None:
    oracle = ByteBpe(shared / "models" / "roberta-tokenizer")
    for text, ids in golden()[ROBERTA]["ids"].items():
        assert roberta(text)["input_ids"] == ids == oracle.ids(text), text
    assert roberta("Hello", "world")["input_ids"] == [0, 31414, 2, 2, 8331, 2]


def test_golden_ids_of_deberta_v3(deberta: Any, shared: Path) -> None:
    """What the sentencepiece model gives, but for characters it would spell in bytes (ids 4 to 259)."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(
        model_file=str(shared / "models" / "deberta-v3-tokenizer" / "spm.model")
    )
    for text, ids in golden()[DEBERTA]["ids"].items():
        expected: list[int] = []
        for token in model.encode(text):
            spelled = model.id_to_piece(token).startswith("<0x")
            if not (spelled and expected[-1:] == [model.unk_id()]):
                expected.append(model.unk_id() if spelled else token)
        assert deberta(text)["input_ids"] == ids == [1, *expected, 2], text
    assert deberta("a", "b")["input_ids"] == [1, 266, 2, 2165, 2]


def test_the_missing_normaliser_is_what_changes_deberta_v3(deberta: Any, as_it_comes: Any) -> None:
    """transformers 5 alone gives [UNK] for every ligature, special space, ellipsis, fraction and full-width letter."""
    unlike = [text for text, ids in golden()[DEBERTA]["ids"].items() if as_it_comes(text)["input_ids"] != ids]
    assert len(unlike) == 5
    assert all(as_it_comes.unk_token_id in as_it_comes(text)["input_ids"] for text in unlike)
    assert differences(as_it_comes, backbone("deberta-v3-base", tokenizer="hf")) == [], "hf promises plain text only"
    assert differences(as_it_comes, backbone("deberta-v3-base")) == unlike
    assert differences(deberta, backbone("deberta-v3-base")) == []


def test_every_pinned_backbone_names_golden_ids_and_nobody_elses_weights_are_held_to_them() -> None:
    names = sorted(path.stem for path in (CONF / "backbone").glob("*.yaml"))
    for name in set(names) - {"auto"}:
        assert golden_of(backbone(name)), name
        assert golden_of(backbone(name, weights="a folder")) == {}
    assert golden_of(backbone("auto")) == {}
    with pytest.raises(UserError, match=r"backbone\.golden: got 'mpent', must be empty or one of .*mpnet"):
        golden_of(backbone("minilm-l6", golden="mpent"))


# -- tokenizers that are not the backbone's ----------------------------------------------------------------------


def refused(config: BackboneConfig, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_tokenizer(config, folder)
    return str(caught.value)


def test_another_models_tokenizer_is_refused() -> None:
    folder = tokenizer_folder(backbone("minilm-l6"))
    message = refused(backbone("deberta-v3-base", tokenizer="hf"), folder)
    assert message.startswith(f"{folder}: the tokenizer does not fit backbone=deberta-v3-base (")
    assert "other token ids" in message


def test_a_damaged_sentencepiece_model_is_named(tmp_path: Path, shared: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(shared / "models" / "deberta-v3-tokenizer", copy)
    half = (copy / "spm.model").read_bytes()[:1_000_000]
    (copy / "spm.model").write_bytes(half)
    assert f"{copy / 'spm.model'}: no sentencepiece model (Error parsing" in refused(backbone("deberta-v3-base"), copy)
    (copy / "spm.model").unlink()
    assert f"{copy / 'spm.model'}: no sentencepiece model (No such file" in refused(backbone("deberta-v3-base"), copy)


# -- batches -----------------------------------------------------------------------------------------------------


def test_a_batch_holds_the_tokens_and_its_padding(minilm: Any) -> None:
    texts = (["one", "a much longer first text", "three"], ["x", "y", "another longer second text here"])
    encoding = encode(minilm, texts, 64, segments=True)
    expected = minilm(*texts, padding=False, truncation=True, max_length=64)
    assert encoding.lengths.tolist() == [len(row) for row in expected["input_ids"]]
    batch = encoding.collate(np.array([2, 0]))
    assert batch["input_ids"].shape == (2, encoding.lengths[2])
    for row, index in enumerate((2, 0)):
        length = encoding.lengths[index]
        assert batch["input_ids"][row, :length].tolist() == expected["input_ids"][index]
        assert batch["token_type_ids"][row, :length].tolist() == expected["token_type_ids"][index]
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (batch["input_ids"].shape[1] - length)
        assert (batch["input_ids"][row, length:] == minilm.pad_token_id).all()


def test_the_longer_text_is_cut_first(minilm: Any) -> None:
    encoding = encode(minilm, (["word " * 50], ["short text"]), 16, segments=True)
    assert encoding.lengths.tolist() == [16]
    assert minilm.decode(encoding.ids[-4:]) == "[SEP] short text [SEP]"


def test_segments_only_where_the_model_has_them(minilm: Any) -> None:
    encoding = encode(minilm, (["one", "two"],), 16, segments=False)
    assert set(encoding.collate(np.array([0, 1]))) == {"input_ids", "attention_mask"}


def test_a_lone_surrogate_is_the_replacement_character(minilm: Any) -> None:
    bad, replaced = (encode(minilm, ([text],), 16, segments=False).ids for text in ("bad \ud800 text", "bad ? text"))
    assert bad.tolist() == replaced.tolist()
