"""One HTML file with everything: opens from disk, asks no server for anything, runs without a library."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from experiments.artefacts import Artefact, Cell, Figure, Table, shared
from experiments.render import missing, plain
from experiments.study import Run, Study

# Nothing is fetched, and should a file of results try to make the page fetch something, the browser refuses.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
STYLE = """
:root { --ink: #1a1a1a; --soft: #5c5c5c; --line: #d9d9d9; --blue: #0072b2; --wash: #f5f7f9; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); margin: 0 auto; max-width: 76rem; padding: 1.5rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; padding-top: .8rem; border-top: 2px solid var(--ink); }
h3 { font-size: 1.05rem; margin: 2rem 0 .3rem; }
p, figcaption { max-width: 62rem; }
.caption, figcaption, .note { color: var(--soft); font-size: .87rem; margin: .2rem 0 .6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums;
  border-top: 2px solid var(--ink); border-bottom: 2px solid var(--ink); }
th, td { padding: .28rem .7rem; text-align: left; white-space: nowrap; }
td.number, th.number { text-align: right; }
thead th { border-bottom: 1px solid var(--ink); padding: 0; }
thead button { font: inherit; font-weight: 600; width: 100%; text-align: inherit; padding: .28rem .7rem; border: 0;
  background: none; cursor: pointer; color: inherit; }
thead button:hover, thead button:focus-visible { background: var(--wash); color: var(--blue); }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
tbody tr:hover { background: var(--wash); }
td.open { color: #b04a00; }
figure { margin: 1.5rem 0; }
figure img { max-width: 100%; height: auto; }
details { margin: .5rem 0; font-size: .87rem; }
summary { cursor: pointer; color: var(--blue); }
pre { background: var(--wash); padding: .7rem; overflow-x: auto; font-size: .8rem; }
ul.problems li { color: #a01010; }
nav ul { columns: 2; }
a { color: var(--blue); }
@media print { details, nav { display: none; } .scroll { overflow: visible; } }
"""
SCRIPT = """
for (const table of document.querySelectorAll("table:not(.plain)")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(each => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0], key = row => row.cells[column].dataset.v;
    const order = (a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const numbers = x - y;
      return (up ? 1 : -1) * (Number.isNaN(numbers) ? x.localeCompare(y) : numbers);
    };
    [...body.rows].sort(order).forEach(row => body.append(row));
  }));
}
"""


@dataclass(frozen=True)
class Section:
    """A study as the report shows it; ``svgs``: figure name -> its file's content."""

    study: Study
    title: str
    artefacts: Sequence[Artefact]
    svgs: Mapping[str, bytes]


def page(sections: Sequence[Section], problems: Sequence[str], published: str, claims: Table | None = None) -> str:
    """The whole file. ``published``: what is said about published numbers. All text is escaped here.

    ``claims``: the table that stands before all studies.
    """
    body = ["<h1>Results</h1>", f"<p>{escape(_summary(sections))}</p>"]
    if sections:
        body += [
            "<nav><ul>",
            *([f'<li><a href="#claims">{escape(claims.title)}</a></li>'] if claims else []),
            *(f'<li><a href="#{_id(s)}">{escape(_heading(s))}</a></li>' for s in sections),
            "</ul></nav>",
        ]
    body += [f"<p>{escape(published)}</p>"]
    if problems:
        items = [f"<li>{escape(each)}</li>" for each in problems]
        body += ["<h2>Files that could not be used</h2>", '<ul class="problems">', *items, "</ul>"]
    if claims is not None:
        body += [f'<h2 id="claims">{escape(claims.title)}</h2>', *_table(claims)]
    for section in sections:
        body += _section(section)
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',  # else a browser asks for favicon.ico
        "<title>Results</title>",
        f"<style>{STYLE}</style>",
    ]
    lines = ["<!doctype html>", '<html lang="en">', "<head>", *head, "</head>", "<body>", *body]
    return "\n".join([*lines, f"<script>{SCRIPT}</script>", "</body>", "</html>"]) + "\n"


def _summary(sections: Sequence[Section]) -> str:
    if not sections:
        return "No study has a manifest here yet."
    runs = [run for section in sections for run in section.study.runs]
    done = sum(run.record is not None for run in runs)
    return (
        f"{len(sections)} {'study' if len(sections) == 1 else 'studies'}, {done} of {len(runs)} runs done. "
        "A click on a column's head sorts by it. Scores are in points (100 times the metric)."
    )


def _id(section: Section) -> str:
    return escape(section.study.key)


def _heading(section: Section) -> str:
    done = sum(run.record is not None for run in section.study.runs)
    backbone = ", ".join(map(str, section.study.values("backbone")))
    return f"{section.title}{f', {backbone}' if backbone else ''} ({done}/{len(section.study.runs)} runs)"


