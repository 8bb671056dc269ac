"""From a task to its examples: finds the files, reads what a run needs, checks counts, applies the protocol.

An official task lies as the official download, as parquet of its data set on the hub, or as ``save_to_disk`` left that
data set. What comes out are the examples of the official files, ``ids`` and ``source`` included: equal content gives an
equal hash, and so the same run id, wherever it was read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

from sora.backbones.hub import NotThere, Repository, snapshot
from sora.backbones.prepared import check
from sora.coercion import nearest, show
from sora.config import DataConfig, ProtocolConfig, TaskConfig
from sora.errors import UserError
from sora.tasks import own
from sora.tasks.examples import Examples, TaskData, splits_digest
from sora.tasks.formats import FORMATS, UNFOLD, examples_of
from sora.tasks.metrics import check_metrics
from sora.tasks.splits import count_rows, first, limited, make_splits, train_slice
from sora.tasks.tables import of_dataset, read_delimited, read_jsonl, read_parquet, read_saved

ENV = "SORA_DATA"
WHERE = {
    "glue": "GLUE is at https://gluebenchmark.com/tasks; unpack it as <data.dir>/RTE/train.tsv and so on",
    "superglue": "SuperGLUE is at https://super.gluebenchmark.com/tasks; unpack it as <data.dir>/CB/train.jsonl etc.",
    **dict.fromkeys(("own", "synthetic"), "Correct data.dir, or folder and files of the task's YAML"),
}


def load(task: TaskConfig, protocol: ProtocolConfig, data: DataConfig) -> TaskData:
    """The splits of ``task`` under ``protocol``. Of an official task only the train and validation files are read,
    never the test; of a user's own the test file too, which is reported on where it has labels.

    Raises UserError when a metric does not fit the task, and when the data is not found, malformed, or (unless
    data.allow_partial) not of the official size.
    """
    if task.trained_on:
        raise UserError(
            f"task {task.name} is a diagnostic set without training data; train one of {', '.join(task.trained_on)} "
            "with predict=true, which also predicts it"
        )
    check_metrics(task)
    partial: dict[str, str] = {}
    if task.reader == "own":
        official = own.read(task, data.dir)
    else:
        if missing := [split for split in ("train", "validation") if split not in task.sizes]:
            raise UserError(
                f"task.sizes: has no {missing[0]}, must have the number of examples of each official split; "
                f"correct the YAML of task {task.name}"
            )
        needed = [split for split in ("train", "validation", "validation_mm") if split in task.sizes]
        official, partial = _read(task, needed, data)
    official["train"] = train_slice(official["train"], task.train_rows)
    splits = make_splits(task, protocol.name, official)
    if data.limit:
        splits, cut = limited(splits, data.limit)
        partial = partial | cut
    sizes = {name: len(examples) for name, examples in splits.items()}
    return TaskData(task, splits, sizes, partial, splits_digest(splits))


def load_test(task: TaskConfig, data: DataConfig) -> dict[str, Examples]:
    """The test split: ``{"test": ...}`` (and ``"test_mm"``), for predictions.

    Labels are -1 (classes) or NaN (regression), those of a user's own file where it has some. Raises UserError as
    ``load`` does.
    """
    splits = [split for split in ("test", "test_mm", "diagnostic") if split in task.sizes]
    if not splits:
        raise UserError(f"task {task.name} has no test split; leave predict out or choose another task")
    found = own.read(task, data.dir) if task.reader == "own" else _read(task, splits, data)[0]
    return {split: first(found[split], data.limit) for split in splits}


def why_not(task: TaskConfig, data: DataConfig) -> str:
    """Why the task's data cannot be had, as a sentence; empty where its place is found."""
    try:
        _, files = locate(task, data.dir)
        for split in task.sizes:
            files(split)
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
    raise UserError(
        f"{key}={given}: no folder for task {task.name}; looked for {places}{nearest(task.folder, present)}. "
        f"{WHERE[task.benchmark]}"
    )


def _read(task: TaskConfig, splits: Sequence[str], data: DataConfig) -> tuple[dict[str, Examples], dict[str, str]]:
    """The named official splits and, for those that are not complete, a sentence about it."""
    if task.reader == "synthetic":
        from sora.tasks.synthetic import generate  # its word lists are only needed here

        made = generate(task)
        return {split: made[split] for split in splits}, {}
    official: dict[str, Examples] = {}
    partial: dict[str, str] = {}
    given = data.dir or os.environ.get(ENV)
    of_hub, files_of = locate(task, data.dir)
    if task.spans and task.layout not in ("wic", "wsc"):
        raise UserError(f"task.spans: got {show(task.spans)}, but task={task.name} has no marked words; leave it empty")
    names = [task.files.get(split) for split in splits]
    if None in names or len(set(names)) < len(names):
        raise UserError(
            f"task.files: got {show(task.files)}, must name a file of its own for each of {', '.join(splits)}"
        )
    for split in splits:
        source = f"{task.folder}/{task.files[split]}"
        files = files_of(split)
        path = files[0]
        if not path.exists():
            raise UserError(f"{path} is missing (the {split} split of task {task.name}). {WHERE[task.benchmark]}")
        if given:
            inside = (sorted(each.iterdir()) if each.is_dir() else [each] for each in files)  # a folder: a saved split
            check(Path(given).expanduser(), chain.from_iterable(inside))
        if of_hub:
            official[split] = read_snapshot(files, task, split, source)
        else:
            official[split] = read_official(path, task, split, source)
        expected, found = task.sizes[split], count_rows(official[split])
        if found != expected:
            partial[split] = f"{expected:,} expected, {found:,} found"
            if not data.allow_partial or not found:
                raise UserError(
                    f"{path}: {partial[split]}, so this is not the complete {split} split of {task.name}; get the "
                    "official file, or set data.allow_partial=true if there are some (the record will say so)"
                )
    return official, partial


