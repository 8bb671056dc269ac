"""Reads files into tables: delimited text, JSON lines, and what the `datasets` library reads.

A table keeps every value as it was written; sora/tasks/formats.py and sora/tasks/labels.py decide what it means.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sora.coercion import show
from sora.errors import UserError
from sora.files import parse_json

if TYPE_CHECKING:
    import pandas as pd

REPAIR = "correct that row, give other columns or labels, or get the file again"
AGAIN = "download or save it again"
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\..*)")
Unfold = Callable[[dict[str, Any]], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class Table:
    """The rows of one split."""

    frame: pd.DataFrame  # values as they were read; its index counts the rows of the file from 0
    where: Callable[[int], str]  # position in the frame -> file:line, or file and row
    place: str  # file or folder, for messages about the whole
    classes: dict[str, list[str]] = field(default_factory=dict)  # column -> what its class numbers stand for
    others: tuple[str, ...] = ()  # columns that were not read
    how: str = ""  # what was found out about the file, for people

    def need(self, names: Sequence[str]) -> None:
        """Raise UserError unless each column is there once."""
        there = [*map(str, self.frame.columns), *self.others]
        if wrong := [name for name in names if there.count(name) != 1]:
            found = f"occurs {there.count(wrong[0])} times" if wrong[0] in there else "is missing"
            raise UserError(
                f"{self.place}: column {', '.join(map(repr, wrong))} {found}, there are "
                f"{', '.join(map(repr, there)) or 'none'}; name columns that are there, or take another file"
            )

    def refuse(self, position: int, reason: str) -> UserError:
        """The error of one row, to be raised."""
        return UserError(f"{self.where(position)}: {reason}; {REPAIR}")


def read_delimited(
    path: Path, separator: str = "\t", *, quoted: bool = False, header: bool = True, skip_short: bool = False
) -> Table:
    """Rows of fields, with the column names of the header line, or column numbers where there is none.

    Args:
        quoted: fields in double quotes, as CSV has them; otherwise a quote is text.
        skip_short: leave out rows with too few fields (QQP's, broken by a line break); their numbers stay taken.

    Raises UserError with ``file:line`` for a row with another number of fields, and for broken quoting.
    """
    import pandas as pd

    numbered = list(_fields(path, separator, quoted))
    while numbered and not numbered[-1][1]:  # blank lines at the end
        numbered.pop()
    head = numbered[0][1] if numbered else []
    rows, kept, places = [], [], []
    for count, (line, row) in enumerate(numbered[int(header) :]):
        if len(row) < len(head) and skip_short:
            continue
        if len(row) != len(head):
            raise UserError(f"{path}:{line}: {len(row)} columns where {len(head)} are expected; {REPAIR}")
        rows.append(row)
        kept.append(count)
        places.append(line)
    columns = head if header else [str(number) for number in range(len(head))]
    frame = pd.DataFrame(rows, index=kept, columns=columns, dtype=object)
    return Table(frame, lambda position: f"{path}:{places[position]}", str(path))


def _fields(path: Path, separator: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """(1-based line, fields) of each row. The csv module refuses what pandas mends in silence: `"a" b`, short rows."""
    csv.field_size_limit(2**31 - 1)
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    lines = (line + "\n" for line in lines_of(path))
    reader = csv.reader(lines, delimiter=separator, quoting=quoting, strict=True)
    line = 1
    try:
        for row in reader:
            yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}:{line}: not quoted as CSV is ({error}); correct that row, or set data.quoting=none "
            "where quotes are text"
        ) from error


def read_jsonl(path: Path, unfold: Unfold | None = None) -> Table:
    """One JSON object a line (a ``.json`` file may be one list of them); ``unfold`` makes flat rows of a nested one.

    Raises UserError with ``file:line`` for what is not JSON, not an object, or does not unfold.
    """
    import pandas as pd

    lines = lines_of(path)
    listed = path.suffix == ".json" and lines[0].lstrip().startswith("[")
    if listed:
        values = _parsed("\n".join(lines), str(path))
    else:
        while lines and not lines[-1].strip():
            lines.pop()
        values = [_parsed(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]

    def where(count: int) -> str:
        return f"{path}: element {count} (from 0)" if listed else f"{path}:{count + 1}"

    rows: list[dict[str, Any]] = []
    index: list[int] = []
    for count, value in enumerate(values):
        if not isinstance(value, dict):
            raise UserError(f"{where(count)}: {show(value)}, an object expected; {REPAIR}")
        try:
            found = list(unfold(value)) if unfold else [value]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where(count)}: {unlike(error)}; {REPAIR}") from error
        rows += found
        index += [count] * len(found)
    # One object a column: pandas would make numbers of words, and floats of integers beside a missing value.
    names = dict.fromkeys(name for row in rows for name in row)
    frame = pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in names})
    frame.index = pd.Index(index, dtype="int64")
    return Table(frame, lambda position: where(index[position]), str(path))


def unlike(error: Exception) -> str:
    """What a format raised about a row, as a reason."""
    return str(error) if isinstance(error, ValueError) else f"not as its task describes a row ({error!r})"


def _parsed(text: str, place: str) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON ({error.msg}, column {error.colno}); {REPAIR}") from error
    except ValueError as error:
        raise UserError(f"{place}: not JSON ({error}); {REPAIR}") from error


def lines_of(path: Path) -> list[str]:
    """The lines of a UTF-8 file, its byte-order mark dropped. Raises UserError, with the line where it is not UTF-8."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not valid UTF-8; save the file as UTF-8, or get it again") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); check data.dir and the file's permissions"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


