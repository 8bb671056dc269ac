"""The demo: the regime of its budget, and what it says of the ranks it shows. Nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure as Canvas

from experiments.figures import render
from experiments.tables import Figure
from scripts import demo
from sora.methods.regime import LARGEST_RHO, SMALLEST_TRAVEL
from tests.composing import CONF, runs
from tests.experiments import made


def test_the_loss_can_hold_a_gate_up(tmp_path: Path) -> None:
    words = [word for word in demo.command("sora")[1:] if not word.startswith(("backbone=", "paths.", "seed="))]
    (run,) = runs(tmp_path, *words, backbone="minilm-l6")
    steps = run.trainer.max_steps
    assert steps is not None
    rate = run.trainer.learning_rate
    assert rate is not None
    assert run.method.threshold / rate <= LARGEST_RHO  # type: ignore[attr-defined]
    assert rate * steps / 2 >= SMALLEST_TRAVEL


def test_both_methods_have_one_budget(tmp_path: Path) -> None:
    """But for the learning rate, which SoRA's recipe sets together with its threshold."""
    found = {}
    for method in ("lora", "sora"):
        words = [word for word in demo.command(method)[1:] if not word.startswith(("backbone=", "paths.", "seed="))]
        (found[method],) = runs(tmp_path, *words, backbone="minilm-l6")
    recipe = yaml.safe_load((CONF / "recipe" / found["sora"].recipe).with_suffix(".yaml").read_text())
    assert found["sora"].trainer.learning_rate == recipe["trainer"]["learning_rate"]
    assert found["sora"].method.threshold == recipe["method"]["threshold"]  # type: ignore[attr-defined]
    rate = found["lora"].trainer.learning_rate
    assert replace(found["sora"].trainer, learning_rate=rate) == found["lora"].trainer


def test_the_map_of_ranks_is_a_picture_in_colours_from_none_to_r(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up = made.record({"method": "sora", "task": "stsb"}, {"select": {}, "report": {}}, "0" * 64)
    drawn: list[Figure] = []
    monkeypatch.setattr(demo, "render", lambda figure: drawn.append(figure) or render(figure))
    demo.draw_ranks([made_up], tmp_path / "ranks.png")
    drawn[0].draw(canvas := Canvas())
    assert canvas.axes[0].images[0].get_clim() == (0, 8)
    assert (tmp_path / "ranks.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("kept", "says"), [([1, 3, 5, 2, 8, 7], "the draw still has"), ([8, 1, 3, 7, 1, 4], "the data have")]
)
def test_what_it_says_of_the_ranks(kept: list[int], says: str) -> None:
    drawn = [1, 3, 5, 2, 8, 6]
    record = made.record({"method": "sora", "task": "stsb"}, {}, "0" * 64)
    record["ranks"] = {str(index): rank for index, rank in enumerate(kept)}
    same = [2, 3, 5, 1, 8, 7]
    record["no_data_ranks"] = {
        key: {str(index): rank for index, rank in enumerate(each)}
        for key, each in (("selected", drawn), ("same_total", same))
    }
    record["regime"] = {"rho": 0.4, "shrink": 0.5, "travel": 0.6}
    said = demo.reading([record])
    first, second = (1 - np.corrcoef(kept, each)[0, 1] for each in (drawn, same))
    assert f"ranks: {first:.2f}; against the draw cut to as many ranks {second:.2f} " in said
    assert says in said
