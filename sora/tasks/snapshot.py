"""Tasks from a parquet snapshot of their hub repository, from a folder of save_to_disk, or from the hub itself.

All three are Arrow tables with the hub's columns, which ``task.hub_columns`` names. What comes out are the examples of
the official files, ``ids`` and ``source`` included: equal content gives an equal hash, and so the same run id, wherever
it was read. ``ids`` are therefore the rows of the official file: the column that ``hub_columns.id`` names where the
hub kept them, else the position in the split.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sora.errors import UserError
from sora.hub import NotThere, Repository, fetch
from sora.tasks.examples import Examples
from sora.tasks.hub_rows import COLUMNS, official_rows
from sora.tasks.jsonl import examples_of
from sora.tasks.spec import TaskConfig

SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")
AGAIN = "download or save it again"


def open_snapshot(task: TaskConfig, given: str | None) -> Callable[[str], list[Path]] | None:
    """From a split to its files, where ``given`` (data.dir) is no folder of official files; None where it is.

    Nothing given means the hub.
    """
    if not task.hub:
        return None
    if not given:
        return partial(hub_files, task)
    root = Path(given).expanduser()
    folder = snapshot_folder(task, root)
    places = [base / task.folder / name for base in (root, root / task.benchmark) for name in task.files.values()]
    if folder is None or any(path.is_file() for path in places):
        return None
    return lambda split: snapshot_files(task, split, folder)


def snapshot_folder(task: TaskConfig, root: Path) -> Path | None:
    """The folder of the task in a snapshot or a saved data set: <root>/<hub_config>, or one level deeper."""
    for folder in (root / task.hub_config, root / task.benchmark / task.hub_config):
        names = [task.hub_splits.get(split, split) for split in task.sizes]
        if any(any(folder.glob(f"{name}-*.parquet")) or (folder / name / "state.json").is_file() for name in names):
            return folder
    return None


def snapshot_files(task: TaskConfig, split: str, folder: Path) -> list[Path]:
    """The files of a split in ``folder``, all of them. Raises UserError when one is missing."""
    name = task.hub_splits.get(split, split)
    state = folder / name / "state.json"
    if state.is_file():
        try:
            content = json.loads(state.read_text(encoding="utf-8"))
            files = [state.parent / each["filename"] for each in content["_data_files"]]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{state}: not what save_to_disk writes ({error!r}); {AGAIN}") from error
        missing = [path for path in files if not path.is_file()]
    else:
        files = sorted(folder.glob(f"{name}-*.parquet"))
        counts = {match[2] for match in (SHARD.search(path.name) for path in files) if match}
        wanted = [f"{name}-{i:05d}-of-{count}.parquet" for count in counts for i in range(int(count))]
        missing = [folder / each for each in wanted or [f"{name}-00000-of-00001.parquet"] if each not in _names(files)]
    if missing:
        raise UserError(f"{missing[0]} is missing (the {split} split of task {task.name} is not whole); {AGAIN}")
    return files


def hub_files(task: TaskConfig, split: str) -> list[Path]:
    """The files of a split in the hub's cache, downloaded if need be. Raises UserError where they cannot be had."""
    name = f"{task.hub_config}/{task.hub_splits.get(split, split)}-00000-of-00001.parquet"
    try:
        return [fetch(Repository(task.hub, task.revision, "dataset", "task.revision"), name)]
    except NotThere as error:
        raise UserError(
            f"task {task.name}: no {name} of {task.hub}: {error}; fill the hub's cache where there is a network, "
            "or give a folder with the files (data.dir=FOLDER, or the variable SORA_DATA)"
        ) from error


