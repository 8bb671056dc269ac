"""What a study hands over, tables and figures, and tables as Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

EMPTY = "–"  # a cell that has no value
LONG = 40  # rows; a longer LaTeX table may break over pages
LATEX = str.maketrans(
    {
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"},
        **{character: rf"\{character}" for character in "&%$#_{}"},
        **{"±": r"$\pm$", "–": "--", "−": r"$-$", "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$", "…": r"\dots{}"},
        **{"∇": r"$\nabla$", "Δ": r"$\Delta$", "γ": r"$\gamma$", "η": r"$\eta$", "ξ": r"$\xi$", "λ": r"$\lambda$"},
        **{"ρ": r"$\rho$"},
    }
)


@dataclass(frozen=True)
class Table:
    """``data`` is what a program reads (the CSV), ``show`` what a person reads, row by row the same.

    ``notes`` stand below it, one paragraph each.
    """

    name: str  # of its files
    title: str
    caption: str
    data: pd.DataFrame
    show: pd.DataFrame
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Figure:
    """A figure. ``draw`` fills an empty canvas of ``size`` inches; it sees the style of experiments/figures.py."""

    name: str
    title: str
    caption: str
    draw: Callable[[Canvas], None]
    size: tuple[float, float] = (6.4, 4.0)


Artefact = Table | Figure


# -- numbers as words ------------------------------------------------------------------------------------------


def number(values: pd.Series, digits: int = 2, sign: bool = False) -> pd.Series:
    """``1,234.50``; an empty cell where there is no number."""
    form = f"{'+' if sign else ''},.{digits}f"
    return values.map(lambda value: EMPTY if pd.isna(value) else format(value, form))


def plain(values: pd.Series) -> pd.Series:
    """``5e-05``, ``8``, or the words as they are."""
    return values.map(lambda v: EMPTY if pd.isna(v) or v == "" else f"{v:g}" if isinstance(v, int | float) else str(v))


def size(values: pd.Series) -> pd.Series:
    """A number of parameters: ``1.33M``, ``0.91M``, ``47.1k``."""
    return values.map(short_size)


def short_size(value: float) -> str:
    """See :func:`size`."""
    if pd.isna(value):
        return EMPTY
    if value >= 1e5:
        return f"{value / 1e6:.2f}M"
    return f"{value / 1e3:.1f}k" if value >= 1e3 else f"{value:.0f}"


def interval(low: pd.Series, high: pd.Series, sign: bool = False) -> pd.Series:
    """``84.20 to 86.44``."""
    return joined("{} to {}", number(low, sign=sign), number(high, sign=sign)).where(low.notna(), EMPTY)


def mean_sd(mean: pd.Series, sd: pd.Series, digits: int = 2) -> pd.Series:
    """``85.32 ± 0.86``."""
    return joined("{} ± {}", number(mean, digits), number(sd, digits)).where(mean.notna(), EMPTY)


def joined(form: str, *parts: pd.Series) -> pd.Series:
    """``form`` with the words of the parts, row by row."""
    return pd.Series([form.format(*row) for row in zip(*parts, strict=True)], index=parts[0].index, dtype=object)


def counts(values: pd.Series) -> pd.Series:
    """Whole numbers, and none."""
    return values.round().astype("Int64")


# -- formats ---------------------------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    """Title, caption, a pipe table and notes."""
    lines = [f"### {table.title}", "", table.caption, "", pipes(table.show, numeric(table))]
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"


def pipes(show: pd.DataFrame, right: Sequence[bool] = ()) -> str:
    """A DataFrame of words as a pipe table."""
    safe = show.map(lambda text: str(text).replace("\\", "\\\\").replace("|", r"\|").replace("\n", " "))
    align = ["right" if each else "left" for each in right] or None
    return safe.to_markdown(index=False, tablefmt="pipe", disable_numparse=True, colalign=align if len(safe) else None)


def latex(table: Table, study: str = "") -> str:
    """A booktabs table, or a longtable of more than ``LONG`` rows; the notes are part of the caption.

    ``study``: stands in the label before the table's name, since a paper may take in the same table of several studies.
    """
    words = " ".join([f"{table.title}.", table.caption, *table.notes])
    name = "-".join(filter(None, dict.fromkeys((study, table.name)))).replace("_", "-")
    show = table.show.map(lambda cell: str(cell).translate(LATEX)).rename(columns=lambda head: head.translate(LATEX))
    text = show.to_latex(
        index=False,
        escape=False,
        caption=words.translate(LATEX),
        label=f"tab:{name}",
        longtable=len(show) > LONG,
        column_format="".join("r" if each else "l" for each in numeric(table)),
    )
    if len(show) <= LONG:  # a wide table is shrunk to the line, a narrow one stays as it is
        text = text.replace(r"\begin{tabular}", SHRINK + r"\begin{tabular}").replace(
            r"\end{tabular}", r"\end{tabular}}"
        )
    return text


SHRINK = "\\centering\n\\small\n\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"


def comma_separated(table: Table) -> str:
    """One line a row, numbers to six digits: beyond them sums depend on the number of threads, and files must not."""
    return table.data.to_csv(index=False, lineterminator="\n", float_format=_digits)


def _digits(value: float) -> str:
    return f"{value:.6g}" if abs(value) < 1e-3 else f"{round(value, 6):.15g}"


def numeric(table: Table) -> list[bool]:
    """For each shown column whether its values are numbers."""
    return [
        name in table.data and pd.api.types.is_numeric_dtype(table.data[name]) and not table.data[name].isna().all()
        for name in table.show
    ]
