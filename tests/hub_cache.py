"""The Hugging Face hub without a network: its cache, filled with small stand-ins under the real names."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

DEBERTA = {  # what makes conf/backbone/deberta-v3-base.yaml small; vocabulary: of tiny_sentencepiece, and [MASK]
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "position_buckets": 8,
    "pooler_hidden_size": 32,
}
OVERRIDES = tuple(f"backbone.arch.{key}={value}" for key, value in DEBERTA.items())


def fill(cache: Path, repository: str, revision: str, files: dict[str, bytes], kind: str = "model") -> Path:
    """Put ``files`` of a repository at a revision into ``cache`` (a HF_HUB_CACHE); returns the snapshot's folder."""
    folder = cache / f"{kind}s--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / revision
    for name, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        path = snapshot / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(blob)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(revision)
    return snapshot


def tiny_sentencepiece() -> bytes:
    """A sentencepiece model of 100 pieces with DeBERTaV3's special ones and its normaliser."""
    words = ["the cat sat on a mat", "a dog ran", "nobody knows what it was", "train test fine print", "entails or not"]
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words * 20),
        model_writer=buffer,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="[PAD]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        unk_piece="[UNK]",
        minloglevel=2,
    )
    return buffer.getvalue()


def deberta_files(arch: dict[str, Any], *, dtype: torch.dtype = torch.float16) -> dict[str, bytes]:
    """The repository of a DeBERTaV3 of random weights: a pickled file in half precision, as the real ones have."""
    values = dict(arch)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(config)
    state = {name: value.to(dtype) for name, value in model.state_dict().items() if not name.startswith("classifier")}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    tokenizer = {"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": False, "vocab_type": "spm"}
    return {
        "pytorch_model.bin": buffer.getvalue(),
        "spm.model": tiny_sentencepiece(),
        "tokenizer_config.json": json.dumps(tokenizer).encode(),
        "config.json": json.dumps({"model_type": "deberta-v2"} | values).encode(),
    }
