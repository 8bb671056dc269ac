"""A task of the user's own: files of any common kind, and what is not said about them found in the rows.

``data.files`` (or ``files`` of a task's YAML) names a file for each split, a glob of shards, a folder that
``save_to_disk`` left, a folder of data files, or a data set on the hub; one name alone stands for all its splits.
"""

from __future__ import annotations

import csv
import functools
import glob
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sora.backbones.hub import NotThere, Repository, snapshot
from sora.coercion import show
from sora.config import TaskConfig
from sora.errors import UserError
from sora.tasks.examples import Examples
from sora.tasks.formats import flat
from sora.tasks.labels import labels_found, word, words_of
from sora.tasks.tables import (
    Table,
    check_shards,
    is_saved,
    joined,
    lines_of,
    of_dataset,
    read_delimited,
    read_jsonl,
    read_parquet,
    read_saved,
    reading,
)

SPLITS = ("train", "validation", "test")
ALL = "*"  # the key of one source that holds every split
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons"}
DELIMITED = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
JSON = (".jsonl", ".ndjson", ".json")
KINDS = "a file (.csv .tsv .jsonl .json .parquet), a glob, a saved folder or a data set on the hub"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?")


def is_own(values: Any) -> bool:
    """Whether the ``task`` group of a configuration is a task of the user's own."""
    return isinstance(values, dict) and values.get("files", {}) != {} and values.get("reader", "own") == "own"


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """The group without nulls, which stand for what the rows say, and with lists and words where they are wanted."""
    given = {key: value for key, value in values.items() if value is not None}
    for key in {"text", "metrics"} & given.keys():
        given[key] = given[key] if isinstance(given[key], list) else [given[key]]
    if isinstance(given.get("labels"), list):
        given["labels"] = [word(each) for each in given["labels"]]
    files = given.get("files")
    if files is not None:
        given["files"] = dict(files) if isinstance(files, dict) else {ALL: files}
    return given


def completed(task: TaskConfig, given: Collection[str], directory: str | None) -> TaskConfig:
    """The task with its columns, labels, metrics and sizes, as its files have them.

    Args:
        given: the fields that were not left to the files.
        directory: where relative paths start that do not lead to a file from the current folder.

    Raises:
        UserError: a key is missing or names nothing, or the files are not what it says.
    """
    if not task.files:
        raise UserError(
            f"task={task.name}: no files are given; give data.files={{train: FILE, validation: FILE}}, each {KINDS}"
        )
    named = {*task.text, task.label}
    if not 1 <= len(task.text) <= 2 or len(named) <= len(task.text) or not task.label:
        raise UserError(
            f"data.text: got [{', '.join(task.text)}], and data.label={task.label or 'null'}; must be one text column "
            "or two, as in data.text=[premise,hypothesis], and another column, that of the labels"
        )
    if task.labels and (len(set(task.labels)) < max(2, len(task.labels)) or task.score_range):
        raise UserError(
            f"task.labels: got {', '.join(task.labels)}, must be two different labels or more, without task.score_range"
        )
    columns = dict(zip(("text_a", "text_b"), task.text, strict=False)) | {"label": task.label}
    task = replace(task, benchmark="own", columns=columns)
    where = sources(task, directory)
    key = repr((task, [_stamp(paths) for paths in where.values()]))
    if key not in _KNOWN:  # each run of a sweep asks again
        _KNOWN[key] = _described(task, {split: table_of(task, split, paths) for split, paths in where.items()})
    labels, sizes = _KNOWN[key]
    task = replace(task, labels=labels, sizes=sizes)
    if "metrics" not in given:
        task = replace(task, metrics=["pearson", "spearman"] if task.regression else ["accuracy", "f1_macro"])
    if "select_metric" not in given:
        task = replace(task, select_metric=task.metrics[0] if task.metrics else "")
    return task


_KNOWN: dict[str, tuple[list[str], dict[str, int]]] = {}  # description and state of the files -> labels, sizes


def _described(task: TaskConfig, tables: dict[str, Table]) -> tuple[list[str], dict[str, int]]:
    """Labels and sizes, as the rows have them; prints a line about each table."""
    for split, table in tables.items():
        table.need([*task.text, *([task.label] if split != "test" else [])])
        if not len(table.frame):
            raise UserError(
                f"{table.place}: no rows (the {split} split of task {task.name}); give a file that has some"
            )
        for name in task.text:
            if all(isinstance(each, str) and NUMBER.fullmatch(each) for each in table.frame[name]):
                raise UserError(f"{table.place}: column {name!r} holds numbers alone, no texts; correct data.text")
    if not task.labels and not task.score_range:
        task = replace(task, labels=labels_found(tables["train"], task.label))
    if broken := next((label for label in task.labels if len(label.splitlines()) != 1 or "\t" in label), None):
        raise UserError(f"task={task.name}: the label {show(broken)} has a tab or a line break; write it in one line")
    found = {split: _examples(task, split, table) for split, table in tables.items()}
    if task.labels and len(set(found["train"].labels.tolist())) < 2:
        place = tables["train"].place
        raise UserError(f"{place}: column {task.label!r} has one label in every row; a classifier needs two")
    trained = set(zip(*found["train"].texts, strict=True))
    for split, table in tables.items():
        parts = [f"task {task.name}: {split} is {table.place}", f"{len(found[split]):,} rows"]
        if table.how:
            parts.append(table.how)
        if split == "train":
            parts.append("scores" if task.regression else f"classes {', '.join(task.labels)}")
        if split == "test":
            parts.append("labelled" if _is_labelled(table, task) else "without labels")
        shared = sum(texts in trained for texts in zip(*found[split].texts, strict=True)) if split != "train" else 0
        note = f"; note: the texts of {shared:,} of them are in train too" if shared else ""
        print(", ".join(parts) + note, file=sys.stderr, flush=True)
    return task.labels, {split: len(examples) for split, examples in found.items()}


