"""Write the finding and the main table of results/ between the marks of README.md.

    python scripts/readme.py [--check]

``make tables`` does so after the tables are made. The finding is that of results/README.md, the numbers are those of
results/tables/main_table-*/main_table.csv.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import pandas as pd

from experiments.labels import ARMS, METHODS
from experiments.main_table import BASE
from experiments.tables import EMPTY, Table, size
from sora.errors import UserError
from sora.files import write_text

ROOT = Path(__file__).resolve().parents[1]
BACKBONE = re.compile(r"\bBackbone (\S+)\.")  # as experiments/conditions.py names it
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def finding(results: Path) -> str:
    """The first sentence of the results' page, or nothing where no comparison can be made yet."""
    page = (results / "README.md").read_text(encoding="utf-8")
    return next((line.strip("*") + "\n\n" for line in page.splitlines() if line.startswith("**")), "")


def block(results: Path) -> str:
    """Each main table as Markdown, a row for each method or arm: live parameters and mean ± SD of each task."""
    parts = []
    for path in sorted(results.glob("tables/main_table-*/main_table.csv")):
        found = pd.read_csv(path)
        found[["score n", "score of"]] = found[["n", "n of"]]  # so that the score names runs that are missing
        table = Table("main_table", "", "", found, {"live parameters": size})
        key = table.columns[1]  # method, or arm
        tasks, names = list(table.data["task"].unique()), list(table.data[key].unique())
        if key == "arm":  # also those that the first task lacks in their place
            names = [name for name in ARMS.values() if name in names] + [n for n in names if n not in ARMS.values()]
        live = table.data.groupby(key)["live parameters"].mean().map(size, na_action="ignore")
        live = live.astype(object).fillna(EMPTY)
        few = (
            (found["n"] > 0)
            & (found["n"] < found.groupby("task")["n"].transform("max"))
            & (found["n"] == found["n of"])
        )
        gaps = found["minus LoRA"].map("{:+.2f}".format).where(found["minus LoRA"].notna(), "")
        counts = found["n"].map("n = {:.0f}".format).where(few, "")
        notes = [", ".join(filter(None, each)) for each in zip(gaps, counts, strict=True)]
        shown = table.show.assign(score=table.show["score"] + [f" ({note})" if note else "" for note in notes])
        wide = shown.pivot(index=key, columns="task", values="score").fillna(EMPTY).loc[names, tasks]
        lines = [f"| {' | '.join(['method', 'live parameters', *tasks])} |", f"|---|---:|{'---:|' * len(tasks)}"]
        lines += [f"| {' | '.join([str(name), live[name], *wide.loc[name]])} |" for name in names]
        page = path.with_name("README.md")
        backbones = ", ".join(BACKBONE.findall(page.read_text(encoding="utf-8")))
        words = f"On {backbones}: mean ± SD over seeds, in points; live parameters are the mean of a row's tasks."
        if gaps.any():
            base = (METHODS | ARMS)[BASE[key]]
            words += f" In brackets: minus {base} on the seeds both have; n where a row has fewer seeds than others."
        link = f"[Details and settings]({page.relative_to(results.parent).as_posix()})."
        parts.append("\n".join([*lines, "", f"{words} {link}"]))
    return "\n\n".join(parts)


def filled(page: str, text: str, begin: str, end: str) -> str:
    """``page`` with ``text`` between the lines ``begin`` and ``end``. Raises UserError where one is missing."""
    before, first, rest = page.partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise UserError(f"the page needs the lines {begin} and {end}, between which the text goes")
    return f"{before}{begin}\n{text}\n{end}{after}"


def main(argv: list[str] | None = None) -> int:
    """Write README.md, or with --check say whether it is what would be written."""
    parser = argparse.ArgumentParser(prog="scripts/readme.py", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when it is out of date")
    arguments = parser.parse_args(argv)
    path = ROOT / "README.md"
    page = path.read_text(encoding="utf-8")
    wanted = filled(page, finding(ROOT / "results") + block(ROOT / "results"), BEGIN, END)
    if arguments.check:
        return int(page != wanted)
    if page != wanted:
        write_text(path, wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
