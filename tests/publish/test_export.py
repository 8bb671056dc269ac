"""What is exported, plain PEFT and plain transformers load, and it predicts what the trained pack predicts."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig

from sora.backbones import load_backbone
from sora.publish import export
from sora.training.evaluation import predict
from tests import tiny


def plain_model(config, classes=2):
    """transformers' own class with the frozen weights of the backbone and a fresh head."""
    backbone = load_backbone(config.backbone)
    hf = type(backbone.hf_config).from_dict(backbone.hf_config.to_dict())
    hf.num_labels = classes
    model = AutoModelForSequenceClassification.from_config(hf, attn_implementation="eager")
    missing = getattr(model, backbone.prefix).load_state_dict(backbone.encoder.state_dict(), strict=False)
    assert all("pooler" in key for key in missing.missing_keys)
    assert not missing.unexpected_keys
    return model.eval()


@torch.no_grad()
def logits_of(model, split):
    batch = split.tokens.collate(np.arange(len(split.examples)))
    return model(**batch).logits.numpy()


def trained(tmp_path, family, seeds=(0, 1), **groups):
    return tiny.train(tiny.runs(family, list(seeds), **groups), tmp_path / "runs")


@pytest.mark.parametrize(("family", "head"), [("bert", "classifier"), ("deberta-v2", "frozen")])
def test_a_pruned_adapter_reloads_in_peft(family, head, tmp_path):
    loop = trained(tmp_path, family, head=head, method={"threshold": 5e-2})
    layers = loop.pack.method.layers
    first = next(iter(layers))
    with torch.no_grad():
        layers[first].gate[1] = 0.0  # one matrix dies altogether
    expected = predict(loop.pack, loop.pack.splits["report"])
    ranks = loop.pack.method.summary(1).ranks
    assert ranks[first] == 0
    assert len(set(ranks.values())) > 1, "ranks did not differ, so rank_pattern was not put to the test"
    for replica in (0, 1):
        folder = tmp_path / f"adapter-{replica}"
        loop.pack.method.export(replica, folder, loop.pack.model.head)
        model = PeftModel.from_pretrained(plain_model(loop.pack.runs[0]), folder).eval()
        got = logits_of(model, loop.pack.splits["report"])
        np.testing.assert_allclose(got, expected[replica], atol=2e-5)
    config = json.loads((tmp_path / "adapter-1" / "adapter_config.json").read_text())
    assert not any(name.endswith(first) for name in config["target_modules"])
    live = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert live == loop.pack.method.summary(1).live


def test_an_adapter_without_a_live_rank_still_loads(tmp_path):
    loop = trained(tmp_path, "bert", seeds=(0,))
    with torch.no_grad():
        for layer in loop.pack.method.layers.values():
            layer.gate.zero_()
    expected = predict(loop.pack, loop.pack.splits["report"])
    loop.pack.method.export(0, tmp_path / "adapter", loop.pack.model.head)
    model = PeftModel.from_pretrained(plain_model(loop.pack.runs[0]), tmp_path / "adapter").eval()
    np.testing.assert_allclose(logits_of(model, loop.pack.splits["report"]), expected[0], atol=2e-5)


def test_mean_pooling_exports_an_encoder_adapter_and_a_head(tmp_path):
    loop = trained(tmp_path, "bert", seeds=(0,), backbone={"pooling": "mean"})
    folder = tmp_path / "adapter"
    loop.pack.method.export(0, folder, loop.pack.model.head)
    assert (folder / "head.safetensors").is_file()
    backbone = load_backbone(loop.pack.runs[0].backbone)
    hf = type(backbone.hf_config).from_dict(backbone.hf_config.to_dict())
    encoder = AutoModel.from_config(hf, attn_implementation="eager", add_pooling_layer=False)
    encoder.load_state_dict(backbone.encoder.state_dict())
    model = PeftModel.from_pretrained(encoder, folder).eval()
    split = loop.pack.splits["report"]
    batch = split.tokens.collate(np.arange(4))
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
        loop.pack.model.eval()
        loop.pack.model.backbone.dropout.end()
        torch.testing.assert_close(loop.pack.model.head(hidden, batch["attention_mask"]), loop.pack.model(batch))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_full_fine_tuning_reloads_in_transformers(family, tmp_path):
    loop = tiny.train(tiny.runs(family, method={"name": "full"}, trainer={"learning_rate": 1e-3}), tmp_path / "runs")
    expected = predict(loop.pack, loop.pack.splits["report"])
    loop.pack.method.export(0, tmp_path / "model", loop.pack.model.head)
    model = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    np.testing.assert_allclose(logits_of(model, loop.pack.splits["report"]), expected[0], atol=2e-5)