def _section(section: Section) -> list[str]:
    lines = [f'<h2 id="{_id(section)}">{escape(_heading(section))}</h2>']
    told = shared([artefact.caption for artefact in section.artefacts])
    if told:
        lines.append(f'<p class="caption">{escape(" ".join(told))}</p>')
    for artefact in section.artefacts:
        if isinstance(artefact, Table):
            lines += _table(artefact, told)
        else:
            lines += _figure(artefact, section.svgs[artefact.name], told)
    lines += _missing(section.study) + _commands(section.study)
    return lines + _provenance(section.study)


def _table(table: Table, told: Collection[str] = ()) -> list[str]:
    numeric = [
        all(isinstance(row[i].value, int | float | None) for row in table.rows) for i in range(len(table.columns))
    ]
    kinds = [' class="number"' if each else "" for each in numeric]
    heads = [
        f'<th{kind}><button type="button">{escape(name)}</button></th>'
        for kind, name in zip(kinds, table.columns, strict=True)
    ]
    rows = [
        "<tr>" + "".join(_cell(cell, n) for cell, n in zip(row, numeric, strict=True)) + "</tr>" for row in table.rows
    ]
    lines = [
        f"<h3>{escape(table.title)}</h3>",
        f'<p class="caption">{escape(table.caption.beyond(told))}</p>',
        '<div class="scroll"><table><thead><tr>',
        *heads,
        "</tr></thead><tbody>",
        *rows,
        "</tbody></table></div>",
    ]
    lines += [f'<p class="note">{escape(note)}</p>' for note in table.notes]
    if commands := missing(table):
        listed = escape("\n".join(commands))
        lines += [f"<details><summary>Missing runs: {len(commands)}</summary><pre>{listed}</pre></details>"]
    return lines


def _cell(cell: Cell, number: bool) -> str:
    classes = [name for name, given in (("number", number), ("open", cell.commands)) if given]
    kind = f' class="{" ".join(classes)}"' if classes else ""
    title = f' title="{escape(chr(10).join(cell.commands))}"' if cell.commands else ""
    return f'<td{kind}{title} data-v="{escape(plain(cell))}">{escape(cell.text)}</td>'


def _figure(figure: Figure, svg: bytes, told: Collection[str]) -> list[str]:
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"
    return [
        f"<h3>{escape(figure.title)}</h3>",
        f'<figure><img alt="{escape(figure.title)}" src="{source}">',
        f"<figcaption>{escape(figure.caption.beyond(told))}</figcaption></figure>",
    ]


def _missing(study: Study) -> list[str]:
    without = [run for run in study.runs if run.record is None]
    if not without:
        return []
    reasons = Counter(run.reason for run in without)
    told = "; ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    listed = escape("\n".join(f"{run.command}  # {run.run_id}, {run.reason}" for run in without))
    return [
        f"<h3>What is missing</h3><p>{escape(f'{len(without)} of {len(study.runs)} runs: {told}.')}</p>",
        f"<details><summary>Commands</summary><pre>{listed}</pre></details>",
    ]


def _commands(study: Study) -> list[str]:
    """What computes each finished run again."""
    listed = [f"{run.command}  # {run.run_id}" for run in study.runs if run.record is not None]
    if not listed:
        return []
    told = escape("\n".join(listed))
    return [f"<details><summary>Commands of the {len(listed)} finished runs</summary><pre>{told}</pre></details>"]


def _provenance(study: Study) -> list[str]:
    """What the numbers came of; no machine's name and no time."""
    done = [run for run in study.runs if run.record is not None]
    if not done:
        return []
    rows = [("manifest", f"studies/{study.key}.json"), ("fixed", ", ".join(f"{k}={v}" for k, v in study.fixed.items()))]
    rows += [(f"axis {axis}", ", ".join(map(str, values))) for axis, values in study.axes.items()]
    rows += [
        ("code", _counted(_said(done, "provenance", "git"))),
        ("device", _counted(_said(done, "provenance", "device"))),
        ("precision", _counted(_said(done, "config", "precision"))),
        ("weights", _counted(_said(done, "config", "weights"))),
        ("data sha256", _counted(_said(done, "data", "sha256"))),
    ]
    libraries = list(dict.fromkeys(name for run in done if run.record for name in run.record["provenance"]["versions"]))
    rows += [(name, _counted(_said(done, "provenance", "versions", name))) for name in libraries]
    cells = "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in rows if value)
    lines = [
        "<details><summary>Provenance</summary>",
        f'<div class="scroll"><table class="plain"><tbody>{cells}</tbody></table></div>',
    ]
    return [*lines, "</details>"]


def _said(runs: Iterable[Run], *path: str) -> list[str]:
    found: list[str] = []
    for run in runs:
        node: Any = run.record
        for key in path:
            node = node.get(key) if isinstance(node, Mapping) else None
        if isinstance(node, Mapping):
            node = ", ".join(f"{k} {v}" for k, v in sorted(node.items()))
        found.append("not recorded" if node is None else str(node))
    return found


def _counted(values: Iterable[str]) -> str:
    return "; ".join(f"{value} ({count} runs)" for value, count in sorted(Counter(values).items()))
