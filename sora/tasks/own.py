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
from collections.abc import Collection
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from sora.backbones.hub import NotThere, Repository, snapshot
from sora.config import TaskConfig
from sora.errors import UserError
from sora.tasks.examples import Examples
from sora.tasks.formats import flat
from sora.tasks.labels import are_missing, labels_found, word
from sora.tasks.tables import (
    Table,
    check_shards,
    joined,
    lines_of,
    of_dataset,
    read_delimited,
    read_jsonl,
    read_parquet,
    read_saved,
    reading,
    show,
)

SPLITS = ("train", "validation", "test")
ALL = "*"  # the key of one source that holds every split
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons"}
DELIMITED = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
JSON = (".jsonl", ".ndjson", ".json")
REPAIR = "correct that row, or the columns and labels that were given"
COLUMNS = "correct data.text and data.label, which are names of the first line or of the data set"
KINDS = "a file (.csv .tsv .jsonl .json .parquet), a glob, a saved folder or a data set on the hub"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_own(values: Any) -> bool:
    """Whether the ``task`` group of a configuration is a task of the user's own."""
    return isinstance(values, dict) and values.get("files", {}) != {} and values.get("reader", "own") == "own"


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """The group without nulls, which stand for what the rows say, and with lists and words where they are wanted."""
    given = {key: value for key, value in values.items() if value is not None}
    if "text" in given and not isinstance(given["text"], list):
        given["text"] = [given["text"]]
    if isinstance(given.get("labels"), list):
        given["labels"] = [word(each) for each in given["labels"]]
    if isinstance(given.get("metrics"), str):
        given["metrics"] = [given["metrics"]]
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
    if not 1 <= len(task.text) <= 2:
        count = "not given" if not task.text else f"got {len(task.text)} columns"
        raise UserError(f"data.text: {count}, must be the text column, or two: data.text=[premise,hypothesis]")
    if len(set(task.text)) < len(task.text) or task.label in task.text:
        raise UserError(f"data.text: {', '.join(task.text)} and data.label={task.label} must be different columns")
    if not task.label:
        raise UserError("data.label: not given, must be the column of the labels")
    if task.quoting not in ("auto", "csv", "none"):
        raise UserError(f"data.quoting: got {show(task.quoting)}, must be one of auto, csv, none")
    if task.labels and (len(set(task.labels)) < max(2, len(task.labels))):
        raise UserError(f"task.labels: got {', '.join(task.labels)}, must be two different labels or more")
    if task.labels and task.score_range:
        raise UserError("task.score_range: is of scores, and task.labels are of classes; leave one out")
    task = replace(task, benchmark="own", columns=dict(zip(("text_a", "text_b"), task.text, strict=False)))
    task = replace(task, columns=task.columns | {"label": task.label})
    where = sources(task, directory)
    key = repr((task, [source.stamp() for source in where.values()]))
    if key not in _KNOWN:  # each run of a sweep asks again
        _KNOWN[key] = _described(task, {split: source.table() for split, source in where.items()})
    task = replace(task, labels=_KNOWN[key][0], sizes=_KNOWN[key][1])
    if "metrics" not in given:
        task = replace(task, metrics=["pearson", "spearman"] if task.regression else ["accuracy", "f1_macro"])
    if "select_metric" not in given:
        task = replace(task, select_metric=task.metrics[0] if task.metrics else "")
    return task


_KNOWN: dict[str, tuple[list[str], dict[str, int]]] = {}  # description and state of the files -> labels, sizes