def read(task: TaskConfig, directory: str | None) -> dict[str, Examples]:
    """The examples of every split that the task has. Raises UserError."""
    return {
        split: _examples(task, split, table_of(task, split, paths)) for split, paths in sources(task, directory).items()
    }


def _examples(task: TaskConfig, split: str, table: Table) -> Examples:
    """The examples of a split; those of a test split without labels get -1 or NaN. Raises UserError for a wrong row."""
    labelled = split != "test" or _is_labelled(table, task)
    return flat(table, task, task.columns, f"{task.name}/{split}", labelled)


def _is_labelled(table: Table, task: TaskConfig) -> bool:
    """Whether any row of a test split has a label; -1 in every row is none."""
    if task.label not in table.frame.columns:
        return False
    none = {""} if task.regression or "-1" in task.labels else {"", "-1"}
    return not {each.strip() for each in words_of(table, task.label, task.labels)} <= none


# -- where the rows are ----------------------------------------------------------------------------------------


def sources(task: TaskConfig, directory: str | None) -> dict[str, list[Path]]:
    """The files or the folder of each split. Raises UserError for a split that is missing or does not exist."""
    files: Mapping[str, Any] = task.files
    if ALL in files:
        given = files[ALL]
        if len(files) > 1:
            raise UserError(
                f"data.files: names {', '.join(map(str, files))}; must be splits, or one source of them all"
            )
        folder = _paths(task, given, directory, "data.files")[0]
        if not folder.is_dir() or (folder / "state.json").is_file():
            raise UserError(
                f"data.files={given}: is one split alone; give {{train: {given}, validation: FILE}}, where a labelled "
                "test file may stand in for validation with protocol=holdout"
            )
        there = _splits_of(folder, task)
        files = {split: given for split in SPLITS if task.hub_splits.get(split, split) in there}
        if "train" not in files:
            raise _no_split(folder, "train", there)
    if not set(files) <= set(SPLITS) or "train" not in files or len(files) < 2:
        raise UserError(
            f"data.files: names {', '.join(map(str, files))}; must name train, and validation or a labelled test"
        )
    found = {split: _paths(task, files[split], directory, f"data.files.{split}") for split in SPLITS if split in files}
    taken: dict[tuple[Path, str], str] = {}
    for split, paths in found.items():
        for path in paths:
            holds_all = path.is_dir() and not (path / "state.json").is_file()
            part = task.hub_splits.get(split, split) if holds_all else ""
            if (other := taken.setdefault((path.resolve(), part), split)) != split:
                raise UserError(f"data.files: {other} and {split} are both {path}, so that they would share their rows")
    return found


def _paths(task: TaskConfig, given: Any, directory: str | None, key: str) -> list[Path]:
    """The files or the folder that are meant, shards in the order of their names."""
    listed = given if isinstance(given, list) else [given]
    if not listed or not all(isinstance(each, str) and each.strip() for each in listed):
        raise UserError(f"{key}: got {show(given)}, must be {KINDS}")
    found: list[Path] = []
    for each in listed:
        places = [base / Path(each).expanduser() for base in (Path(), Path(directory or "").expanduser())]
        matching = ([place] if place.exists() else sorted(map(Path, glob.glob(str(place)))) for place in places)
        matches = next(filter(None, matching), [])
        if not matches and len(listed) == 1 and HUB_NAME.fullmatch(each) and not Path(each).suffix:
            return [hub_folder(each, task.revision)]
        if not matches:
            tried = " and ".join(dict.fromkeys(map(str, places)))
            raise UserError(f"{key}={each}: there is no such file; looked for {tried}")
        found += matches
    if len(found) > 1 and any(path.is_dir() for path in found):
        raise UserError(f"{key}: got {show(given)}, must be one folder, or files alone")
    return found


def _splits_of(folder: Path, task: TaskConfig) -> list[str]:
    if is_saved(folder):
        return list(read_saved(folder))
    with reading(folder) as datasets:
        return list(datasets.get_dataset_split_names(str(folder), task.hub_config or None))