def locate(task: TaskConfig, directory: str | None) -> tuple[bool, Callable[[str], list[Path]]]:
    """Whether the data lies as the hub has it, and from a split to its files. ``directory`` is data.dir."""
    if snapshot_of := open_snapshot(task, directory or os.environ.get(ENV)):
        return True, snapshot_of
    folder = data_folder(task, directory)
    return False, lambda split: [folder / task.files[split]]


def read_official(path: Path, task: TaskConfig, split: str, source: str) -> Examples:
    """The examples of an official file. Raises UserError with ``file:line`` for a row that is not as described."""
    if task.reader == "tsv":
        columns = task.columns | (task.test_columns if split.startswith("test") else {})
        skip = task.short_rows == "skip"
        table = read_delimited(path, header=split not in task.headerless, skip_short=skip)
    else:
        columns = task.columns | {"idx": "idx", "label": "label"}
        table = read_jsonl(path, UNFOLD.get(task.layout))
    return examples_of(table, task, columns, split, source)


# -- a snapshot of the hub's data set --------------------------------------------------------------------------


def open_snapshot(task: TaskConfig, given: str | None) -> Callable[[str], list[Path]] | None:
    """From a split to its parquet files, or to its folder of ``save_to_disk``; None for the official download.

    ``given`` is data.dir; without one, and for a task that is there, it is the hub.
    """
    if not task.hub:
        return None
    if not given:
        return lambda split: hub_files(task, split)
    root = Path(given).expanduser()
    bases = (root, root / task.benchmark)
    if any((base / task.folder / name).is_file() for base in bases for name in task.files.values()):
        return None
    names = [task.hub_splits.get(split, split) for split in task.sizes]
    for folder in (base / task.hub_config for base in bases):
        if any(any(folder.glob(f"{name}-*.parquet")) or (folder / name / "state.json").is_file() for name in names):
            return lambda split: snapshot_files(task, split, folder)
    return None


def snapshot_files(task: TaskConfig, split: str, folder: Path) -> list[Path]:
    """The parquet files of a split, all of its shards, or the folder where it was saved. Raises UserError."""
    name = task.hub_splits.get(split, split)
    if (folder / name / "state.json").is_file():
        return [folder / name]
    files = sorted(folder.glob(f"{name}-*.parquet"))
    if not files:
        missing = folder / f"{name}-00000-of-00001.parquet"
        raise UserError(f"{missing} is missing (the {split} split of task {task.name} is not whole); download it again")
    return files


def hub_files(task: TaskConfig, split: str) -> list[Path]:
    """The files of a split in the hub's cache, downloaded if need be. Raises UserError where they cannot be had."""
    repository = Repository(task.hub, task.revision, "dataset", "task.revision")
    name = task.hub_splits.get(split, split)
    held = repository.cached / "snapshots" / task.revision / task.hub_config
    try:
        if any(held.glob(f"{name}-*.parquet")):
            return snapshot_files(task, split, held)
        folder = snapshot(repository, [f"{task.hub_config}/{name}-*.parquet"])
    except NotThere as error:
        raise UserError(
            f"task {task.name}: no {task.hub_config}/{name}-00000-of-00001.parquet of {task.hub}: {error}; fill the "
            f"hub's cache where there is a network (hf download {task.hub} --repo-type dataset --revision "
            f"{task.revision} --include '{task.hub_config}/*'), or give a folder with the files (data.dir=FOLDER, or "
            f"the variable {ENV})"
        ) from error
    return snapshot_files(task, split, folder / task.hub_config)


def read_snapshot(files: Sequence[Path], task: TaskConfig, split: str, source: str) -> Examples:
    """The examples of a split of the hub's data set; ``source`` is the official file that it stands for."""
    dataset = read_parquet(files) if files[0].is_file() else read_saved(files[0])
    place = str(files[0].parent if len(files) > 1 else files[0])
    columns = task.hub_columns or task.columns | {"label": "label", "idx": "idx"}
    known = columns.values() if task.layout == "flat" else FORMATS[task.layout].columns
    return examples_of(of_dataset(dataset, place, [*known, "label"]), task, columns, split, source)
