"""docs/methods.md, as it is written: the method of its guide, put where the guide says, trains and exports."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sora import method_config
from sora.options import register
from tests.conftest import ROOT
from tests.typed import called

TINY = "backbone.weights=random backbone.arch.num_hidden_layers=2 backbone.arch.hidden_size=32 \
backbone.arch.num_attention_heads=2 backbone.arch.intermediate_size=64 trainer.max_steps=2 trainer.batch_size=2"


def test_a_method_by_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").partition("## Add a method")[2]
    code, options, settings = re.findall(r"```(?:python|yaml)\n(.*?)```", guide, re.DOTALL)
    file = tmp_path / "norms.py"
    file.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("sora.methods.norms", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "sora.methods.norms", module)
    monkeypatch.setitem(method_config.METHODS, "norms", method_config.MethodConfig)  # taken away again afterwards
    exec(options, dict(vars(method_config)))
    register()
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "norms.yaml").write_text(settings, encoding="utf-8")
    words = f"method=norms backbone=minilm-l6 task=synthetic_single budget=none data.limit=16 {TINY}".split()
    done = called(tmp_path, "--config-dir", "conf", *words, "trainer.learning_rate=0.01")
    assert done.status == 0, done.err
    (path,) = (tmp_path / "results" / "records").rglob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["params"]["live"] == 5 * 2 * 32, "gain and bias of the embeddings' LayerNorm and of two a layer"
    saved = load_file(next((tmp_path / "runs").glob("*/adapter/model.safetensors")))
    gains = [tensor for name, tensor in saved.items() if name.endswith("LayerNorm.weight")]
    assert len(gains) == 5
    assert all(bool((tensor != 1).any()) for tensor in gains), "they start at 1, and were trained"
