"""What a record says of a run besides its scores: one-class answers, the precision of its logits, its pack mates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sora.runs import records
from sora.training import pack, session
from sora.training.runner import run_pack
from tests import tiny
from tests.training.test_memory import runs


def recorded(folder: Path, monkeypatch: pytest.MonkeyPatch, *logits: dict[str, Any]) -> list[Path]:
    """The records of two tiny runs whose final logits are replaced, split by split, by ``logits``."""
    evaluated = session.final_evaluation

    def replaced(loop: Any) -> list[dict[str, Any]]:
        final = evaluated(loop)
        for each, mine in zip(final, logits, strict=True):
            for split, change in mine.items():
                each["logits"][split] = change(each["logits"][split], loop.pack.splits[split].examples.labels)
        return final

    monkeypatch.setattr(session, "final_evaluation", replaced)
    found = run_pack(runs(folder, [0, 1]), "python run.py")
    paths = [records.find(folder / "results", record["run_id"]) for record in found]
    return [path for path in paths if path is not None]


def right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Far from any tie: every answer is right, and both classes occur."""
    assert set(labels) == {0, 1}
    return np.where(np.arange(2) == labels[:, None], 2.0, -2.0).astype(np.float32)


def constant(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.tile(np.array([-1.0, 1.0], np.float32), (len(labels), 1))


def near_tie(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """As :func:`right`, but one example of class 1 is right by 1e-4, which float16 cannot hold near 1."""
    close = right(logits, labels)
    close[int(np.argmax(labels == 1))] = [1.0, 1.0001]
    return close


def test_one_class_answers_and_the_precision_of_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``one_class`` is about the report split; logits that float16 would tie are stored as float32."""
    first, second = recorded(
        tmp_path, monkeypatch, {"select": right, "report": constant}, {"select": right, "report": near_tie}
    )
    assert [records.read(path)["flags"]["one_class"] for path in (first, second)] == [True, False]
    assert records.read_arrays(first)["report_logits"].dtype == np.float16
    arrays = records.read_arrays(second)
    assert (arrays["select_logits"].dtype, arrays["report_logits"].dtype) == (np.float16, np.float32)
    assert np.array_equal(arrays["report_logits"].argmax(1), arrays["report_labels"]), "the answer is not lost"
    half = arrays["report_logits"].astype(np.float16)
    assert not np.array_equal(half.argmax(1), arrays["report_labels"]), "the pair is one that float16 ties"


def test_a_run_that_diverged_before_its_first_evaluation_has_the_ranks_of_its_last_finite_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At step 3 of 8, the first evaluation after 4. At so small a rate the threshold alone moves its gates, twice."""
    losses_of, calls = pack.losses_of, []

    def poisoned(*given: Any) -> torch.Tensor:
        calls.append(1)
        return losses_of(*given) * (torch.nan if len(calls) == 3 else 1.0)

    monkeypatch.setattr(pack, "losses_of", poisoned)
    words = ("method=sora", "method.r=8", "method.threshold=0.3", "method.penalty_rule=off")
    (record,) = run_pack(runs(tmp_path, [0], *words, "trainer.learning_rate=1e-30"), "python run.py")
    assert (record["status"], record["flags"]["diverged_at"]) == ("diverged", 3)
    assert [record["metrics"][which]["step"] for which in ("selected", "last")] == [4, 4]
    forecast = record["no_data_ranks"]
    assert record["ranks"] == record["ranks_last"] == forecast["selected"] == forecast["last"]


def test_changed_pack_mates_are_remembered_over_a_second_resume(tmp_path: Path) -> None:
    """Saved with another run, resumed alone, stopped, and resumed alone again: the second resume changes nothing."""
    both = tiny.runs(seeds=[0, 1])
    tiny.stop(both, tmp_path, 5)
    tiny.stop(both[1:], tmp_path, 10)
    progress = tiny.train(both[1:], tmp_path).progress[0]
    assert progress.resumed_at == [5, 10]
    assert progress.members_changed
