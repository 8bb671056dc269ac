"""Write the main table of results/ between the marks of README.md.

    python scripts/readme.py [--check]

``make tables`` does so after the tables are made. The numbers are those of results/tables/main_table-*/main_table.csv.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from experiments.tables import size
from sora.files import write_text

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
DASH = "–"


def block(results: Path) -> str:
    """Each main table as Markdown, a row for each method: live parameters and mean ± SD of each task."""
    parts = []
    for path in sorted(results.glob("tables/main_table-*/main_table.csv")):
        found = pd.read_csv(path)
        tasks = [name.removesuffix(" sd") for name in found if name.endswith(" sd")]
        lines = [f"| {' | '.join(['method', 'live parameters', *tasks])} |", f"|---|---:|{'---:|' * len(tasks)}"]
        for _, row in found.iterrows():
            live = DASH if pd.isna(row["live parameters"]) else size(float(row["live parameters"]))
            lines.append(f"| {' | '.join([row['method'], live, *(_cell(row, task) for task in tasks)])} |")
        page = path.with_name("README.md").relative_to(results.parent).as_posix()
        parts.append("\n".join([*lines, "", f"Mean ± SD over seeds, in points: [details and settings]({page})."]))
    return "\n\n".join(parts)


def _cell(row: pd.Series, task: str) -> str:
    if pd.isna(row[task]):
        return DASH
    words = f"{row[task]:.2f}" + ("" if pd.isna(row[f"{task} sd"]) else f" ± {row[f'{task} sd']:.2f}")
    runs, of, one_class, diverged = (row[f"{task} {name}"] for name in ("n", "of", "one_class", "diverged"))
    if pd.notna(runs) and runs < of:
        words += f" ({runs:.0f}/{of:.0f})"
    marks = [f"{count:.0f} {word}" for count, word in ((one_class, "one-class"), (diverged, "diverged")) if count > 0]
    return f"{words} [{', '.join(marks)}]" if marks else words


def filled(page: str, table: str) -> str:
    """``page`` with ``table`` between its marks. Raises ValueError where a mark is missing."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main(argv: list[str] | None = None) -> int:
    """Write README.md, or with --check say whether it is what would be written."""
    parser = argparse.ArgumentParser(prog="scripts/readme.py", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when it is out of date")
    arguments = parser.parse_args(argv)
    path = ROOT / "README.md"
    page = path.read_text(encoding="utf-8")
    wanted = filled(page, block(ROOT / "results"))
    if arguments.check:
        return int(page != wanted)
    if page != wanted:
        write_text(path, wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
