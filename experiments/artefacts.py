"""What a study hands over: tables of cells and figures. How they are written is the renderers' business."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Value = float | int | str | None
EMPTY = "–"  # a cell that has no meaning, as opposed to one that is missing


@dataclass(frozen=True)
class Cell:
    """One cell: what a person reads, and what a program reads.

    Attributes:
        text: plain text, for all formats.
        value: sort key, and the CSV's main column; None = nothing to sort by.
        extra: further CSV columns by suffix, such as ``{"sd": 0.8, "n": 3, "of": 5}``.
        commands: what would fill the cell.
    """

    text: str
    value: Value = None
    extra: Mapping[str, Value] = field(default_factory=dict)
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Caption:
    """What stands below a title: ``own`` words on these numbers, then the ``conditions`` of the runs, a sentence each.

    A page tells once what all its tables and figures share; a LaTeX table, which leaves its page, tells everything.
    """

    own: str
    conditions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.beyond(())

    def beyond(self, told: Collection[str]) -> str:
        """All of it but the conditions that are already told."""
        return " ".join(filter(None, (self.own, *(each for each in self.conditions if each not in told))))


def shared(captions: Sequence[Caption]) -> tuple[str, ...]:
    """The conditions that every caption has which has any, in their order."""
    first, *others = [caption.conditions for caption in captions if caption.conditions] or [()]
    return tuple(each for each in first if all(each in other for other in others))


@dataclass(frozen=True)
class Table:
    """A table; every row has as many cells as there are columns. ``notes`` stand below it, one paragraph each."""

    name: str  # of its files
    title: str
    caption: Caption
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.name}: a row of {len(row)} cells under {len(self.columns)} columns")


@dataclass(frozen=True)
class Figure:
    """A figure. ``draw`` fills an empty canvas of ``size`` inches; it sees the style of experiments/figures.py."""

    name: str
    title: str
    caption: Caption
    draw: Callable[[Canvas], None]
    size: tuple[float, float] = (6.4, 4.0)


Artefact = Table | Figure


def text(value: object) -> Cell:
    """A cell of words."""
    return Cell(str(value), str(value))


def number(value: float | None, digits: int = 2, sign: bool = False) -> Cell:
    """A cell of one number; None or NaN is an empty cell."""
    if value is None or value != value:
        return Cell(EMPTY)
    return Cell(f"{value:+,.{digits}f}" if sign else f"{value:,.{digits}f}", float(value))
