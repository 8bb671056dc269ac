"""From the command to the first step: few calls on the way, and each record validated once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from sora.cli import main as cli
from sora.runs import records
from sora.training.loop import Loop
from tests.training.test_memory import SMALL

SORA = Path(cli.__file__).parents[1]


def test_six_hops_and_one_validation_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    road: list[str] = []
    checked: list[str] = []
    update, validate = Loop._update, records.validate

    def first_step(loop: Loop, indices: Any) -> None:
        frame = sys._getframe(1)
        while frame is not None and road[-1:] != ["main"]:
            if SORA in Path(frame.f_code.co_filename).parents:
                road.append(frame.f_code.co_name)
            frame = frame.f_back  # type: ignore[assignment]
        update(loop, indices)

    def counted(record: Any, where: str) -> None:
        checked.append(where)
        validate(record, where)

    monkeypatch.setattr(Loop, "_update", first_step)
    monkeypatch.setattr(records, "validate", counted)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    words = [word.replace("backbone.", "++backbone.") for word in SMALL]
    monkeypatch.setattr(sys, "argv", ["run.py", "method=sora", *words, "pack=[{seed: 0}, {seed: 1}]"])
    cli.main()
    written = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "results").rglob("*.json"))
    assert sorted(checked) == written
    assert len(written) == 2
    hops = list(reversed(road[: road.index("main") + 1]))
    assert hops == ["main", "job", "run_pack", "train", "run", "_train"], "and from there to _update: six calls"
