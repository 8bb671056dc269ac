"""SoRA on real sentences: where the threshold outruns the learning rate, and where the loss has a say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sora.methods.regime import regime
from sora.runs import data_dependence
from sora.tasks import TaskData, load
from sora.training.pack import build_pack
from tests import tiny
from tests.composing import runs

STEPS = 50
DRAW = ("trainer.learning_rate=0.0016", "method.threshold=0.016")  # rho 10, travel 0.04
LOSS = ("trainer.learning_rate=0.03", "method.threshold=0.0045")  # rho 0.15, travel 0.75
SMALL = (
    "method=sora",
    "method.alpha=1",  # A and B of so high a rate are scaled down
    "task=sst2",
    "protocol=holdout",
    "recipe=none",
    "budget=none",
    "backbone.pooling=mean",
    "head=classifier",
    "seed=0",
    f"trainer.max_steps={STEPS}",
    "trainer.batch_size=8",
    "trainer.max_length=16",
    "trainer.clip=1",
    "trainer.eval_every=1000",
)


@pytest.mark.slow
def test_the_data_choose_the_ranks_in_one_regime_and_the_draw_in_the_other(tmp_path: Path, shared: Path) -> None:
    if not (shared / "data" / "glue" / "SST-2" / "train.tsv").is_file():
        pytest.skip(f"no SST-2 at {shared / 'data' / 'glue'}")
    place = f"data.dir={shared / 'data' / 'glue'}"
    configs = [run for words in (DRAW, LOSS) for run in runs(tmp_path, *SMALL, *words, place, backbone="minilm-l6")]
    data = load(configs[0].task, configs[0].protocol, configs[0].data)
    few = {"train": 300, "select": 64, "report": 8, "train_subset": 8}
    splits = {name: data.splits[name].take(np.arange(count)) for name, count in few.items()}
    pack = build_pack(configs, TaskData(data.task, splits, few, {}, data.sha256), torch.device("cpu"))
    draw, loss = (regime(run, pack.timeline) for run in configs)
    assert draw is not None
    assert loss is not None
    assert draw.warning()
    assert not loss.warning()
    loop = tiny.finish(pack, tmp_path, ["draw", "loss"])
    found = []
    for replica in (0, 1):
        ranks, null = pack.method.summary(replica).ranks, pack.method.no_data_ranks(replica, STEPS)
        assert 0 < sum(ranks.values()) < 8 * len(ranks)
        found.append(data_dependence(ranks, null))
    assert loop.progress[1].history[-1]["loss"] < 0.67, "it learns, so that its ranks are not those of a blown-up run"
    assert found[0]["index"] < 0.1, found
    assert found[1]["index"] > 0.3, found
    assert found[0]["differ"] < found[1]["differ"]
