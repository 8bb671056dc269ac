"""Build every table, figure and the report from a results folder (torch-free, no network, the same bytes each time).

    python scripts/tables.py [--results results] [--study main_table ...] [--strict]

Reads ``studies/`` and ``records/`` below the results folder and the published numbers of this repository. Writes::

    <results>/tables/<study>-<hash>/README.md, *.tex, *.csv, runs.sh (what computes each run), missing.sh
    <results>/figures/<study>-<hash>/*.png, *.svg; those of all studies together in overview/
    <results>/tables/claims/README.md, *.tex, *.csv     the paper's claims, each with what these runs say
    <results>/tables/runs/                              the runs that no manifest names
    <results>/README.md, report.html                    what was found, first
    <results>/runs.csv                                  every run, see sora.runs.load

Files that cannot be used are named, and the rest is built. Exit status: 0; 2 for a mistake in the command, and with
--strict also when a file could not be used.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

import experiments
from experiments import claims, figures, overview, published, report, summary, sweep, tables
from experiments.conditions import conditions
from experiments.study import SINGLE, Study, load
from experiments.summary import Section
from experiments.tables import Figure, Table
from sora import runs
from sora.cli.console import Parser, place_of, run
from sora.files import write_bytes
from sora.runs.commands import in_script
from sora.runs.manifest import UNNAMED

GENERATED = re.compile(rf"[A-Za-z0-9_-]+-[0-9a-f]{{12}}|{SINGLE}|{overview.NAME}")
SHOWN = 5  # commands of missing runs on a study's page; the rest are in missing.sh


def main(arguments: Sequence[str] | None = None) -> int:
    """Build; returns the exit status."""
    parser = Parser(
        prog="scripts/tables.py",
        description="Write tables, figures and the report from the records of a results folder.",
    )
    parser.add_argument(
        "--results", type=place_of, default="results", help="the folder of records/ and studies/ (default: results)"
    )
    parser.add_argument("--study", nargs="+", default=[], metavar="NAME", help="only these studies (default: all)")
    parser.add_argument("--strict", action="store_true", help="exit status 2 when a file could not be used")
    options = parser.parse_args(arguments)
    problems = build(Path(options.results), options.study)
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    return 2 if problems and options.strict else 0


def build(results: Path, only: Sequence[str] = ()) -> list[str]:
    """Write all artefacts below ``results`` and say what was built; returns what could not be used.

    ``only``: names of studies; empty = all, and then what an earlier build left of other studies is removed.

    Raises:
        UserError: no such folder, a name that no manifest has, or a file that cannot be written.
    """
    loaded = load(results)
    chosen = loaded.named(only)
    writer, sections = Writer(), []
    for study in chosen:
        sections.append(_study(results, study, writer))
        print(f"{study.key}: {sections[-1].coverage}, {len(sections[-1].artefacts)} tables and figures")
    sections = summary.in_order(sections)
    above = overview.overview(sections)
    above = replace(above, svgs=_drawn(results / "figures" / overview.NAME, above.figures, writer))
    sections = overview.with_baselines(sections, above.settings)
    claimed = claims.table(chosen)
    if claimed is not None:
        _write_table(results / "tables" / "claims", claimed, writer)
        writer.put(results / "tables" / "claims" / "README.md", tables.markdown(claimed).encode("utf-8"))
    noted = (problem for study in chosen for problem in dict.fromkeys(study.problems))  # claims read a study once more
    problems = [*loaded.problems, *noted]
    shown = [problem.replace(f"{results}/", "") for problem in problems]  # the pages name no folder of this machine
    writer.put(
        results / "report.html", report.page(sections, above, shown, published.SENTENCE, claimed).encode("utf-8")
    )
    if not only:
        words = summary.page(sections, above, claimed, shown, published.SENTENCE)
        writer.put(results / "README.md", words.encode("utf-8"))
        table = runs.varying(runs.table(loaded.results, results))
        writer.put(
            results / "runs.csv", table.to_csv(index=False, lineterminator="\n", float_format="%.10g").encode("utf-8")
        )
        writer.clean(results / "tables")
        writer.clean(results / "figures")
    if not chosen:
        print(f"no study in {results / 'studies'}; python run.py experiment=main_table makes one")
    print(results / "report.html")
    return problems


class Writer:
    """Writes files, leaving those alone that already hold what they should, and knows which ones it wrote."""

    def __init__(self) -> None:
        self.written: set[Path] = set()

    def put(self, path: Path, content: bytes) -> None:
        """Write ``content``. Raises UserError where that is impossible."""
        self.written.add(path)
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)

    def clean(self, folder: Path) -> None:
        """Remove what earlier builds wrote into the folders of studies below ``folder`` and this one did not."""
        for study in sorted(folder.iterdir() if folder.is_dir() else []):
            if GENERATED.fullmatch(study.name) is None or not study.is_dir():
                continue
            for file in sorted(study.iterdir()):
                if file not in self.written and file.is_file():
                    file.unlink()
            if not any(study.iterdir()):
                study.rmdir()


def _study(results: Path, study: Study, writer: Writer) -> Section:
    definition = experiments.find(study.name if study.name != SINGLE else "sweep")
    title = "Runs outside a sweep" if study.name == SINGLE else definition.title
    if title == sweep.TITLE:
        title = f"{title} of {', '.join(study.axes)}" if study.name == UNNAMED else f"{title} {study.name}"
    artefacts = definition.build(study)
    folder = results / "tables" / study.key
    svgs = _drawn(results / "figures" / study.key, [each for each in artefacts if isinstance(each, Figure)], writer)
    pages = [f"# {title}", conditions(study), "Each run's command: [runs.sh](runs.sh)."]
    for artefact in artefacts:
        if isinstance(artefact, Table):
            pages.append(tables.markdown(artefact))
            _write_table(folder, artefact, writer)
        elif isinstance(artefact, Figure):
            path = f"../../figures/{study.key}/{artefact.name}.png"
            pages.append(f"### {artefact.title}\n\n![{artefact.title}]({path})\n\n{artefact.caption}\n")
    if missing := study.missing():
        writer.put(folder / "missing.sh", "\n".join([*map(in_script, missing), ""]).encode("utf-8"))
        more = f"; the first {SHOWN} commands, the others are in missing.sh" if len(missing) > SHOWN else ""
        pages.append("\n".join([f"Missing runs: {len(missing)}{more}.", "", "```bash", *missing[:SHOWN], "```", ""]))
    writer.put(folder / "README.md", "\n\n".join(pages).encode("utf-8"))
    commands = [f"{_place(study, row)}\n{in_script(row['command'])}\n" for _, row in study.runs.iterrows()]
    writer.put(folder / "runs.sh", "".join(commands).encode("utf-8"))
    return Section(study, title, artefacts, svgs)


def _drawn(folder: Path, pictures: Sequence[Figure], writer: Writer) -> dict[str, bytes]:
    """Write the figures; returns the SVG of each name."""
    svgs = {}
    for figure in pictures:
        png, svgs[figure.name] = figures.render(figure)
        writer.put(folder / f"{figure.name}.png", png)
        writer.put(folder / f"{figure.name}.svg", svgs[figure.name])
    return svgs


def _place(study: Study, run: pd.Series) -> str:
    """A comment for a shell: the run's place in the study, its id, and why it has no record."""
    there = {key: run[key] for key in study.axes if isinstance(run[key], tuple) or pd.notna(run[key])}
    axes = " ".join(f"{key}={json.dumps(value, default=str)}" for key, value in there.items())
    reason = f", {run['reason']}" if run["reason"] else ""
    return f"# {axes}: {run['run_id']}{reason}"


def _write_table(folder: Path, table: Table, writer: Writer) -> None:
    writer.put(folder / f"{table.name}.tex", tables.latex(table, folder.name).encode("utf-8"))
    writer.put(folder / f"{table.name}.csv", tables.comma_separated(table).encode("utf-8"))


if __name__ == "__main__":
    run(main)
