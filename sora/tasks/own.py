"""A task of the user's own: files of any common kind, and what is not said about them found in the rows.

``data.files`` (or ``files`` of a task's YAML) names a file for each split, a glob of shards, a folder that
``save_to_disk`` left, a folder of data files, or a data set on the hub; one name alone stands for all its splits.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import glob
import re
import sys
from collections.abc import Collection
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
    ONE,
    Table,
    delimited_files,
    joined,
    of_dataset,
    read_datasets,
    read_delimited,
    read_jsonl,
    text_of,
)

SPLITS = ("train", "validation", "test")
ALL = "*"  # the key of one source that holds every split
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons"}
KINDS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
SOURCE = f"a file ({' '.join(KINDS)}), a glob of shards, a saved folder or a data set on the hub"
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
    if "files" in given and not isinstance(given["files"], dict):
        given["files"] = {ALL: given["files"]}
    return given


def completed(task: TaskConfig, given: Collection[str], directory: str | None) -> TaskConfig:
    """The task with its columns, labels, metrics and sizes, as its files have them.

    Args:
        given: the fields that were not left to the files.
        directory: where relative paths start that do not lead to a file from the current folder.

    Raises:
        UserError: a key is missing or names nothing, or the files are not what it says.
    """
    where = sources(task, directory)
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


def _stamp(paths: list[Path]) -> list[Any]:
    """What changes when the files do."""
    files = [each for path in paths for each in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return [(str(each), each.stat().st_mtime_ns, each.stat().st_size) for each in files]


def _described(task: TaskConfig, tables: dict[str, Table]) -> tuple[list[str], dict[str, int]]:
    """Labels and sizes, as the rows have them; prints a line about each table."""
    for split, table in tables.items():
        if not len(table.frame):
            raise UserError(f"{table.place}: has no rows (the {split} split of task {task.name}); give another file")
        table.need([*task.text, *([task.label] if split != "test" else [])])
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
        labelled = split != "test" or _is_labelled(table, task)
        line = f"task {task.name}: {split} is {table.place}, {len(found[split]):,} rows{table.how}"
        if split == "train":
            line += ", scores" if task.regression else f", classes {', '.join(task.labels)}"
        elif split == "test":
            line += ", labelled" if labelled else ", without labels"
        shared = sum(texts in trained for texts in zip(*found[split].texts, strict=True))
        if shared and split != "train":
            line += f"; note: the texts of {shared:,} of them are in train too"
        if labelled and len(values := set(found[split].labels.tolist())) == 1:
            if task.regression:
                score, alike = values.pop(), len({float(each) for each in words_of(table, task.label)}) == 1
                raise UserError(
                    f"{table.place}: column {task.label!r} has the score {score:g} in every row"
                    f"{'' if alike else ', as fp32 has it'}, with which nothing correlates; "
                    "correct it, or leave the column out of a test split"
                )
            line += f"; note: every row has the label {task.labels[values.pop()]}"
        print(line, file=sys.stderr, flush=True)
    return task.labels, {split: len(examples) for split, examples in found.items()}


def read(task: TaskConfig, directory: str | None) -> dict[str, Examples]:
    """The examples of every split that the task has. Raises UserError."""
    where = sources(task, directory)
    return {split: _examples(task, split, table_of(task, split, paths)) for split, paths in where.items()}


def notes(task: TaskConfig, splits: dict[str, Examples], protocol: str, limit: int | None) -> list[str]:
    """Say which classes no row is left of to train on, and where one is all that is left to select or report on.

    Raises UserError where one class or score alone is left to train on.
    """
    causes = {
        f"task.train_rows={task.train_rows}": task.train_rows,
        "protocol=holdout took some to select": protocol == "holdout",
        f"data.limit={limit} took the first": limit,
    }
    after = " and ".join(cause for cause, holds in causes.items() if holds)
    after = f" after {after}" if after else ""
    found = {name: set(splits[name].labels.tolist()) for name in ("train", "select", "report")}
    alone = {
        name: f"the score {min(values):g}" if task.regression else f"the label {task.labels[min(values)]}"
        for name, values in found.items()
        if len(values) == 1
    }
    if "train" in alone:
        raise UserError(
            f"task={task.name}: every row left to train on has {alone['train']}{after}; give more rows, or mix them"
        )
    lines = [f"every row of {name} has {what}" for name, what in alone.items()]
    if missing := [label for index, label in enumerate(task.labels) if index not in found["train"]]:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        lines.append(f"no training row has the label {' or '.join(missing[:5])}{more}{after}")
    return lines


def _examples(task: TaskConfig, split: str, table: Table) -> Examples:
    """The examples of a split; those of a test split without labels get -1 or NaN. Raises UserError for a wrong row."""
    labelled = split != "test" or _is_labelled(table, task)
    return flat(table, task, task.columns, f"{task.name}/{split}", labelled)


def _is_labelled(table: Table, task: TaskConfig) -> bool:
    """Whether any row of a test split has a label or a score; -1 in every row is none."""
    if task.label not in table.frame.columns:
        return False
    none = {""} if "-1" in task.labels else {"", "-1", "-1.0"}
    return not {each.strip() for each in words_of(table, task.label, task.labels)} <= none


# -- where the rows are ----------------------------------------------------------------------------------------


def sources(task: TaskConfig, directory: str | None) -> dict[str, list[Path]]:
    """The files or the folder of each split. Raises UserError for a split that is missing or does not exist."""
    files = dict(task.files)
    if set(files) == {ALL}:
        source = files[ALL]
        folder = _paths(task, source, directory, "data.files")[0]
        there: Collection[str] = (ONE,)
        if folder.is_dir():
            there = delimited_files(folder, task.hub_config) or read_datasets([folder], task.hub_config)
        if ONE in there or set(there) == {task.hub_splits.get("train", "train")}:
            raise UserError(
                f"data.files={source}: is one split alone; give {{train: {source}, validation: FILE}}, where a "
                "labelled test file may stand in for validation with protocol=holdout"
            )
        files = {split: source for split in SPLITS if task.hub_splits.get(split, split) in there}
        if len(files) < 2 or "train" not in files:
            raise _no_split(task, folder, "validation" if "train" in files else "train", there)
    if not {"train"} < set(files) <= set(SPLITS):
        raise UserError(
            f"data.files: names {', '.join(map(str, files)) or 'none'}; must name train, and validation or a labelled "
            f"test, as in data.files={{train: FILE, validation: FILE}}, each {SOURCE}"
        )
    found = {split: _paths(task, files[split], directory, f"data.files.{split}") for split in SPLITS if split in files}
    taken: dict[tuple[Path, str], str] = {}
    for split, paths in found.items():
        for path in paths:
            part = task.hub_splits.get(split, split) if path.is_dir() and not (path / "state.json").is_file() else ""
            if (other := taken.setdefault((path.resolve(), part), split)) != split:
                raise UserError(f"data.files: {other} and {split} are both {path}, so that they would share their rows")
    return found


def _paths(task: TaskConfig, given: Any, directory: str | None, key: str) -> list[Path]:
    """The folder that is meant, or the files, shards in the order of their names. Raises UserError."""
    if not isinstance(given, str) or not given.strip():
        raise UserError(f"{key}: got {show(given)}, must be {SOURCE}")
    places = [base / Path(given).expanduser() for base in (Path(), Path(directory or "").expanduser())]
    for place in places:
        if found := [place] if place.exists() else sorted(map(Path, glob.glob(str(place)))):
            return found
    if HUB_NAME.fullmatch(given) and not Path(given).suffix:
        return [_hub_folder(given, task.revision)]
    tried = " and ".join(dict.fromkeys(map(str, places)))
    raise UserError(f"{key}={given}: there is no such file; looked for {tried}")


@functools.lru_cache
def _hub_folder(name: str, revision: str) -> Path:
    """The files of a data set on the hub, from its cache or the network. Raises UserError where they cannot be had."""
    try:
        return snapshot(Repository(name, revision, "dataset", "task.revision"))
    except NotThere as error:
        raise UserError(
            f"data.files={name}: no such file or folder here, and on the hub: {error}; fill the hub's cache where "
            f"there is a network (hf download {name} --repo-type dataset)"
        ) from error


def _no_split(task: TaskConfig, folder: Path, split: str, there: Collection[str]) -> UserError:
    taken = [task.hub_splits.get(each, each) for each in SPLITS if each != split]
    names = task.hub_splits | {split: next((each for each in there if each not in taken), "SPLIT")}
    example = ", ".join(f"{key}: {name}" for key, name in names.items())
    return UserError(
        f"{folder}: no split {task.hub_splits.get(split, split)!r}, there are {', '.join(there)}; name it, as in "
        f"'task.hub_splits={{{example}}}'"
    )


def table_of(task: TaskConfig, split: str, paths: list[Path]) -> Table:
    """The rows of a split. Raises UserError for files that cannot be read, or are not all of one kind."""
    wanted, kind = [*task.text, task.label], paths[0].suffix.lower()
    needed = set(task.text if split == "test" else wanted)
    if len(paths) == 1 and paths[0].is_dir():
        if texts := delimited_files(paths[0], task.hub_config):
            if (name := task.hub_splits.get(split, split)) not in texts:
                raise _no_split(task, paths[0], split, texts)
            return joined([read_text(path, task.quoting, needed) for path in texts[name]])
        found = read_datasets(paths, task.hub_config)
        name = ONE if ONE in found else task.hub_splits.get(split, split)
        if name not in found:
            raise _no_split(task, paths[0], split, found)
        return of_dataset(found[name], paths, wanted, name)
    if {path.suffix.lower() for path in paths} != {kind} or kind not in KINDS:
        raise UserError(
            f"data.files: {' and '.join(map(str, paths[:2]))}: a split is a folder, or files of one of the kinds "
            f"{' '.join(KINDS)}"
        )
    if kind == ".parquet":
        return of_dataset(read_datasets(paths)[ONE], paths, wanted)
    if kind in (".jsonl", ".json"):
        return joined([read_jsonl(path) for path in paths])
    return joined([read_text(path, task.quoting, needed) for path in paths])


# -- delimited text --------------------------------------------------------------------------------------------


def read_text(path: Path, quoting: str, needed: set[str]) -> Table:
    """A CSV or TSV file with a header line; ``Table.how`` says which separator and quoting were found.

    The separator is that of the ending, or another one whose header has the ``needed`` columns. A .csv file is quoted;
    in a .tsv file quotes are either text, as in GLUE, or quoting, as pandas writes it: see :func:`_is_quoted`.
    """
    usual = "," if path.suffix.lower() == ".csv" else "\t"
    head = text_of(path).partition("\n")[0]
    fitting = (each for each in (usual, *SEPARATORS) if needed <= set(next(csv.reader([head], delimiter=each), [])))
    separator = next(fitting, usual)
    quoted = quoting == "csv" if quoting != "auto" else usual == "," or _is_quoted(path, separator, needed)
    found = read_delimited(path, separator, quoted=quoted)
    return replace(
        found, how=f", separated by {SEPARATORS[separator]}, {'quoted as CSV' if quoted else 'quotes are text'}"
    )


def _is_quoted(path: Path, separator: str, needed: set[str]) -> bool:
    """Whether a .tsv file quotes its fields as CSV does.

    It does where only so all of it reads and has its columns, or where a quoted field holds a doubled quote. Raises
    UserError where it could be both.
    """
    readings = {}
    for quoted in (False, True):
        with contextlib.suppress(UserError):
            table = read_delimited(path, separator, quoted=quoted)
            if needed <= set(table.frame.columns):
                readings[quoted] = table
    if len(readings) < 2:
        return True in readings
    as_text, as_csv = (readings[quoted].frame.to_numpy().tolist() for quoted in (False, True))
    unlike = [number for number, (a, b) in enumerate(zip(as_text, as_csv, strict=False)) if a != b]
    if not unlike:
        return False
    fields = [pair for number in unlike for pair in zip(as_text[number], as_csv[number], strict=True)]
    if len(as_text) == len(as_csv) and any(raw != value and '"' in value for raw, value in fields):
        return True
    where = readings[False].places[unlike[0]]
    raise UserError(f"{where}: the quotes may be text or quoting; set data.quoting=csv or data.quoting=none")
