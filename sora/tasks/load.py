"""From a task to its examples: finds the files, reads what a run needs, checks counts, applies the protocol.

An official task lies as the official download, as parquet of its data set on the hub, or as ``save_to_disk`` left that
data set. What comes out are the examples of the official files, ``ids`` and ``source`` included: equal content gives an
equal hash, and so the same run id, wherever it was read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
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
from sora.tasks.tables import ONE, of_dataset, read_datasets, read_delimited, read_jsonl

ENV = "SORA_DATA"
WHERE = {
    "glue": "GLUE is at https://gluebenchmark.com/tasks; unpack it as <data.dir>/RTE/train.tsv and so on",
    "superglue": "SuperGLUE is at https://super.gluebenchmark.com/tasks; unpack it as <data.dir>/CB/train.jsonl etc.",
    **dict.fromkeys(("own", "synthetic"), "Correct data.dir, or folder and files of the task's YAML"),
}


def load(task: TaskConfig, protocol: ProtocolConfig, data: DataConfig) -> TaskData:
    """The splits of ``task`` under ``protocol``. Of an official task only the train and validation files are read,
    never the test; of a user's own the test file too, which is reported on where it has labels.

    Raises UserError when a metric does not fit the task, and when the data is not found, malformed, (unless
    data.allow_partial) not of the official size, or of a user's own task of one class alone to train on.
    """
    if task.trained_on:
        raise UserError(
            f"task {task.name} is a diagnostic set without training data; train one of {', '.join(task.trained_on)} "
            "with predict=true, which also predicts it"
        )
    _check_shape(task)
    check_metrics(task)
    partial: dict[str, str] = {}
    if task.reader == "own":
        official = own.read(task, data.dir)
    else:
        mismatched = ["validation_mm"] if "validation_mm" in task.sizes else []
        official, partial = _read(task, ["train", "validation", *mismatched], data)
    official["train"] = train_slice(official["train"], task.train_rows)
    splits = make_splits(task, protocol.name, official)
    if data.limit:
        splits, cut = limited(splits, data.limit)
        partial = partial | cut
    sizes = {name: len(examples) for name, examples in splits.items()}
    notes = own.notes(task, splits, protocol.name, data.limit) if task.reader == "own" else []
    return TaskData(task, splits, sizes, partial, splits_digest(splits), notes)


def _check_shape(task: TaskConfig) -> None:
    """Raise UserError for a reading of an example that the rows of the task do not allow."""
    wrong: dict[str, str] = {}
    if len(task.labels) == 1:
        wrong["labels"] = "has one label in all; give two or more"
    if task.spans and task.layout not in ("wic", "wsc"):
        wrong["spans"] = "has no marked words; leave it empty"
    if task.truncate and not task.is_pair:
        wrong["truncate"] = "has one text, which is cut as it is; leave it empty"
    if task.scoring != "classes" and task.layout == "flat":
        wrong["scoring"] = "has no choices and no questions to which examples belong; leave it at classes"
    for key, reason in wrong.items():
        raise UserError(f"task.{key}: got {show(getattr(task, key))}, but task={task.name} {reason}")


def load_test(task: TaskConfig, data: DataConfig) -> dict[str, Examples]:
    """The test split: ``{"test": ...}`` (and ``"test_mm"``), for predictions.

    Labels are -1 (classes) or NaN (regression), those of a user's own file where it has some. Raises UserError as
    ``load`` does.
    """
    splits = [split for split in ("test", "test_mm", "diagnostic") if split in task.sizes]
    if not splits:
        instead = "add test: FILE to data.files" if task.reader == "own" else "choose another task"
        raise UserError(f"task {task.name} has no test split; leave predict out or {instead}")
    found = own.read(task, data.dir) if task.reader == "own" else _read(task, splits, data)[0]
    return {split: first(found[split], data.limit) for split in splits}


def why_not(task: TaskConfig, data: DataConfig) -> str:
    """Why the task's data cannot be had, as a sentence; empty where its place is found."""
    try:
        source = locate(task, data.dir)
        for split in task.sizes:
            source.files(split)
    except UserError as error:
        return str(error)
    return ""