def _described(task: TaskConfig, tables: dict[str, Table]) -> tuple[list[str], dict[str, int]]:
    """Labels and sizes, as the rows have them; each table is told in a line."""
    for split, table in tables.items():
        table.need([*task.text, *([task.label] if split != "test" else [])], COLUMNS)
        if not len(table.frame):
            raise UserError(
                f"{table.place}: no rows (the {split} split of task {task.name}); give a file that has some"
            )
        for name in task.text:
            _check_texts(table, name)
        if split != "test" and (missing := are_missing(table, task.label)).any():
            reason = f"no label in column {task.label!r} (the {split} split)"
            raise table.refuse(int(missing.argmax()), reason, REPAIR)
    train = tables["train"]
    if not task.labels and not task.score_range:
        task = replace(task, labels=labels_found(train, task.label))
    elif task.labels and len(set(train.frame[task.label].map(word))) < 2:
        raise UserError(f"{train.place}: column {task.label!r} has one label in every row; a classifier needs two")
    if broken := next((label for label in task.labels if len(label.splitlines()) != 1 or "\t" in label), None):
        raise UserError(f"task={task.name}: the label {show(broken)} has a tab or a line break; write it in one line")
    found = examples_of(task, tables)
    trained = set(zip(*found["train"].texts, strict=True))
    for split, table in tables.items():
        told = f"task {task.name}: {split} is {table.place}, {len(found[split]):,} rows{_told(table, split, task)}"
        shared = sum(texts in trained for texts in zip(*found[split].texts, strict=True)) if split != "train" else 0
        leak = f"; note: the texts of {shared:,} of them are in train too" if shared else ""
        print(f"{told}{leak}", file=sys.stderr, flush=True)
    return task.labels, {split: len(examples) for split, examples in found.items()}


def read(task: TaskConfig, directory: str | None) -> dict[str, Examples]:
    """The examples of every split that the task has. Raises UserError."""
    return examples_of(task, {split: source.table() for split, source in sources(task, directory).items()})


def examples_of(task: TaskConfig, tables: dict[str, Table]) -> dict[str, Examples]:
    """The examples of each split; a test split without labels gets -1 or NaN. Raises UserError for a wrong row."""
    found = {}
    for split, table in tables.items():
        labelled = split != "test" or is_labelled(table, task)
        found[split] = flat(table, task, task.columns, f"{task.name}/{split}", labelled, REPAIR)
    return found


def is_labelled(table: Table, task: TaskConfig) -> bool:
    """Whether a test split has labels; -1 in every row is none. Raises UserError where only some rows have one."""
    name = task.label
    if name not in table.frame.columns:
        return False
    missing = are_missing(table, name)
    if not task.regression and "-1" not in task.labels:
        missing |= np.array([word(value) == "-1" for value in table.frame[name].tolist()], dtype=bool)
    if missing.any() and not missing.all():
        raise table.refuse(int(missing.argmax()), f"no label in column {name!r}, which other rows have", REPAIR)
    return not missing.any()


def _told(table: Table, split: str, task: TaskConfig) -> str:
    """How a table was read and what its labels are, as the end of a sentence."""
    labels = "scores" if task.regression else f"classes {', '.join(task.labels)}"
    parts = [table.how, labels if split == "train" else ""]
    if split == "test":
        parts.append("labelled" if is_labelled(table, task) else "without labels")
    return "".join(f", {part}" for part in parts if part)


def _check_texts(table: Table, name: str) -> None:
    """Refuse a column of nothing but numbers as text: it is most likely the wrong one."""
    values = table.frame[name].tolist()
    if all(re.fullmatch(r"[+-]?\d+([.,]\d+)?", value) if isinstance(value, str) else False for value in values):
        raise UserError(f"{table.place}: column {name!r} holds numbers alone, no texts; correct data.text")


