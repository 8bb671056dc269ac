"""From a task to its examples: finds the folder, reads what a run needs, checks counts, applies the
protocol."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from sora.errors import UserError
from sora.prepared import check
from sora.tasks.examples import Examples, TaskData, splits_digest
from sora.tasks.jsonl import read_jsonl
from sora.tasks.layouts import LAYOUTS
from sora.tasks.metrics import check_metrics
from sora.tasks.snapshot import open_snapshot, read_snapshot
from sora.tasks.spec import TaskConfig
from sora.tasks.splits import count_rows, make_splits, train_slice
from sora.tasks.tsv import read_tsv

if TYPE_CHECKING:  # sora.config imports TaskConfig from this package
    from sora.config import DataConfig, ProtocolConfig

ENV = "SORA_DATA"
WHERE = {
    "glue": "GLUE is at https://gluebenchmark.com/tasks; unpack it as <data.dir>/RTE/train.tsv and so on",
    "superglue": "SuperGLUE is at https://super.gluebenchmark.com/tasks; unpack it as <data.dir>/CB/train.jsonl etc.",
}
READERS = {"tsv": read_tsv, "jsonl": read_jsonl}


def load(task: TaskConfig, protocol: ProtocolConfig, data: DataConfig) -> TaskData:
    """The splits of ``task`` under ``protocol``. Only the train and validation files are read, never the
    test.

    Raises UserError when a metric does not fit the task, and when the data is not found, malformed, or (unless
    data.allow_partial) not of the official size.
    """
    if task.trained_on:
        raise UserError(
            f"task {task.name} is a diagnostic set without training data; train one of {', '.join(task.trained_on)} "
            "with predict=true, which also predicts it"
        )
    check_metrics(task)
    for split in ("train", "validation"):
        if split not in task.sizes:
            raise UserError(
                f"task.sizes: has no {split}, must have the number of examples of each official split; "
                f"correct the YAML of task {task.name}"
            )
    needed = [split for split in ("train", "validation", "validation_mm") if split in task.sizes]
    official, partial = _read(task, needed, data)
    official["train"] = train_slice(official["train"], task.train_rows)
    splits = make_splits(task, protocol.name, official)
    sizes = {name: len(examples) for name, examples in splits.items()}
    return TaskData(task, splits, sizes, partial, splits_digest(splits))


def load_test(task: TaskConfig, data: DataConfig) -> dict[str, Examples]:
    """The unlabelled test split: ``{"test": ...}`` (and ``"test_mm"``), for a leaderboard's predictions.

    Labels are -1 (classes) or NaN (regression). Raises UserError as ``load`` does.
    """
    splits = [split for split in ("test", "test_mm", "diagnostic") if split in task.sizes]
    if not splits:
        raise UserError(f"task {task.name} has no test split; leave predict out or choose another task")
    return _read(task, splits, data)[0]


def why_not(task: TaskConfig, data: DataConfig) -> str:
    """Why the task's data cannot be had, as a sentence; empty where its place is found."""
    try:
        if snapshot := open_snapshot(task, data.dir or os.environ.get(ENV)):
            for split in task.sizes:
                snapshot(split)
        else:
            data_folder(task, data.dir)
    except UserError as error:
        return str(error)
    return ""


def data_folder(task: TaskConfig, directory: str | None) -> Path:
    """The folder of the task's official files: <dir>/<folder>, or <dir>/<benchmark>/<folder>.

    ``directory`` is data.dir; when it is empty the environment variable SORA_DATA counts. Raises UserError.
    """
    key = "data.dir" if directory else ENV
    given = directory or os.environ.get(ENV)
    if not given:
        raise UserError(
            f"task {task.name} needs files, and neither data.dir nor the variable {ENV} is set. {WHERE[task.benchmark]}"
        )
    root = Path(given).expanduser()
    tried = [root / task.folder, root / task.benchmark / task.folder]
    for folder in tried:
        if folder.is_dir():
            return folder
    places = " and ".join(str(folder) for folder in tried)
    present = [p.name for base in (root, root / task.benchmark) if base.is_dir() for p in base.iterdir()]
    lowered = {name.lower().replace("-", ""): name for name in present}
    near = get_close_matches(task.folder.lower().replace("-", ""), lowered, 1, 0.8)
    hint = f"There is {lowered[near[0]]}: rename it to {task.folder}." if near else WHERE[task.benchmark]
    raise UserError(f"{key}={given}: no folder for task {task.name}; looked for {places}. {hint}")


def _read(task: TaskConfig, splits: Sequence[str], data: DataConfig) -> tuple[dict[str, Examples], dict[str, str]]:
    """The named official splits and, for those that are not complete, a sentence about it."""
    official: dict[str, Examples] = {}
    partial: dict[str, str] = {}
    if task.reader == "synthetic":
        from sora.tasks.synthetic import generate  # its word lists are only needed here

        official = generate(task)
        return {split: official[split] for split in splits}, partial
    _check(task)
    given = data.dir or os.environ.get(ENV)
    for (one, file), (other, same) in combinations(((split, task.files.get(split)) for split in splits), 2):
        if file is not None and file == same:
            raise UserError(f"task.files: {one} and {other} are both {file}, so that they would share their examples")
    snapshot = open_snapshot(task, given)
    folder = Path() if snapshot else data_folder(task, data.dir)
    for split in splits:
        if split not in task.files:
            raise UserError(f"task.sizes names {split}, task.files does not; correct conf/task/{task.name}.yaml")
        source = f"{task.folder}/{task.files[split]}"
        files = snapshot(split) if snapshot else [folder / task.files[split]]
        path = files[0]
        if not path.is_file():
            raise UserError(f"{path} is missing (the {split} split of task {task.name}). {WHERE[task.benchmark]}")
        if given:
            check(Path(given).expanduser(), files)
        if snapshot:
            official[split] = read_snapshot(files, task, split, source)
        else:
            official[split] = READERS[task.reader](path, task, split, source)
        expected, found = task.sizes[split], count_rows(official[split])
        if found != expected:
            partial[split] = f"{expected:,} expected, {found:,} found"
            if not data.allow_partial:
                raise UserError(
                    f"{path}: {partial[split]}, so this is not the complete {split} split of {task.name}; "
                    "get the official file, or set data.allow_partial=true (the record will say so)"
                )
            if not found:
                raise UserError(f"{path}: no examples at all; get the official file")
    return official, partial


def _check(task: TaskConfig) -> None:
    """Refuse words in a task's YAML (or on the command line) that name nothing."""
    choices = {
        "reader": (*READERS, "synthetic"),
        "layout": tuple(LAYOUTS),
        "scoring": ("classes", "choices", "answers", "candidates"),
        "spans": ("vectors", "marks", "") if task.layout in ("wic", "wsc") else ("",),
        "truncate": ("text_a", ""),
    }
    for key, allowed in choices.items():
        value = getattr(task, key)
        if value not in allowed:
            known = " or ".join(repr(each) for each in allowed)
            raise UserError(
                f"task.{key}={value!r} is not {known} in task {task.name}; correct conf/task/{task.name}.yaml"
            )