def _read(task: TaskConfig, splits: Sequence[str], data: DataConfig) -> tuple[dict[str, Examples], dict[str, str]]:
    """The named official splits and, for those that are not complete, a sentence about it."""
    if task.reader == "synthetic":
        from sora.tasks.synthetic import GENERATORS, generate  # its word lists are only needed here

        if task.generator not in GENERATORS or not set(splits) <= set(task.sizes):
            raise UserError(
                f"task.generator: got {show(task.generator)} with task.sizes {show(task.sizes)}, must be one of "
                f"{', '.join(GENERATORS)}, with the number of examples of {' and '.join(splits)}"
            )
        made = generate(task)
        return {split: made[split] for split in splits}, {}
    names = [task.files.get(split) for split in splits if split in task.sizes]
    if None in names or len(set(names)) < len(splits):
        raise UserError(
            f"task.files: got {show(task.files)}, must name a file of its own for each of {', '.join(splits)}, and "
            f"task.sizes the number of its examples; correct the YAML of task {task.name}"
        )
    source = locate(task, data.dir)
    official: dict[str, Examples] = {}
    partial: dict[str, str] = {}
    for split in splits:
        files = source.files(split)
        path = files[0]
        if not path.exists():
            raise UserError(f"{path} is missing (the {split} split of task {task.name}). {WHERE[task.benchmark]}")
        if source.root:
            check(source.root, sorted(path.iterdir()) if path.is_dir() else files)
        stands_for = f"{task.folder}/{task.files[split]}"
        if source.of_hub:
            official[split] = read_snapshot(files, task, split, stands_for)
        else:
            official[split] = read_official(path, task, split, stands_for)
        expected, found = task.sizes[split], count_rows(official[split])
        if found != expected:
            partial[split] = f"{expected:,} expected, {found:,} found"
            if not data.allow_partial or not found:
                raise UserError(
                    f"{path}: {partial[split]}, so this is not the complete {split} split of {task.name}; get the "
                    "official file, or set data.allow_partial=true if there are some (the record will say so)"
                )
    return official, partial


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


def read_snapshot(files: Sequence[Path], task: TaskConfig, split: str, source: str) -> Examples:
    """The examples of a split of the hub's data set; ``source`` is the official file that it stands for."""
    columns = task.hub_columns or task.columns | {"label": "label", "idx": "idx"}
    known = columns.values() if task.layout == "flat" else FORMATS[task.layout].columns
    table = of_dataset(read_datasets(files)[ONE], files, [*known, "label"])
    return examples_of(table, task, columns, split, source)


# -- where an official task lies -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where the files of an official task lie."""

    task: TaskConfig
    root: Path | None  # data.dir; None: the hub's cache, or the hub
    folder: Path | None  # the task's, below it
    of_hub: bool  # as the hub has them, not as the official download

    def files(self, split: str) -> list[Path]:
        """The official file, there or not; or all parquet shards of a split, or the folder where it was saved.

        Raises UserError where the hub's files are not there, and cannot be had.
        """
        task, name = self.task, self.task.hub_splits.get(split, split)
        if self.folder and not self.of_hub:
            return [self.folder / task.files[split]]
        folder = self.folder or _in_cache(task, name)
        if (folder / name / "state.json").is_file():
            return [folder / name]
        if not (files := sorted(folder.glob(f"{name}-*.parquet"))):
            missing = folder / f"{name}-00000-of-00001.parquet"
            raise UserError(f"{missing} is missing (the {split} split of task {task.name}); download it again")
        return files


def locate(task: TaskConfig, directory: str | None) -> Source:
    """Find the task's files: <dir>/<folder> of the official download, else <dir>/<config> of the hub's data set, or
    either below <dir>/<benchmark>. A folder of the official name without any of its files is the last choice.

    ``directory`` is data.dir; when it is empty the environment variable SORA_DATA counts, and then the hub. Raises
    UserError where there are none.
    """
    key, given = ("data.dir", directory) if directory else (ENV, os.environ.get(ENV))
    if not given:
        if task.hub:
            return Source(task, None, None, True)
        raise UserError(
            f"task {task.name} needs files, and neither data.dir nor the variable {ENV} is set. {WHERE[task.benchmark]}"
        )
    root = Path(given).expanduser()
    bases = (root, root / task.benchmark)
    official = [base / task.folder for base in bases]
    for folder in official:
        if any((folder / name).is_file() for name in task.files.values()):
            return Source(task, root, folder, False)
    names = [task.hub_splits.get(split, split) for split in task.sizes]
    for folder in (base / task.hub_config for base in bases if task.hub):
        if any(any(folder.glob(f"{name}-*.parquet")) or (folder / name / "state.json").is_file() for name in names):
            return Source(task, root, folder, True)
    for folder in official:
        if folder.is_dir():
            return Source(task, root, folder, False)  # so that the file it lacks is named
    present = [path.name for base in bases if base.is_dir() for path in base.iterdir()]
    raise UserError(
        f"{key}={given}: no folder for task {task.name}; looked for {' and '.join(map(str, official))} and its files"
        f"{nearest(task.folder, set(present) - {task.folder})}. {WHERE[task.benchmark]}"
    )


def _in_cache(task: TaskConfig, name: str) -> Path:
    """The folder of a split's files in the hub's cache, downloaded if need be. Raises UserError."""
    repository = Repository(task.hub, task.revision, "dataset", "task.revision")
    held = repository.cached / "snapshots" / task.revision / task.hub_config
    if any(held.glob(f"{name}-*.parquet")):
        return held
    try:
        return snapshot(repository, [f"{task.hub_config}/{name}-*.parquet"]) / task.hub_config
    except NotThere as error:
        raise UserError(
            f"task {task.name}: no {task.hub_config}/{name}-00000-of-00001.parquet of {task.hub}: {error}; fill the "
            f"hub's cache where there is a network (hf download {task.hub} --repo-type dataset --revision "
            f"{task.revision} --include '{task.hub_config}/*'), or give a folder with the files (data.dir=FOLDER, or "
            f"the variable {ENV})"
        ) from error
