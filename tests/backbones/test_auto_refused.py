"""What no backbone is made of, each in one sentence: folders, tokenizers, commands, encoders that cannot be packed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from sora.backbones import encoder_checks, load_backbone
from sora.backbones.tokenizer import load_tokenizer
from sora.errors import UserError
from tests.backbones.folders import DRY, SHORT, auto, edit, save_model, save_tokenizer
from tests.typed import refused


def _lfs(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def _sharded(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    next(iter(sorted(folder.glob("model-*")))).unlink()


def _layers(count: int) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", num_hidden_layers=count)


def _other(kind: str, **values: Any) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        config = AutoConfig.for_model(kind, **values)
        config.save_pretrained(folder)

    return put


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"anything": print}, folder / "pytorch_model.bin")


def _adapter(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "adapter_config.json").write_text("{}")


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


GPT2 = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4}
BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config.json": (lambda folder: (folder / "config.json").unlink(), "no config.json there"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "neither model.safetensors nor"),
    "a torn config.json": (lambda folder: (folder / "config.json").write_text("{"), "not the config.json of a model"),
    "no model_type": (lambda folder: edit(folder / "config.json", model_type=None), "names no model_type"),
    "a PEFT adapter": (_adapter, "holds a PEFT adapter, no model; merge it into its base first"),
    "a pointer of Git LFS": (_lfs, "a pointer of Git LFS, not the file itself; run git lfs pull"),
    "a missing shard": (_sharded, "this shard is missing, though model.safetensors.index.json lists it"),
    "extra layers": (_layers(1), "has no place in it; 16 tensors do not fit"),
    "missing layers": (_layers(3), "encoder.layer.2.attention.output.LayerNorm.bias is missing"),
    "another hidden size": (
        lambda folder: edit(folder / "config.json", hidden_size=64),
        "is [32], [64] expected",
    ),
    "a truncated file": (_cut, "cannot be read as weights"),
    "a pickle of code": (_code, "pytorch_model.bin: cannot be read as weights"),
    "an unknown architecture": (
        lambda folder: edit(folder / "config.json", model_type="ownbert", auto_map={"AutoModel": "own.Own"}),
        "transformers cannot build this ownbert (ValueError: Unrecognized model",
    ),
    "a decoder": (_other("gpt2", **GPT2), "gpt2 is a decoder, which reads from left to right"),
    "a decoder of BERT's family": (lambda folder: edit(folder / "config.json", is_decoder=True), "bert is a decoder"),
    "an encoder-decoder": (_other("t5", d_model=32), "t5 is an encoder-decoder"),
    "a model of images": (_other("vit"), "vit is a model of images"),
    "quantised weights": (
        lambda folder: edit(folder / "config.json", quantization_config={"bits": 4}),
        "the weights are quantised, which is not supported",
    ),
    "an activation that does not exist": (
        lambda folder: edit(folder / "config.json", hidden_act="gelou"),
        "transformers cannot build this bert",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_no_backbone_is_made_of(case: str, tmp_path: Path) -> None:
    save_model(tmp_path)
    spoil, said = BAD[case]
    spoil(tmp_path)
    with pytest.raises(UserError) as caught:
        load_backbone(auto(tmp_path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_no_tokenizer, "no tokenizer in"),
        (lambda folder: save_tokenizer(folder, 70), "70 tokens, but the embeddings have 60 rows"),
        (lambda folder: save_tokenizer(folder, pad=3), "padding is token 3, but the backbone's is 0"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "its tokenizer cannot be read"),
    ],
)
def test_a_tokenizer_that_does_not_fit(spoil: Any, said: str, tmp_path: Path) -> None:
    save_model(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=said):
        load_tokenizer(auto(tmp_path))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("backbone=auto",), "name one with backbone.weights=FOLDER, or its name on the hub"),
        (("backbone=auto", "backbone.weights=random"), "reads its architecture from a model"),
        (("backbone=auto", "backbone.weights=org/model"), "no weights for org/model: HF_HUB_OFFLINE is set"),
        (("backbone=auto", "backbone.weights=./nowhere"), "no such folder"),
        (("backbone=auto", "backbone.hub=./own"), "backbone.hub: got './own', a folder"),
        (
            ("backbone=minilm-l6", "backbone.hub=google-bert/bert-base-uncased"),
            "backbone=minilm-l6 is sentence-transformers/all-MiniLM-L6-v2; for another model take backbone=auto "
            "backbone.weights=google-bert/bert-base-uncased",
        ),
        (("backbone=minilm-l6", "backbone.weights=own"), "but backbone=minilm-l6 has 30522"),
        (("backbone=auto", "backbone.weights=own", "trainer.max_length=65"), "reads at most 64 tokens"),
        (("backbone=auto", "backbone.weights=own", "method.r=33"), "must be at most 32, the hidden size"),
    ],
)
def test_what_the_command_refuses(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    save_model(tmp_path / "own")
    assert said in refused(tmp_path, *SHORT, *words, *DRY)


def test_more_layers_than_the_pinned_backbone_has(tmp_path: Path) -> None:
    """A folder without config.json: its tensors say it."""
    save_model(tmp_path, num_hidden_layers=4)
    config = replace(auto(tmp_path), name="mine")
    (tmp_path / "config.json").unlink()
    config.arch["num_hidden_layers"] = 2
    with pytest.raises(UserError, match=r"encoder\.layer\.2\S+ has no place in it; 32 tensors do not fit"):
        load_backbone(config)


class Convolved(torch.nn.Module):
    """An encoder whose tokens see their neighbours, padding or not."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, **inputs: torch.Tensor) -> Any:
        out = self.encoder(**inputs)
        out.last_hidden_state = out.last_hidden_state + out.last_hidden_state.roll(-1, 1)
        return out


class Noisy(Convolved):
    """An encoder that drops by torch's own generator."""

    def forward(self, **inputs: torch.Tensor) -> Any:
        out = self.encoder(**inputs)
        out.last_hidden_state = torch.nn.functional.dropout(out.last_hidden_state, 0.1, self.training)
        return out


@pytest.mark.parametrize(
    ("kind", "said"),
    [(Convolved, "the padding or another example of the batch reaches a token"), (Noisy, "set backbone.dropout=0")],
)
def test_a_family_that_is_not_listed_is_run_before_it_is_taken(kind: Any, said: str, tmp_path: Path) -> None:
    save_model(tmp_path, "ernie")
    backbone = load_backbone(auto(tmp_path, dropout=0.0))
    backbone.encoder = kind(backbone.encoder).eval()
    with pytest.raises(UserError, match=said):
        encoder_checks.check(backbone)


def test_fourier_transforms_over_the_batch_are_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "vocab_size": 60}
    AutoModel.from_config(AutoConfig.for_model("fnet", **sizes)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="in fnet the padding or another example of the batch reaches a token"):
        load_backbone(auto(tmp_path))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "qwen2 is a decoder"),
        ({"model_type": "bert", "is_decoder": True}, "bert is a decoder"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "t5 is an encoder-decoder"),
        ({"model_type": "vit", "image_size": 224}, "vit is a model of images"),
        ({"model_type": 5}, "names no model_type"),
    ],
)
def test_a_config_json_is_judged_before_any_weights_are_fetched(
    tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(UserError, match=said):
        auto(tmp_path)