# -- where the rows are ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where one split lies: files of one kind, a saved folder, a folder of data files, or a data set on the hub."""

    task: TaskConfig
    split: str
    given: str  # as the user wrote it
    paths: tuple[Path, ...]

    def stamp(self) -> list[Any]:
        """What changes when the files do."""
        files = [each for path in self.paths for each in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        return [(str(each), each.stat().st_mtime_ns, each.stat().st_size) for each in files]

    def table(self) -> Table:
        """Its rows. Raises UserError."""
        first = self.paths[0]
        if first.is_dir():
            return self._of_folder(first)
        suffix = first.suffix.lower()
        if other := next((path for path in self.paths if path.suffix.lower() != suffix), None):
            raise UserError(f"data.files: {first} and {other} are of two kinds; shards of one split are of one")
        wanted = [*self.task.text, self.task.label]
        if suffix == ".parquet":
            check_shards(self.paths)
            return of_dataset(read_parquet(self.paths), self.given, wanted)
        if suffix in JSON:
            return joined([read_jsonl(path, repair=REPAIR) for path in self.paths])
        if suffix in DELIMITED:
            return joined([read_text(path, self.task, self.split) for path in self.paths])
        raise UserError(
            f"{first}: a file of that ending is not read; it must be one of .csv .tsv .jsonl .json .parquet"
        )

    def _of_folder(self, folder: Path) -> Table:
        wanted, name = [*self.task.text, self.task.label], self.task.hub_splits.get(self.split, self.split)
        if is_saved(folder):
            found = read_saved(folder)
        else:
            check_shards([path for path in folder.rglob("*") if path.is_file()])
            with reading(self.given) as datasets:
                found = datasets.load_dataset(str(folder), self.task.hub_config or None)
        if isinstance(found, dict):
            if name not in found:
                raise UserError(
                    f"{self.given}: no split {name!r}, there are {', '.join(map(str, found))}; name it, as in "
                    f"'task.hub_splits={{{self.split}: {next(iter(found), 'SPLIT')}}}'"
                )
            return of_dataset(found[name], f"{self.given} ({name})", wanted)
        return of_dataset(found, self.given, wanted)


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` left this folder."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def sources(task: TaskConfig, directory: str | None) -> dict[str, Source]:
    """Where each split lies. Raises UserError for a split that is missing, or one that does not exist."""
    files = dict(task.files)
    if ALL in files:
        given = files[ALL]
        if len(files) > 1 or not isinstance(given, str):
            raise UserError(f"data.files: got {show(files)}, must be {{train: FILE, validation: FILE, test: FILE}}")
        folder = _paths(task, given, directory, ALL)[0]
        if not folder.is_dir() or (folder / "state.json").is_file():
            raise UserError(
                f"data.files={given}: is one split alone; give {{train: {given}, validation: FILE}}, where a labelled "
                "test file may stand in for validation with protocol=holdout"
            )
        there = _splits_of(folder, task, given)
        files = {split: given for split in SPLITS if task.hub_splits.get(split, split) in there}
        if "train" not in files:
            raise UserError(
                f"{given}: no split 'train', there are {', '.join(there)}; name them, as in "
                f"'task.hub_splits={{train: {there[0] if there else 'SPLIT'}}}'"
            )
    for split in files:
        if split not in SPLITS:
            near = ["validation"] if split in ("dev", "val") else get_close_matches(str(split), SPLITS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"data.files.{split}: no such split, must be one of {', '.join(SPLITS)}{hint}")
    if "train" not in files or len(files) < 2:
        missing = "train" if "train" not in files else "validation (or a labelled test)"
        raise UserError(f"data.files: has no {missing}, must name the files to train on and to select with")
    found = {
        split: Source(task, split, _spelled(files[split]), tuple(_paths(task, files[split], directory, split)))
        for split in SPLITS
        if split in files
    }
    seen: dict[tuple[Path, str], str] = {}
    for split, source in found.items():
        for path in source.paths:
            holds_all = path.is_dir() and not (path / "state.json").is_file()
            same = seen.setdefault((path.resolve(), task.hub_splits.get(split, split) if holds_all else ""), split)
            if same != split:
                raise UserError(f"data.files: {same} and {split} are both {path}, so that they would share their rows")
    return found


def _spelled(given: Any) -> str:
    return str(given) if not isinstance(given, list) else f"{given[0]} and {len(given) - 1} more"


def _paths(task: TaskConfig, given: Any, directory: str | None, split: str) -> list[Path]:
    """The files or the folder that are meant, shards in the order of their names."""
    key = "data.files" if split == ALL else f"data.files.{split}"
    listed = given if isinstance(given, list) else [given]
    if not listed or not all(isinstance(each, str) and each.strip() for each in listed):
        raise UserError(f"{key}: got {show(given)}, must be {KINDS}")
    found: list[Path] = []
    for each in listed:
        places = [Path(each).expanduser()]
        if directory and not places[0].is_absolute():
            places.append(Path(directory).expanduser() / each)
        matches = next(filter(None, (sorted(glob.glob(str(place))) for place in places if not place.exists())), [])
        here = next((place for place in places if place.exists()), None)
        if here is None and not matches:
            if HUB_NAME.fullmatch(each) and len(listed) == 1 and not Path(each).suffix:
                return [hub_folder(each, task.revision)]
            tried = " and ".join(str(place) for place in places)
            what = "no file matches" if glob.has_magic(each) else "there is no such file"
            raise UserError(f"{key}={each}: {what}; looked for {tried}")
        found += [here] if here is not None else map(Path, matches)
    return found


def _splits_of(folder: Path, task: TaskConfig, given: str) -> list[str]:
    with reading(given) as datasets:
        if is_saved(folder):
            return list(read_saved(folder))
        return list(datasets.get_dataset_split_names(str(folder), task.hub_config or None))


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


# -- delimited text --------------------------------------------------------------------------------------------


def read_text(path: Path, task: TaskConfig, split: str) -> Table:
    """A CSV or TSV file with a header line; separator and quoting are found, and told in ``Table.how``.

    The separator is that of the ending, or another one whose header has the columns. A .csv file is quoted; in a
    .tsv file quotes are either text, as in GLUE, or quoting, as pandas writes it: see :func:`is_quoted`.

    Raises:
        UserError: no separator gives the columns, or quotes in a .tsv file may be either.
    """
    first = DELIMITED[path.suffix.lower()]
    needed = task.text if split == "test" else [*task.text, task.label]
    head, separator = lines_of(path)[0], first
    for each in (first, *(each for each in SEPARATORS if each != first)):
        if set(needed) <= set(next(csv.reader([head], delimiter=each), [])):
            separator = each
            break
    quoted = task.quoting == "csv" or (
        task.quoting == "auto" and (path.suffix.lower() == ".csv" or is_quoted(path, separator))
    )
    table = read_delimited(path, separator, quoted=quoted)
    quotes = "quoted as CSV" if quoted else "quotes are text"
    return replace(table, how=f"separated by {SEPARATORS[separator]}, {quotes}")


def is_quoted(path: Path, separator: str) -> bool:
    """Whether a file without a rule of its own quotes its fields as CSV does.

    It does where all of it reads as CSV and a field needs its quotes (it holds a separator or a doubled quote, or a
    line break that would otherwise be a broken row), or where the header is quoted too. Raises UserError where it
    could be both.
    """
    lines = lines_of(path)
    text = "\n".join(lines)
    fields = re.findall(rf'(?:^|{separator})"((?:[^"]|"")*)"(?={separator}|$)', text, re.MULTILINE)
    try:
        read_delimited(path, separator, quoted=True)
    except UserError:
        return False
    head = lines[0].split(separator)
    whole = all(len(line.split(separator)) == len(head) for line in lines if line)  # of rows, with quotes as text
    broken = [each for each in fields if "\n" in each]
    needed = [each for each in fields if '""' in each or separator in each]
    if not fields or (needed and not (broken and whole)):
        return bool(fields)
    if (broken and not whole) or all(each[:1] == each[-1:] == '"' for each in head):
        return True
    shown = (broken or fields)[0]
    line = 1 + text[: text.index(f'"{shown}"')].count("\n")
    raise UserError(
        f"{path}:{line}: the quotes around {show(shown)} may be text or quoting; set data.quoting=csv or "
        "data.quoting=none"
    )
