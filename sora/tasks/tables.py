"""Reads files into tables: delimited text, JSON lines, and what the `datasets` library reads.

A table keeps every value as it was written; sora/tasks/formats.py and sora/tasks/labels.py decide what it means.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sora.coercion import show
from sora.errors import UserError
from sora.files import as_user_error, parse_json

if TYPE_CHECKING:
    import pandas as pd

REPAIR = "correct that row, give other columns or labels, or get the file again"
AGAIN = "download or save it again"
ONE = ""  # the name of a split that has none
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\..*)")
Unfold = Callable[[dict[str, Any]], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class Table:
    """The rows of one split."""

    frame: pd.DataFrame  # values as they were read; its index counts the rows of the file from 0
    places: Sequence[str]  # of each row: file:line, or file and row
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
        return UserError(f"{self.places[position]}: {reason}; {REPAIR}")


def text_of(path: Path) -> str:
    """A UTF-8 file without its byte-order mark, every line ended by a line feed. Raises UserError."""
    try:
        with as_user_error(path, "cannot be read", "check its permissions, or get it again"):
            return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8 ({error}); save it as UTF-8, or get it again") from error


def read_delimited(
    path: Path, separator: str = "\t", *, quoted: bool = False, header: bool = True, skip_short: bool = False
) -> Table:
    """Rows of fields, with the column names of the header line, or column numbers where there is none.

    The csv module refuses what pandas mends in silence: ``"a" b``, short rows.

    Args:
        quoted: fields in double quotes, as CSV has them; otherwise a quote is text.
        skip_short: leave out rows with too few fields (QQP's, broken by a line break); their numbers stay taken.

    Raises UserError with ``file:line`` for a row with another number of fields, and for broken quoting.
    """
    import pandas as pd

    csv.field_size_limit(2**31 - 1)
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text_of(path)), delimiter=separator, quoting=quoting, strict=True)
    found: list[tuple[int, list[str]]] = []  # the line on which a row begins, its fields
    line = 1
    try:
        for row in reader:
            found.append((line, row))
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}:{line}: not quoted as CSV is ({error}); correct that row, or set data.quoting=none "
            "where quotes are text"
        ) from error
    while found and not found[-1][1]:  # blank lines at the end
        found.pop()
    head = found[0][1] if found else []
    if found and not head:
        raise UserError(f"{path}:1: a blank line before the rows; remove it")
    rows, kept, places = [], [], []
    for count, (line, row) in enumerate(found[int(header) :]):
        if len(row) < len(head) and skip_short:
            continue
        if len(row) != len(head):
            raise UserError(f"{path}:{line}: {len(row)} columns where {len(head)} are expected; {REPAIR}")
        rows.append(row)
        kept.append(count)
        places.append(f"{path}:{line}")
    columns = head if header else [str(number) for number in range(len(head))]
    return Table(pd.DataFrame(rows, index=kept, columns=columns, dtype=object), places, str(path))


def read_jsonl(path: Path, unfold: Unfold | None = None) -> Table:
    """One JSON object a line (a ``.json`` file may be one list of them); ``unfold`` makes flat rows of a nested one.

    Raises UserError with ``file:line`` for what is not JSON, not an object, or does not unfold.
    """
    import pandas as pd

    text = text_of(path).rstrip()
    is_list = text.lstrip().startswith("[")
    if is_list and path.suffix.lower() != ".json":
        raise UserError(f"{path}: holds a list; write one object a line, or call the file {path.stem}.json")
    if text.partition("\n")[0].strip() == "{":
        raise UserError(f"{path}:1: an object over several lines; write each in one line, or a list of them as .json")
    if is_list:
        values = [(f"{path}: element {count} (from 0)", each) for count, each in enumerate(_parsed(text, str(path)))]
    else:
        numbered = [(f"{path}:{number}", line) for number, line in enumerate(text.split("\n") if text else [], 1)]
        values = [(place, _parsed(line, place)) for place, line in numbered]
    rows: list[dict[str, Any]] = []
    index: list[int] = []
    for count, (place, value) in enumerate(values):
        if not isinstance(value, dict):
            raise UserError(f"{place}: {show(value)}, an object expected; {REPAIR}")
        try:
            made = list(unfold(value)) if unfold else [value]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{place}: {unlike(error)}; {REPAIR}") from error
        rows += made
        index += [count] * len(made)
    names = dict.fromkeys(name for row in rows for name in row)
    # Objects: pandas would make numbers of words, and floats of integers next to a missing value.
    frame = pd.DataFrame({name: [row.get(name) for row in rows] for name in names}, index=index, dtype=object)
    return Table(frame, [values[count][0] for count in index], str(path))


def _parsed(text: str, place: str) -> Any:
    with as_user_error(place, "not JSON", REPAIR, (ValueError,)):
        return parse_json(text)


def unlike(error: Exception) -> str:
    """What a format raised about a row, as a reason."""
    return str(error) if isinstance(error, ValueError) else f"not as its task describes a row ({error!r})"


def joined(tables: Sequence[Table]) -> Table:
    """The rows of several tables one after the other. Raises UserError where their columns differ."""
    import pandas as pd

    first = tables[0]
    if len(tables) == 1:
        return first
    for other in tables[1:]:
        other.need(list(first.frame.columns))
    frame = pd.concat([table.frame for table in tables], ignore_index=True)
    places = [place for table in tables for place in table.places]
    others = [Path(table.place).name for table in tables[1:]]
    named = others if len(others) < 4 else [*others[:2], f"{len(others) - 2} more"]
    return Table(frame, places, f"{first.place} with {', '.join(named)}", how=first.how)


# -- what `datasets` reads -------------------------------------------------------------------------------------


def read_datasets(paths: Sequence[Path], config: str = "") -> dict[str, Any]:
    """The `datasets.Dataset` of each split in a folder of ``save_to_disk``, or of data files.

    What holds one split alone, as parquet files do, has no name for it: ONE. Raises UserError for a damaged file and
    for a missing shard.
    """
    import datasets

    datasets.disable_progress_bars()
    folder = paths[0]
    saved = any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))
    if not saved:
        _check_shards(folder.rglob("*") if folder.is_dir() else paths)
    try:
        if saved:
            loaded = datasets.load_from_disk(str(folder))
            found = loaded if isinstance(loaded, dict) else {ONE: loaded}
            for each in found.values():
                each.data.validate(full=True)  # a file that was cut is mapped into memory without a word
            return found
        if folder.is_dir():
            return dict(datasets.load_dataset(str(folder), config or None))
        files = [str(path) for path in paths]
        return {ONE: datasets.load_dataset("parquet", data_files=files, split="train")}
    except Exception as error:  # its builders raise many types, and wrap those of pyarrow
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        if reason.startswith("BatchSize must be"):  # the number of rows of a parquet file
            raise UserError(f"{_place(paths)}: has no rows; give another file") from error
        raise UserError(f"{_place(paths)}: cannot be read ({reason}); {AGAIN}") from error


def delimited_files(folder: Path, config: str = "") -> dict[str, list[Path]]:
    """The CSV and TSV files of each split in a folder of data files; {} where it holds another kind.

    `datasets` reads them as pandas does: an open quote swallows the rows behind it, and words such as None are nothing.
    What the folder's own README says about columns and their types is left to it.
    """
    import datasets
    from datasets.packaged_modules.csv.csv import CsvConfig

    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return {}
    try:
        builder = datasets.load_dataset_builder(str(folder), config or None)
    except Exception:  # read_datasets meets it too, and says what it is
        return {}
    how = builder.config
    if not isinstance(how, CsvConfig) or how.names or how.column_names or how.features or builder.info.features:
        return {}
    if how.header != "infer" or how.skiprows:
        return {}
    root = folder.absolute()
    found = {
        str(split): [
            folder / path.relative_to(root) if path.is_relative_to(root) else path for path in map(Path, files)
        ]
        for split, files in (how.data_files or {}).items()
    }
    plain = all(path.suffix in (".csv", ".tsv") and path.is_file() for files in found.values() for path in files)
    if plain and how.sep in (",", "\t", ";"):
        _check_shards(folder.rglob("*"))
        return found
    return {}


def _check_shards(files: Iterable[Path]) -> None:
    """Raise UserError where files are numbered as shards and one of them is missing."""
    there = set(files)
    for path in there:
        if match := SHARD.fullmatch(path.name):
            for number in range(int(match[3])):
                shard = path.with_name(f"{match[1]}-{number:05d}-of-{match[3]}{match[4]}")
                if shard not in there:
                    raise UserError(f"{shard} is missing, a shard of {match[1]}; {AGAIN}")


def _place(paths: Sequence[Path]) -> str:
    return str(paths[0] if len(paths) == 1 else paths[0].parent)


def of_dataset(dataset: Any, paths: Sequence[Path], wanted: Sequence[str], split: str = "") -> Table:
    """A table of the ``wanted`` columns of a `datasets.Dataset`; the others are not even decoded.

    ``paths`` and the ``split`` in them are where it was read, for messages.
    """
    import pandas as pd

    names = [name for name in dict.fromkeys(wanted) if name in dataset.column_names]
    frame = pd.DataFrame(dataset.select_columns(names).with_format(None).to_dict() if names else {}, dtype=object)
    classes = {name: list(f.names) for name, f in dataset.features.items() if hasattr(f, "names")}
    others = tuple(name for name in dataset.column_names if name not in names)
    place = _place(paths) + (f" ({split})" if split else "")
    return Table(frame, [f"{place}: row {number} (from 0)" for number in range(len(frame))], place, classes, others)