class Nested(nn.Module):
    """Names that end in one another, and one that does if a dot is any character."""

    def __init__(self):
        super().__init__()
        self.proj, self.block_proj = nn.Linear(6, 6), nn.Linear(6, 6)
        self.block, self.head = nn.ModuleDict({"proj": nn.Linear(6, 6)}), nn.ModuleDict({"proj": nn.Linear(6, 6)})

    def forward(self, x):
        for layer in (self.proj, self.block_proj, self.block["proj"], self.head["proj"]):
            x = layer(x).tanh()
        return x


@pytest.mark.parametrize(
    ("ranks", "keys"),
    [
        ({"proj": 1, "block.proj": 2, "head.proj": 3, "block_proj": 3}, {"^proj", r"^block\.proj"}),
        ({"proj": 3, "block.proj": 1, "head.proj": 2, "block_proj": 1}, {"block.proj", "head.proj", "block_proj"}),
        ({"proj": 2, "block.proj": 2, "head.proj": 2, "block_proj": 3}, {"proj", r"^block\.proj", "head.proj"}),
        ({"proj": 2, "block.proj": 0, "head.proj": 3, "block_proj": 0}, {"^proj"}),
        ({"block.proj": 2, "head.proj": 3}, {"block.proj"}),
    ],
)
def test_names_that_end_in_one_another_keep_their_ranks(ranks, keys, tmp_path):
    """By PEFT, by its merged weights, and by ours; names that collide with none stay as they are."""
    torch.manual_seed(0)
    model = Nested()
    factors = {name: (torch.randn(rank, 6), torch.randn(6, rank)) for name, rank in ranks.items()}
    export.write_lora(tmp_path, factors, 0.7, base="", task_type="FEATURE_EXTRACTION")
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, (a, b) in factors.items():
        expected[f"{name}.weight"] += 0.7 * b @ a
    merged = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path).merge_and_unload()
    torch.testing.assert_close(dict(merged.state_dict()), expected)

    save_file({"out": torch.zeros(1)}, tmp_path / export.HEAD_WEIGHTS)
    backbone = SimpleNamespace(prefix="bert", encoder=model, hf_config=BertConfig())
    export.write_merged(tmp_path / "merged", tmp_path, backbone)
    torch.testing.assert_close(load_file(tmp_path / "merged" / export.MODEL_WEIGHTS), expected)

    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert set(config["rank_pattern"]) == set(config["alpha_pattern"]) == keys


def test_bitfit_reloads_in_transformers(tmp_path):
    """The second replica, whose biases are not the first's."""
    loop = trained(tmp_path, "bert", method={"name": "bitfit"})
    expected = predict(loop.pack, loop.pack.splits["report"])
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    for replica in (0, 1):
        loop.pack.method.export(replica, tmp_path / str(replica), loop.pack.model.head)
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / str(replica)).eval()
        np.testing.assert_allclose(logits_of(model, loop.pack.splits["report"]), expected[replica], atol=2e-5)
    np.testing.assert_array_equal(predict(loop.pack, loop.pack.splits["report"]), expected, "the pack trains on")


class _Bottleneck(nn.Module):
    """The equation that stands in the file of an adapter."""

    def __init__(self, base, tensors):
        super().__init__()
        self.base, self.tensors = base, tensors

    def forward(self, x):
        y = self.base(x)
        inner = nn.functional.gelu(y @ self.tensors["down"].T + self.tensors["down_bias"])
        return y + inner @ self.tensors["up"] + self.tensors["up_bias"]


def test_an_adapter_stands_in_its_equation(tmp_path):
    """Put into transformers' own model as the file says, it predicts what its replica predicts."""
    loop = trained(tmp_path, "bert", method={"name": "adapter", "bottleneck": 3})
    expected = predict(loop.pack, loop.pack.splits["report"])
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    for replica in (0, 1):
        loop.pack.method.export(replica, tmp_path / str(replica), loop.pack.model.head)
        tensors = load_file(tmp_path / str(replica) / export.OWN_WEIGHTS)
        model = plain_model(loop.pack.runs[0])
        for name in loop.pack.method.layers:
            own = {key: tensors.pop(f"{name}.{key}") for key in ("down", "down_bias", "up", "up_bias")}
            model.bert.set_submodule(name, _Bottleneck(model.bert.get_submodule(name), own))
        assert not model.load_state_dict(tensors, strict=False).unexpected_keys
        np.testing.assert_allclose(logits_of(model, loop.pack.splits["report"]), expected[replica], atol=2e-5)
