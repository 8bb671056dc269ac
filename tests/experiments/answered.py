"""Studies whose every answer is chosen by the test: records in, the files of ``make tables`` out, nothing between."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from experiments import figures
from scripts import tables
from sora.runs import manifest as studies
from sora.runs import records
from tests.experiments import made

Right = NDArray[np.bool_]
LABELS = np.arange(400) % 2  # both classes alike, the same for all runs


@dataclass(frozen=True)
class Answered:
    """A run at ``axes`` whose answers are right where ``report`` and ``select`` [N] say so.

    ``ranks``: of its matrices, those that were kept and those that no data would have left.
    """

    axes: Mapping[str, Any]
    report: Right
    select: Right
    live: int | None = None
    ranks: tuple[list[int], list[int]] | None = None


def share(right: int, items: int) -> Right:
    """The first ``right`` of ``items`` answers are right."""
    return np.arange(items) < right


def arrays_of(report: Right, select: Right) -> records.Arrays:
    """Logits whose answers are right where ``report`` and ``select`` [N] say so."""
    found = {}
    for split, right in (("report", report), ("select", select)):
        labels = LABELS[: len(right)]
        given = np.where(right, labels, 1 - labels)
        found[f"{split}_logits"] = np.where(np.arange(2) == given[:, None], 1.0, -1.0).astype(np.float16)
        found |= {f"{split}_labels": labels, f"{split}_ids": np.arange(len(right))}
    return found


def study(
    results: Path,
    name: str,
    runs: Sequence[Answered],
    missing: Sequence[Mapping[str, Any]] = (),
    fixed: Mapping[str, str] | None = None,
) -> Path:
    """A manifest of ``runs`` and of the axes of runs that were not made, and the records of ``runs``; its path."""
    every = [*(run.axes for run in runs), *missing]
    axes = {axis: list(dict.fromkeys(each[axis] for each in every)) for axis in every[0]}
    salt = repr(sorted((fixed or {}).items())) if fixed else ""
    entries = [made.entry(each, salt) for each in every]
    for run, entry in zip(runs, entries, strict=False):
        content = arrays_of(run.report, run.select)
        scores = made.scores(run.axes["task"], content)
        record = made.record(run.axes, scores, records.arrays_digest(content), salt)
        if run.live is not None:
            record["params"]["live"] = run.live
        if run.ranks is not None:
            names = [f"encoder.layer.{index}.output.dense" for index in range(len(run.ranks[0]))]
            record["ranks"], drawn = (dict(zip(names, each, strict=True)) for each in run.ranks)
            record["no_data_ranks"] = {"initial": drawn, "selected": drawn, "last": drawn}
        records.write(results / entry["record"], record, content)
    return studies.write(results, studies.make(name, axes, {"backbone": "minilm-l6", **(fixed or {})}, entries))


def built(results: Path, study: str = "") -> dict[str, list[dict[str, str]]]:
    """Build all but pictures as ``make tables`` does: table name -> its rows, of the only study or of ``study``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "render", lambda figure: (b"", b""))
        assert tables.build(results) == []
    folders = [path for path in (results / "tables").iterdir() if path.name.startswith(study) and path.name != "claims"]
    (folder,) = folders
    found = {}
    for path in [*folder.glob("*.csv"), *(results / "tables" / "claims").glob("*.csv")]:
        with path.open(encoding="utf-8", newline="") as file:
            found[path.stem] = list(csv.DictReader(file))
    return found


def page(results: Path) -> str:
    """The README of the only study."""
    (path,) = (results / "tables").glob("*-*/README.md")
    return path.read_text(encoding="utf-8")


def row(table: Sequence[Mapping[str, str]], **keys: str) -> dict[str, str]:
    """The one row of a table with these cells; underscores in keys stand for spaces."""
    (found,) = [each for each in table if all(each[key.replace("_", " ")] == value for key, value in keys.items())]
    return dict(found)
