"""docs/methods.md, as it is written: the method of its guide, copied into the project's folders, trains and exports."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.conftest import ROOT

TINY = "backbone.weights=random backbone.arch.num_hidden_layers=2 backbone.arch.hidden_size=32 \
backbone.arch.num_attention_heads=2 backbone.arch.intermediate_size=64 trainer.max_steps=2 trainer.batch_size=2"


@pytest.mark.slow
def test_a_method_by_the_guide(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").partition("## Add a method")[2]
    code, options, settings = re.findall(r"```(?:python|yaml)\n(.*?)```", guide, re.DOTALL)
    for part in ("sora", "conf", "hydra_plugins"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", tmp_path)
    (tmp_path / "sora" / "methods" / "norms.py").write_text(code, encoding="utf-8")
    (tmp_path / "conf" / "method" / "norms.yaml").write_text(settings, encoding="utf-8")
    with (tmp_path / "sora" / "method_config.py").open("a", encoding="utf-8") as file:
        file.write(f"\n\n{options}")
    words = f"method=norms backbone=minilm-l6 task=synthetic_single budget=none data.limit=16 {TINY}".split()
    done = subprocess.run(
        [sys.executable, "run.py", *words, "trainer.learning_rate=0.01"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "results" / "records").rglob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["params"]["live"] == 5 * 2 * 32, "gain and bias of the embeddings' LayerNorm and of two a layer"
    saved = load_file(next((tmp_path / "runs").glob("*/adapter/model.safetensors")))
    gains = [tensor for name, tensor in saved.items() if name.endswith("LayerNorm.weight")]
    assert len(gains) == 5
    assert all(bool((tensor != 1).any()) for tensor in gains), "they start at 1, and were trained"
