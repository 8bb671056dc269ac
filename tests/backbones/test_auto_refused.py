"""What no backbone is made of, each in one sentence: folders, tokenizers, commands, encoders that cannot be packed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from sora.backbones import encoder_checks, load_backbone
from sora.backbones.auto import described
from sora.backbones.tokenizer import load_tokenizer
from sora.config import BackboneConfig
from sora.errors import UserError
from sora.training.pack import build_pack
from tests import tiny
from tests.backbones.folders import DRY, SHORT, auto, edit, save_model, save_tokenizer
from tests.typed import refused


def _lfs(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def _sharded(folder: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    next(iter(sorted(folder.glob("model-*")))).unlink()


def _index(shards: dict[str, Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))

    return spoil


def _says(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **values)


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"anything": print}, folder / "pytorch_model.bin")


def _empty(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").touch()


def _nan(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["bert.encoder.layer.1.output.dense.weight"][3, 5] = torch.nan
    save_file(state, folder / "model.safetensors")


def _unlisted(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


def _deeper(folder: Path) -> None:
    (folder / "checkpoint-10").mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.rename(folder / "checkpoint-10" / path.name)


def _eighth(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    key = "bert.encoder.layer.1.attention.self.query.weight"
    state[key] = (state[key] * 1000).to(torch.int8)
    save_file(state, folder / "model.safetensors")


def _adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config.json": (lambda folder: (folder / "config.json").unlink(), "no config.json in"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights in"),
    "a PEFT adapter": (_adapter, "it holds a PEFT adapter, no model; merge that into its base first"),
    "a torn config.json": (lambda folder: (folder / "config.json").write_text("{"), "config.json: damaged ("),
    "a pointer of Git LFS": (_lfs, "a pointer of Git LFS, not the file itself; run git lfs pull"),
    "an index of nothing": (_index({}), "index.json: damaged (weight_map names no files); fetch it again"),
    "an index of a number": (_index({"a": 5}), "index.json: damaged (weight_map names no files)"),
    "a missing shard": (_sharded, "which model.safetensors.index.json lists, in"),
    "a missing index": (_unlisted, "its shards lack their model.safetensors.index.json; fetch that too"),
    "a folder too high": (_deeper, "its folder checkpoint-10 has that; name it"),
    "weights of one byte": (_eighth, "query.weight is torch.int8, quantised, which is not supported"),
    "the class of another model": (_says(model_type="roberta"), "model_type roberta, but architectures BertFor"),
    "extra layers": (_says(num_hidden_layers=1), "weights there do not belong together"),
    "missing layers": (_says(num_hidden_layers=3), "encoder.layer.2.attention.output.LayerNorm.bias is missing"),
    "another hidden size": (_says(hidden_size=64), "is [32], [64] expected"),
    "a truncated file": (_cut, "cannot be read as weights"),
    "a pickle of code": (_code, "pytorch_model.bin: cannot be read as weights"),
    "an empty pickle": (_empty, "pytorch_model.bin: cannot be read as weights (EOFError)"),
    "a number that is none": (_nan, "encoder.layer.1.output.dense.weight holds nan or inf; its training diverged"),
    "an unknown architecture": (
        _says(model_type="ownbert", auto_map={"AutoModel": "own.Own"}),
        "transformers cannot build this ownbert (ValueError: Unrecognized model",
    ),
    "an activation that does not exist": (_says(hidden_act="gelou"), "transformers cannot build this bert"),
}


MISTRAL = {"model_type": "mistral", "architectures": ["MistralModel"], "vocab_size": 60, "hidden_size": 32}
MISTRAL |= {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 64}


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
    ("values", "said"),
    [
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "qwen2 is a decoder"),
        ({"model_type": "bert", "is_decoder": True}, "bert is a decoder"),
        ({"model_type": "bert", "quantization_config": {"bits": 4}}, "bert is quantised"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "t5 is an encoder-decoder"),
        ({"model_type": "vit", "image_size": 224}, "vit is a model of images"),
        ({"model_type": 5}, "names no model_type"),
        (MISTRAL, "mistral is a decoder, which reads from left to right"),
        ({"model_type": "resnet", "architectures": ["ResNetModel"]}, "resnet is not a text encoder"),
    ],
)
def test_a_config_json_is_judged_before_any_weights_are_fetched(
    tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(UserError, match=said):
        auto(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer in"),
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
    ("given", "said"),
    [
        ({}, "name one with backbone.weights=FOLDER, or its name on the hub"),
        ({"weights": "random"}, "reads its architecture from a model"),
        ({"weights": "org/model"}, "no config.json in org/model: HF_HUB_OFFLINE is set"),
        ({"weights": "./nowhere"}, "no such folder"),
        ({"hub": "./own"}, "backbone.hub: got './own', a folder"),
    ],
)
def test_what_names_no_model(given: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        described(BackboneConfig("auto", "auto", pooling="auto", **given))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("backbone=minilm-l6", "backbone.hub=google-bert/bert-base-uncased"),
            "backbone=minilm-l6 is sentence-transformers/all-MiniLM-L6-v2; for another model take backbone=auto "
            "backbone.weights=google-bert/bert-base-uncased",
        ),
        (("backbone=minilm-l6", "backbone.weights=own"), "but backbone=minilm-l6 has 30522"),
        (
            ("backbone=auto", "backbone.weights=own", "+backbone.arch.num_hidden_layers=1"),
            "config.json: says num_hidden_layers 2, but backbone=bert-1x32-",
        ),
        (("backbone=auto", "backbone.weights=own", "method.r=33"), "must be at most 32, the hidden size"),
    ],
)
def test_what_the_command_refuses(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    save_model(tmp_path / "own")
    assert said in refused(tmp_path, *SHORT, *words, *DRY)


# -- encoders that are run before they are taken ---------------------------------------------------------------------


def test_a_fourier_transform_over_the_batch(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 60, "intermediate_size": 48}
    AutoModel.from_config(AutoConfig.for_model("fnet", **sizes)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(UserError, match="in fnet the padding or another example of the batch reaches a token"):
        load_backbone(auto(tmp_path))


@pytest.mark.parametrize(
    ("family", "arch", "strange"),
    [
        ("deberta", {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, "pos_dropout"),  # rows of a table
        ("longformer", {"attention_window": 8}, "query"),  # positions come before examples there
    ],
)
def test_layers_whose_rows_are_no_examples_take_one_run_at_a_time(
    family: str, arch: dict[str, Any], strange: str
) -> None:
    """In a pack each half of such rows would get the adapter of another run."""
    arch = tiny.SHARED | {"model_type": family, "max_position_embeddings": 64} | arch
    changes = {"family": family, "arch": arch, "dropout": 0.0 if family == "longformer" else None}
    alone, *_ = runs = tiny.runs("bert", [0, 1], backbone=changes)
    toy = tiny.data(alone.task)
    build_pack([alone], toy, torch.device("cpu"), encode=False)
    with pytest.raises(UserError, match=rf"{strange} of {family} reads other rows .* hydra.sweeper.max_pack=1"):
        build_pack(runs, toy, torch.device("cpu"), encode=False)


def test_nothing_linear_to_adapt() -> None:
    arch = tiny.SHARED | {"model_type": "squeezebert", "embedding_size": 32, "max_position_embeddings": 64}
    runs = tiny.runs("bert", 0, backbone={"family": "squeezebert", "arch": arch})
    with pytest.raises(UserError, match="squeezebert has no linear layer in its blocks to adapt"):
        build_pack(runs, tiny.data(runs[0].task), torch.device("cpu"), encode=False)


class Noisy(torch.nn.Module):
    """An encoder that drops by torch's own generator."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, **inputs: torch.Tensor) -> Any:
        out = self.encoder(**inputs)
        out.last_hidden_state = torch.nn.functional.dropout(out.last_hidden_state, 0.1, self.training)
        return out


def test_dropout_that_cannot_be_counted_and_a_decoder_that_nothing_names(tmp_path: Path) -> None:
    save_model(tmp_path, "ernie")
    backbone = load_backbone(auto(tmp_path, dropout=0.0))
    backbone.encoder.config.is_decoder = True
    with pytest.raises(UserError, match="in ernie a token does not see those behind it, as in a decoder"):
        encoder_checks.check(backbone)
    backbone.encoder.config.is_decoder = False
    backbone.encoder = Noisy(backbone.encoder).eval()
    with pytest.raises(UserError, match=r"set backbone.dropout=0"):
        encoder_checks.check(backbone)
