"""What studies built, cell by cell: the words a person reads and the number behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from experiments import find
from experiments.study import Study, load
from experiments.tables import COMPANIONS, Table


class Cell(NamedTuple):
    text: str
    value: Any  # None where there is none
    extra: dict[str, Any]  # companion -> its value


def study(folder: Path) -> Study:
    """The only study of a folder, in which every file can be used."""
    loaded = load(folder)
    assert loaded.problems == []
    (found,) = loaded.studies
    return found


def artefacts(folder: Path) -> dict[str, Any]:
    """The tables and figures of the only study, by name."""
    found = study(folder)
    built = {artefact.name: artefact for artefact in find(found.name).build(found)}
    assert found.problems == []
    return built


def row(table: Table, *start: str) -> dict[str, Cell]:
    """The one row that begins with these words."""
    (found,) = [each for each in rows(table) if [cell.text for cell in each.values()][: len(start)] == list(start)]
    return found


def rows(table: Table) -> list[dict[str, Cell]]:
    """Every row, by column."""
    show = table.show  # made anew each time
    return [
        {name: Cell(str(show[name][i]), value(table, i, name), extra(table, i, name)) for name in show}
        for i in show.index
    ]


def value(table: Table, place: int, name: str) -> Any:
    found = table.data[name][place]
    return None if pd.isna(found) else found


def extra(table: Table, place: int, name: str) -> dict[str, Any]:
    ends = [end for end in COMPANIONS if f"{name}{end}" in table.data]
    return {end.strip(): value(table, place, f"{name}{end}") for end in ends}
