"""What a study hands over, tables and figures, and tables as Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

EMPTY = "–"  # a cell that has no value
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
    """A DataFrame with its title. The CSV has all of it; what a person reads is made of it by the names of its columns:

    ``X`` and ``X high``: an interval. ``X`` and ``X sd``: mean ± SD, with ``X n`` and ``X of`` the runs that are
    missing, with ``X diverged`` and ``X one_class`` what must be known of them. ``X`` and ``X of``: runs that are there
    of all. ``X`` and ``X same total``: the second in brackets.

    Attributes:
        name: of its files.
        data: one row a line.
        formats: column -> how a number of it is written, a format string or a function (two decimals otherwise).
        words: column -> its cells, where none of this gives them.
        notes: stand below it, one paragraph each.
    """

    name: str
    title: str
    caption: str
    data: pd.DataFrame
    formats: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    words: Mapping[str, pd.Series] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Those that are shown: an SD, a count and the like stand in the cell of another one."""
        names = list(self.data.columns)
        return [name for name in names if not any(name == f"{other}{end}" for other in names for end in COMPANIONS)]

    @property
    def show(self) -> pd.DataFrame:
        """The words that are shown, row by row those of ``data``."""
        found = {name: self.words[name] if name in self.words else self._shown(name) for name in self.columns}
        return pd.DataFrame(found, index=self.data.index, dtype=object)

    @property
    def ranks(self) -> bool:
        """Whether it shows ranks, or sizes that follow from them."""
        return not RANKED.isdisjoint(self.data.columns)

    def remarked(self, words: str) -> Table:
        """The same with a note more."""
        return replace(self, notes=[*self.notes, words])

    def _shown(self, name: str) -> pd.Series:
        data, write = self.data, self._writer(name)
        there = pd.Series([not (pd.isna(value) or value == "") for value in data[name]], data.index)
        words = pd.Series([write(value) for value in data[name]], data.index, dtype=object)
        if f"{name} high" in data:
            return (words + " to " + data[f"{name} high"].map(write)).where(there, EMPTY)
        if f"{name} sd" in data:
            words += (
                data[f"{name} sd"].map(write).where(data[f"{name} sd"].notna(), "").map(lambda sd: sd and f" ± {sd}")
            )
        if f"{name} same total" in data:
            again = data[f"{name} same total"]
            words += again.map(write).map(" ({})".format).where(again.notna(), "")
        if f"{name} n" not in data:
            return _of(words, data[f"{name} of"]) if f"{name} of" in data else words.where(there, EMPTY)
        n, of = data[f"{name} n"].fillna(0).astype(int), data[f"{name} of"].fillna(0).astype(int)
        parts = [words.where(there, ""), _of("(" + n.map(str), of.map("{})".format)).where(n < of, "")]
        for key, word in (("diverged", "diverged"), ("one_class", "one-class")):
            parts.append(
                data[f"{name} {key}"]
                .fillna(0)
                .astype(int)
                .map(lambda count, word=word: f"[{count} {word}]" if count else "")
            )
        cells = pd.DataFrame(parts).T.agg(lambda row: " ".join(filter(None, row)).replace("] [", ", "), axis=1)
        return cells.where(cells != "", EMPTY)

    def _writer(self, name: str) -> Callable[[Any], str]:
        form = self.formats.get(name, "{:,.2f}")

        def write(value: Any) -> str:
            if not isinstance(value, int | float | np.number) or isinstance(value, bool):
                return str(value)
            if callable(form):
                return form(float(value))
            return (
                str(value) if isinstance(value, int | np.integer) and name not in self.formats else form.format(value)
            )

        return write


def _of(found: pd.Series, every: pd.Series) -> pd.Series:
    return found + "/" + every.map(str)


SIGNED = "{:+,.2f}"
RANKED = {"ranks", "live", "live parameters", "live weights", "data dependence"}
COMPANIONS = (" high", " sd", " n", " of", " diverged", " one_class", " same total")


@dataclass(frozen=True)
class Figure:
    """A figure. ``draw`` fills an empty canvas of ``size`` inches; it sees the style of experiments/figures.py.

    ``ranks``: whether it shows ranks, or sizes that follow from them.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Canvas], None]
    size: tuple[float, float] = (6.4, 4.0)
    ranks: bool = False

    def remarked(self, words: str) -> Figure:
        """The same with a caption that says so too."""
        return replace(self, caption=f"{self.caption} {words}")


Artefact = Table | Figure


# -- numbers as words ------------------------------------------------------------------------------------------


def size(value: float) -> str:
    """A number of parameters: ``1.33M``, ``0.91M``, ``47.1k``."""
    if value >= 1e5:
        return f"{value / 1e6:.2f}M"
    return f"{value / 1e3:.1f}k" if value >= 1e3 else f"{value:.0f}"


def counts(values: pd.Series) -> pd.Series:
    """Whole numbers, or none."""
    return pd.to_numeric(values).round().astype("Int64")


# -- formats ---------------------------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    """Title, caption, a pipe table and notes."""
    lines = [f"### {table.title}", "", table.caption, "", pipes(table.show, numeric(table))]
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"


def pipes(show: pd.DataFrame, right: Sequence[bool] = ()) -> str:
    """A DataFrame of words as a pipe table."""
    safe = show.map(_safe).rename(columns=_safe)
    align = ["right" if each else "left" for each in right] or None
    return safe.to_markdown(index=False, tablefmt="pipe", disable_numparse=True, colalign=align if len(safe) else None)


def _safe(text: object) -> str:
    return str(text).replace("\\", "\\\\").replace("|", r"\|").replace("\n", " ")


def latex(table: Table, study: str = "") -> str:
    """A booktabs table, shrunk to the line where it is wider; the notes are part of the caption.

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
        column_format="".join("r" if each else "l" for each in numeric(table)),
    )
    begin, end = r"\begin{tabular}", r"\end{tabular}"
    return text.replace(begin, SHRINK + begin).replace(end, end + "}")


SHRINK = "\\centering\n\\small\n\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"


def comma_separated(table: Table) -> str:
    """One line a row, numbers to six digits: beyond them sums depend on the number of threads, and files must not."""
    return table.data.to_csv(index=False, lineterminator="\n", float_format=digits)


def digits(value: float) -> str:
    """Six digits: what does not depend on the order in which a processor adds."""
    return f"{value:.6g}" if abs(value) < 1e-3 else f"{round(value, 6):.15g}"


def numeric(table: Table) -> list[bool]:
    """For each shown column whether its values are numbers."""
    kinds = [table.data[name] for name in table.columns]
    return [pd.api.types.is_numeric_dtype(each) and not each.isna().all() for each in kinds]
