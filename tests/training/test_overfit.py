"""LoRA on a frozen random encoder learns 32 training items of a task by heart: text, head and labels fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from sora.training.runner import run_pack
from tests.superglue import FOLDERS, tiny_runs

ITEMS = 32


@pytest.mark.slow
@pytest.mark.parametrize("name", ["copa", "wic"])  # choices, spans
def test_32_items_are_learnt(name: str, shared: Path, tmp_path: Path) -> None:
    source, folder = shared / "data" / "superglue" / FOLDERS[name], tmp_path / "superglue" / FOLDERS[name]
    folder.mkdir(parents=True)
    lines = (source / "train.jsonl").read_text(encoding="utf-8").splitlines()[:ITEMS]
    for split in ("train", "val"):
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    loop = ("trainer.epochs=1000", "trainer.max_steps=100", "trainer.batch_size=16", "trainer.eval_every=100")
    rates = ("trainer.learning_rate=5e-3", "trainer.clip=1", "backbone.dropout=0")
    configs = tiny_runs(tmp_path, "method=lora", f"task={name}", "protocol=dev", *loop, *rates)
    (record,) = run_pack(configs, "test")
    assert record["data"]["sizes"]["train"] == ITEMS
    assert record["metrics"]["last"]["train_subset"]["accuracy"] >= 0.95