def read_snapshot(files: Sequence[Path], task: TaskConfig, split: str, source: str) -> Examples:
    """The examples of a split, in the order of the files.

    ``source`` is the official file that they stand for. Raises UserError with file and row for whatever the reader of
    the official file refuses too, and for tables without the columns that ``task.hub_columns`` names.
    """
    table = read_table(files)
    place = str(files[0].parent if len(files) > 1 else files[0])
    labelled = not split.startswith("test")
    if task.reader == "jsonl":
        _need_columns(table, COLUMNS.get(task.layout, ()), task, place)
        found = official_rows(task, table.to_pylist(), _class_names(table, "label"), labelled)
        rows = ((f"{place}: row {number} (from 0)", row) for number, row in enumerate(found))
        return examples_of(rows, task, split, source)
    names = task.hub_columns
    _need_columns(table, [name for key, name in names.items() if labelled or key != "label"], task, place)
    texts = tuple(_texts(table[names[key]].to_pylist(), names[key], task, place) for key in task.text_columns)
    ids = table[names["id"]].to_numpy() if "id" in names else np.arange(table.num_rows)
    if labelled:
        labels = _labels(table, names["label"], task, place)
    else:
        labels = np.full(table.num_rows, math.nan if task.regression else -1)
    dtype = np.float32 if task.regression else np.int64
    return Examples(source, np.asarray(ids, dtype=np.int64), texts, labels.astype(dtype))


def read_table(files: Sequence[Path]) -> Any:
    """The Arrow table in some parquet files, or in some of save_to_disk's. Raises UserError for a damaged file."""
    import pyarrow
    from pyarrow import ipc, parquet

    tables = []
    for path in files:
        try:
            if path.suffix == ".parquet":
                tables.append(parquet.ParquetFile(path).read())
            else:
                with pyarrow.OSFile(str(path)) as file:
                    tables.append(ipc.open_stream(file).read_all())
        except (OSError, pyarrow.ArrowInvalid) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{path}: cannot be read ({reason}); {AGAIN}") from error
    return pyarrow.concat_tables(tables)


def _need_columns(table: Any, names: Iterable[str], task: TaskConfig, place: str) -> None:
    lacking = [name for name in names if name not in table.column_names]
    if lacking:
        raise UserError(
            f"{place}: no column {', '.join(map(repr, lacking))}, there are {', '.join(table.column_names)}; "
            f"take {task.hub} at revision {task.revision[:12]}, or set task.hub_columns"
        )


def _names(files: Sequence[Path]) -> set[str]:
    return {path.name for path in files}


def _texts(values: list[Any], name: str, task: TaskConfig, place: str) -> list[str]:
    for row, text in enumerate(values):
        if not isinstance(text, str) or (not text.strip() and task.empty_text == "refuse"):
            what = "empty text" if isinstance(text, str) else f"{text!r}, a text expected"
            raise UserError(f"{place}: row {row} (from 0): {what} in column {name}; {AGAIN}")
    return values


def _labels(table: Any, name: str, task: TaskConfig, place: str) -> np.ndarray:
    values = table[name].to_pylist()
    if task.regression:
        low, high = task.score_range or (-math.inf, math.inf)
        wrong = [row for row, each in enumerate(values) if not isinstance(each, float) or not low <= each <= high]
        if wrong:
            raise UserError(
                f"{place}: row {wrong[0]} (from 0): score {values[wrong[0]]!r} is not a number from {low:g} to "
                f"{high:g}; {AGAIN}"
            )
        return np.array(values)
    words = _class_names(table, name)
    if words is not None and set(words) != set(task.labels):
        if not all(label.isdecimal() for label in task.labels):
            raise UserError(
                f"{place}: its classes are {', '.join(words)}, those of task {task.name} {', '.join(task.labels)}; "
                f"take {task.hub} at revision {task.revision[:12]}"
            )
        words = None  # the official file numbers the classes: the hub's number is the label
    class_of: dict[Any, int] = {label: index for index, label in enumerate(task.labels)}
    numbers = words if words is not None else task.labels
    class_of |= {number: class_of[label] for number, label in enumerate(numbers)}
    for row, each in enumerate(values):
        if each not in class_of or isinstance(each, bool):
            raise UserError(
                f"{place}: row {row} (from 0): label {each!r} is not one of {', '.join(task.labels)}; {AGAIN}"
            )
    return np.array([class_of[each] for each in values], dtype=np.int64)


def _class_names(table: Any, name: str) -> list[str] | None:
    """What the numbers of a class column stand for, where the table says so."""
    described = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    column = described.get("info", {}).get("features", {}).get(name, {})
    return column.get("names") if isinstance(column, dict) else None