# -- what `datasets` reads -------------------------------------------------------------------------------------


def check_shards(files: Sequence[Path]) -> None:
    """Raise UserError where files are numbered as shards and one of them is missing."""
    names = {path.name for path in files}
    for path in files:
        if match := SHARD.fullmatch(path.name):
            wanted = (f"{match[1]}-{number:05d}-of-{match[3]}{match[4]}" for number in range(int(match[3])))
            if missing := next((name for name in wanted if name not in names), None):
                raise UserError(f"{path.with_name(missing)} is missing, a shard of {match[1]}; {AGAIN}")


def read_parquet(files: Sequence[Path]) -> Any:
    """The `datasets.Dataset` in some parquet files. Raises UserError for a damaged one, or a missing shard."""
    check_shards(files)
    with reading(files[0] if len(files) == 1 else files[0].parent) as datasets:
        return datasets.load_dataset("parquet", data_files=[str(path) for path in files], split="train")


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` left this folder."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


def read_saved(folder: Path) -> Any:
    """What ``save_to_disk`` left in a folder: a Dataset or a DatasetDict. Raises UserError for a damaged one."""
    with reading(folder) as datasets:
        saved = datasets.load_from_disk(str(folder))
        for each in saved.values() if isinstance(saved, dict) else [saved]:
            each.data.validate(full=True)  # a file that was cut is mapped into memory without a word
        return saved


@contextlib.contextmanager
def reading(place: Path) -> Iterator[Any]:
    """The `datasets` library, silent; what it raises becomes a UserError."""
    import datasets

    silent = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield datasets
    except Exception as error:  # its builders raise many types, and wrap those of pyarrow
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise UserError(f"{place}: cannot be read ({reason}); {AGAIN}") from error
    finally:
        if not silent:
            datasets.enable_progress_bars()


def of_dataset(dataset: Any, place: str, wanted: Sequence[str]) -> Table:
    """A table of the ``wanted`` columns of a `datasets.Dataset`; the others are not even decoded."""
    import pandas as pd

    names = [name for name in dict.fromkeys(wanted) if name in dataset.column_names]
    columns = dataset.select_columns(names).with_format(None).to_dict() if names else {}
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    classes = {name: list(f.names) for name, f in dataset.features.items() if hasattr(f, "names")}
    others = tuple(name for name in dataset.column_names if name not in names)
    return Table(frame, lambda position: f"{place}: row {position} (from 0)", place, classes, others)


def joined(tables: Sequence[Table]) -> Table:
    """The rows of several tables one after the other. Raises UserError where their columns differ."""
    import pandas as pd

    first = tables[0]
    if len(tables) == 1:
        return first
    for other in tables[1:]:
        other.need(list(first.frame.columns))
    rows = [(table, position) for table in tables for position in range(len(table.frame))]

    def where(position: int) -> str:
        table, inside = rows[position]
        return table.where(inside)

    frame = pd.concat([table.frame for table in tables], ignore_index=True)
    return Table(frame, where, f"{first.place} and {len(tables) - 1} more", how=first.how)
