"""Every cell of the CSV files of ``make tables`` as one long table: which study, which table, which row, which column.

    python -m tests.experiments.golden results        # writes tests/golden/results_tables.csv anew

Only where a number is meant to move is that file written anew, and its difference is the list of what moved.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

FILE = Path(__file__).parents[1] / "golden" / "results_tables.csv"
KEYS = (  # columns that say which row it is; all others hold values
    *(
        "arm",
        "comparison",
        "baseline",
        "reading",
        "head",
        "switch",
        "claim",
        "method",
        "task",
        "metric",
        "schedule",
        "source",
        "study",
    ),
    *("r", "ξ", "method.rho", "level", "of", "learning rate", "trials", "paper: live"),
)
Place = tuple[str, str, str]  # table, row, column


def cells(results: Path) -> dict[Place, str]:
    """The cells that hold anything, of all tables below ``results``."""
    found: dict[Place, str] = {}
    for path in sorted((results / "tables").rglob("*.csv")):
        table = path.relative_to(results / "tables").with_suffix("").as_posix()
        for row, column, value in _long(path):
            assert (table, row, column) not in found, f"{table}: two rows {row}"
            found[table, row, column] = value
    return found


def _long(path: Path) -> Iterator[tuple[str, str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    columns = [name if head.index(name) == i else f"{name} (column {i})" for i, name in enumerate(head)]
    for row in rows:
        key = "; ".join(f"{name}={_plain(value)}" for name, value in zip(columns, row, strict=True) if name in KEYS)
        for name, value in zip(columns, row, strict=True):
            if name not in KEYS and value:
                yield key, name, value


def _plain(value: str) -> str:
    """A number in a key without a needless ``.0``."""
    try:
        return f"{float(value):g}"
    except ValueError:
        return value


def read() -> dict[Place, str]:
    """What the golden file holds."""
    with FILE.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    return {(table, row, column): value for table, row, column, value in rows}


def write(results: Path) -> None:
    """Write the golden file from the tables below ``results``."""
    with FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["table", "row", "column", "value"])
        writer.writerows([*place, value] for place, value in cells(results).items())


def differences(found: dict[Place, str], expected: dict[Place, str], tolerance: float = 1e-6) -> list[str]:
    """What is missing, new, or unequal: numbers beyond ``tolerance`` (of 1 or of the number), words at all."""
    said = [f"{place}: missing" for place in expected.keys() - found.keys()]
    said += [f"{place}: new" for place in found.keys() - expected.keys()]
    for place in expected.keys() & found.keys():
        if not _equal(found[place], expected[place], tolerance):
            said.append(f"{place}: {found[place]!r}, was {expected[place]!r}")
    return sorted(said)


def _equal(found: str, expected: str, tolerance: float) -> bool:
    try:
        a, b = float(found), float(expected)
    except ValueError:
        return found == expected
    return abs(a - b) <= tolerance * max(1.0, abs(b)) + 1e-12


if __name__ == "__main__":
    write(Path(sys.argv[1]))