def _no_split(folder: Path, split: str, there: Collection[str]) -> UserError:
    example = f"'task.hub_splits={{{split}: {next(iter(there), 'SPLIT')}}}'"
    return UserError(f"{folder}: no split {split!r}, there are {', '.join(there)}; name it, as in {example}")


@functools.lru_cache
def hub_folder(name: str, revision: str) -> Path:
    """The files of a data set on the hub, from its cache or the network. Raises UserError where they cannot be had."""
    try:
        return snapshot(Repository(name, revision, "dataset", "task.revision"))
    except NotThere as error:
        raise UserError(
            f"data.files={name}: no such file or folder here, and on the hub: {error}; fill the hub's cache where "
            f"there is a network (hf download {name} --repo-type dataset)"
        ) from error


def _stamp(paths: list[Path]) -> list[Any]:
    """What changes when the files do."""
    files = [each for path in paths for each in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return [(str(each), each.stat().st_mtime_ns, each.stat().st_size) for each in files]


def table_of(task: TaskConfig, split: str, paths: list[Path]) -> Table:
    """The rows of a split. Raises UserError for files that cannot be read, or are of two kinds."""
    wanted, suffix = [*task.text, task.label], paths[0].suffix.lower()
    if paths[0].is_dir():
        return _of_folder(task, split, paths[0], wanted)
    if {path.suffix.lower() for path in paths} != {suffix} or suffix not in (".parquet", *JSON, *DELIMITED):
        raise UserError(
            f"data.files: {' and '.join(map(str, paths[:2]))}: a split is a folder, or files of one of the kinds "
            ".csv .tsv .jsonl .json .parquet"
        )
    if suffix == ".parquet":
        return of_dataset(read_parquet(paths), str(paths[0] if len(paths) == 1 else paths[0].parent), wanted)
    if suffix in JSON:
        return joined([read_jsonl(path) for path in paths])
    return joined([read_text(path, task, split) for path in paths])


def _of_folder(task: TaskConfig, split: str, folder: Path, wanted: list[str]) -> Table:
    """The rows of a split in what ``save_to_disk`` left, or in a folder of data files."""
    if is_saved(folder):
        found = read_saved(folder)
    else:
        check_shards([path for path in folder.rglob("*") if path.is_file()])
        with reading(folder) as datasets:
            found = datasets.load_dataset(str(folder), task.hub_config or None)
    if not isinstance(found, dict):
        return of_dataset(found, str(folder), wanted)
    name = task.hub_splits.get(split, split)
    if name not in found:
        raise _no_split(folder, name, found)
    return of_dataset(found[name], f"{folder} ({name})", wanted)


# -- delimited text --------------------------------------------------------------------------------------------


def read_text(path: Path, task: TaskConfig, split: str) -> Table:
    """A CSV or TSV file with a header line; ``Table.how`` says which separator and quoting were found.

    The separator is that of the ending, or another one whose header has the columns. A .csv file is quoted; in a
    .tsv file quotes are either text, as in GLUE, or quoting, as pandas writes it: see :func:`is_quoted`.

    Raises:
        UserError: quotes in a .tsv file may be either.
    """
    first = DELIMITED[path.suffix.lower()]
    needed = set(task.text if split == "test" else [*task.text, task.label])
    head = lines_of(path)[0]
    fitting = (each for each in (first, *SEPARATORS) if needed <= set(next(csv.reader([head], delimiter=each), [])))
    separator = next(fitting, first)
    if task.quoting == "auto":
        quoted = path.suffix.lower() == ".csv" or is_quoted(path, separator)
    else:
        quoted = task.quoting == "csv"
    table = read_delimited(path, separator, quoted=quoted)
    quotes = "quoted as CSV" if quoted else "quotes are text"
    return replace(table, how=f"separated by {SEPARATORS[separator]}, {quotes}")


def is_quoted(path: Path, separator: str) -> bool:
    """Whether a file without a rule of its own quotes its fields as CSV does.

    It does where all of it reads as CSV and only so, or where a quoted field holds a doubled quote, or all names of the
    header are quoted. Raises UserError where it could be both.
    """
    try:
        quoted = read_delimited(path, separator, quoted=True).frame.to_numpy().tolist()
    except UserError:
        return False
    lines = [line.split(separator) for line in lines_of(path) if line]
    if not lines:
        return False
    head, rows = lines[0], lines[1:]
    if any(len(row) != len(head) for row in rows):
        return True
    named = all(name[:1] == name[-1:] == '"' for name in head)
    unlike = [number for number, (a, b) in enumerate(zip(quoted, rows, strict=False)) if a != b]
    if not unlike:
        return named
    fields = [pair for number in unlike for pair in zip(quoted[number], rows[number], strict=True)]
    doubled = any(value != raw and '"' in value for value, raw in fields)
    if len(quoted) == len(rows) and (doubled or named):  # fewer: two rows would be read as one
        return True
    raise UserError(
        f"{path}:{unlike[0] + 2}: the quotes may be text or quoting; set data.quoting=csv or data.quoting=none"
    )
