"""Exported adapters in a process that has plain transformers and peft and cannot import this package."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sora.training.evaluation import predict
from tests import tiny
from tests.publish.test_export import plain_model

ADALORA = {"name": "adalora", "r": 2, "init_r": 4, "interval": 1, "warmup": 0.1, "final": 0.3}
METHODS = {"sora": {"threshold": 5e-2}, "lora": {"name": "lora"}, "adalora": ADALORA}
CASES = [f"{family}-{method}" for family in tiny.FAMILIES for method in METHODS]
STRANGER = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("sora", "experiments", "hydra_plugins", "tests"):
            raise ModuleNotFoundError(f"{name} is not to be had here", name=name)

sys.meta_path.insert(0, Blocked())
try:
    import sora
    raise SystemExit("this package can be imported, so the check means nothing")
except ModuleNotFoundError:
    pass

from pathlib import Path
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

logging.disable_progress_bar()
logging.set_verbosity_error()
results = {}
for case in Path.cwd().iterdir():
    base = AutoModelForSequenceClassification.from_pretrained(case / "base", dtype=torch.float32)
    batch = load_file(case / "batch.safetensors")
    expected = batch.pop("expected")
    with torch.no_grad():
        plain = base.eval()(**batch).logits
        model = PeftModel.from_pretrained(base, case / "adapter").eval()
        logits = model(**batch).logits
    lora = {n: p for n, p in model.named_parameters() if ".lora_A." in n}
    results[case.name] = {
        "difference": (logits - expected).abs().max().item(),
        "moved": (logits - plain).abs().max().item(),
        "ranks": {n.removeprefix("base_model.model.").partition(".lora_A")[0]: p.shape[0] for n, p in lora.items()},
        "low_rank": sum(p.numel() for n, p in model.named_parameters() if "lora_" in n),
        "types": sorted({str(p.dtype) for p in model.parameters()}),
    }
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """What plain peft made of each case, beside what the pack said: one process for all."""
    folder = tmp_path_factory.mktemp("foreign")
    own = {}
    for case in CASES:
        family, _, method = case.rpartition("-")
        loop = tiny.train(tiny.runs(family, method=dict(METHODS[method])), tmp_path_factory.mktemp("runs"))
        pack = loop.pack
        first = next(iter(pack.method.layers.values()))
        if first.gate is not None:
            with torch.no_grad():
                first.gate.zero_()  # one matrix is dead altogether
        split = pack.splits["report"]
        expected = predict(pack, split)[0]
        pack.method.export(0, folder / case / "adapter", pack.model.head)
        plain_model(pack.runs[0]).save_pretrained(folder / case / "base")
        batch = split.tokens.collate(np.arange(len(split.examples)))
        save_file(batch | {"expected": torch.from_numpy(expected)}, folder / case / "batch.safetensors")
        own[case] = (pack.method.summary(0), pack.model.backbone.prefix)
    command = [sys.executable, "-I", "-W", "ignore", "-c", STRANGER]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), own


@pytest.mark.parametrize("case", CASES)
def test_plain_peft_gives_the_same_logits(foreign, case):
    result = foreign[0][case]
    assert result["difference"] < 1e-5
    assert result["moved"] > 1e-2, "base and adapter say the same, so nothing was checked"
    assert result["types"] == ["torch.float32"]


@pytest.mark.parametrize("case", CASES)
def test_plain_peft_has_the_live_ranks_and_no_dead_matrix(foreign, case):
    result, (summary, prefix) = foreign[0][case], foreign[1][case]
    alive = {f"{prefix}.{name}": rank for name, rank in summary.ranks.items() if rank}
    assert result["ranks"] == alive
    assert result["low_rank"] == summary.live
    if not case.endswith("-lora"):
        assert len(alive) < len(summary.ranks), "no matrix died"
        assert len(set(alive.values())) > 1, "ranks did not differ, so rank_pattern was not put to the test"
