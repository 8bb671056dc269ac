"""Tables as Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence

from experiments.artefacts import Cell, Figure, Table, Value

LONG = 40  # rows; a longer LaTeX table may break over pages
SHOWN = 5  # commands below a table; the rest are in missing.sh
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "–": "--",
    "−": r"$-$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "∇": r"$\nabla$",
    "Δ": r"$\Delta$",
    "γ": r"$\gamma$",
    "η": r"$\eta$",
    "ξ": r"$\xi$",
    "λ": r"$\lambda$",
    "ρ": r"$\rho$",
    "…": r"\dots{}",
}


def missing(table: Table) -> list[str]:
    """The commands that would fill the table, each once, in the order of the cells."""
    return list(dict.fromkeys(command for row in table.rows for cell in row for command in cell.commands))


def markdown(table: Table, told: Collection[str] = ()) -> str:
    """Title, caption, a pipe table, notes, and the commands that fill what is missing.

    ``told``: conditions that its page has told before.
    """
    lines = [f"### {table.title}", "", table.caption.beyond(told), ""]
    lines += [
        _pipe(table.columns),
        "|" + "|".join("---:" if _numeric(table, i) else "---" for i in _columns(table)) + "|",
    ]
    lines += [_pipe([cell.text for cell in row]) for row in table.rows]
    for note in table.notes:
        lines += ["", note]
    if commands := missing(table):
        more = f"; the first {SHOWN} commands, the others are in missing.sh" if len(commands) > SHOWN else ""
        lines += ["", f"Missing runs: {len(commands)}{more}.", "", "```bash", *commands[:SHOWN], "```"]
    return "\n".join(lines) + "\n"


def figure_markdown(figure: Figure, path: str, told: Collection[str] = ()) -> str:
    """Title, the picture at ``path``, caption without the conditions ``told`` before."""
    return f"### {figure.title}\n\n![{figure.title}]({path})\n\n{figure.caption.beyond(told)}\n"


def latex(table: Table, study: str = "") -> str:
    """A booktabs table, or a longtable of more than ``LONG`` rows; the notes are part of the caption.

    ``study``: stands in the label before the table's name, since a paper may take in the same table of several studies.
    """
    columns = "".join("r" if _numeric(table, i) else "l" for i in _columns(table))
    head = " & ".join(escape(name) for name in table.columns) + r" \\"
    rows = [" & ".join(escape(cell.text) for cell in row) + r" \\" for row in table.rows]
    words = " ".join([f"{table.title}.", str(table.caption), *table.notes])
    name = "-".join(filter(None, dict.fromkeys((study, table.name)))).replace("_", "-")
    caption, label = rf"\caption{{{escape(words)}}}", rf"\label{{tab:{name}}}"
    top = [r"% needs \usepackage{booktabs} and \usepackage{" + ("longtable}" if len(rows) > LONG else "graphicx}")]
    if len(rows) > LONG:
        top += [
            rf"\begin{{longtable}}{{{columns}}}",
            rf"{caption}{label}\\",
            r"\toprule",
            head,
            r"\midrule",
            r"\endhead",
        ]
        end = [r"\bottomrule", r"\end{longtable}"]
    else:
        top += [r"\begin{table}", r"\centering", r"\small", caption, label]
        # A wide table is shrunk to the line, a narrow one stays as it is.
        top += [r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"]
        top += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule"]
        end = [r"\bottomrule", r"\end{tabular}}", r"\end{table}"]
    return "\n".join([*top, *rows, *end]) + "\n"


def escape(words: str) -> str:
    """Text for LaTeX."""
    return "".join(LATEX.get(character, character) for character in words)


def comma_separated(table: Table) -> str:
    """One line a row; a column's further values stand beside it as ``<column> <suffix>``."""
    suffixes = [
        list(dict.fromkeys(suffix for row in table.rows for suffix in row[index].extra)) for index in _columns(table)
    ]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        name for i, column in enumerate(table.columns) for name in (column, *(f"{column} {s}" for s in suffixes[i]))
    )
    for row in table.rows:
        writer.writerow(
            value
            for i, cell in enumerate(row)
            for value in (plain(cell), *(_say(cell.extra.get(s)) for s in suffixes[i]))
        )
    return buffer.getvalue()


def plain(cell: Cell) -> str:
    """A cell's value to six digits: beyond them sums depend on the number of threads, and files must not."""
    return _say(cell.value)


def _say(value: Value) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.6g}" if isinstance(value, float) and abs(value) < 1e-3 else str(_rounded(value))


def _rounded(value: Value) -> Value:
    return round(value, 6) if isinstance(value, float) else value


def _columns(table: Table) -> range:
    return range(len(table.columns))


def _numeric(table: Table, index: int) -> bool:
    """Whether the column's values are numbers, as far as it has any."""
    values = [row[index].value for row in table.rows if row[index].value is not None]
    return all(isinstance(value, int | float) for value in values)


def _pipe(words: Sequence[str]) -> str:
    return "| " + " | ".join(word.replace("\\", "\\\\").replace("|", r"\|").replace("\n", " ") for word in words) + " |"
