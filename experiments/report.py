"""One HTML file with everything: opens from disk, asks no server for anything, runs without a library."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd

from experiments.study import Study
from experiments.summary import Section
from experiments.tables import Figure, Table, numeric

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
    done = sum(int(section.study.runs["done"].sum()) for section in sections)
    runs = sum(len(section.study.runs) for section in sections)
    return (
        f"{len(sections)} {'study' if len(sections) == 1 else 'studies'}, {done} of {runs} runs done. "
        "A click on a column's head sorts by it. Scores are in points (100 times the metric)."
    )


def _id(section: Section) -> str:
    return escape(section.study.key)


def _heading(section: Section) -> str:
    return f"{section.heading} ({section.coverage})"


def _section(section: Section) -> list[str]:
    lines = [f'<h2 id="{_id(section)}">{escape(_heading(section))}</h2>']
    for artefact in section.artefacts:
        lines += _table(artefact) if isinstance(artefact, Table) else _figure(artefact, section.svgs[artefact.name])
    return lines + _missing(section.study) + _commands(section.study) + _provenance(section.study)


def _table(table: Table) -> list[str]:
    kinds = [' class="number"' if each else "" for each in numeric(table)]
    heads = [
        f'<th{kind}><button type="button">{escape(name)}</button></th>'
        for kind, name in zip(kinds, table.columns, strict=True)
    ]
    keys = table.data[table.columns]
    rows = [
        "<tr>" + "".join(map(_cell, row, key, kinds)) + "</tr>"
        for row, key in zip(table.show.itertuples(index=False), keys.itertuples(index=False), strict=True)
    ]
    lines = [
        f"<h3>{escape(table.title)}</h3>",
        f'<p class="caption">{escape(table.caption)}</p>',
        '<div class="scroll"><table><thead><tr>',
        *heads,
        "</tr></thead><tbody>",
        *rows,
        "</tbody></table></div>",
    ]
    return [*lines, *(f'<p class="note">{escape(note)}</p>' for note in table.notes)]


def _cell(text: object, key: object, kind: str) -> str:
    value = "" if pd.isna(key) else str(key)
    return f'<td{kind} data-v="{escape(value)}">{escape(str(text))}</td>'


def _figure(figure: Figure, svg: bytes) -> list[str]:
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"
    return [
        f"<h3>{escape(figure.title)}</h3>",
        f'<figure><img alt="{escape(figure.title)}" src="{source}">',
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>",
    ]


def _missing(study: Study) -> list[str]:
    without = study.runs[~study.runs["done"]]
    if without.empty:
        return []
    reasons = "; ".join(f"{count} {reason}" for reason, count in without["reason"].value_counts().sort_index().items())
    lines = without["command"] + "  # " + without["run_id"] + ", " + without["reason"]
    return [
        f"<h3>What is missing</h3><p>{escape(f'{len(without)} of {len(study.runs)} runs: {reasons}.')}</p>",
        f"<details><summary>Commands</summary><pre>{escape(chr(10).join(lines))}</pre></details>",
    ]


def _commands(study: Study) -> list[str]:
    """What computes each finished run again."""
    lines = study.done["command"] + "  # " + study.done["run_id"]
    if lines.empty:
        return []
    title = f"Commands of the {len(lines)} finished runs"
    return [f"<details><summary>{title}</summary><pre>{escape(chr(10).join(lines))}</pre></details>"]


def _provenance(study: Study) -> list[str]:
    """Which code, device, weights and data; no machine's name and no time."""
    done = study.done
    if done.empty:
        return []
    rows = [("manifest", f"studies/{study.key}.json"), ("fixed", ", ".join(f"{k}={v}" for k, v in study.fixed.items()))]
    rows += [(f"axis {axis}", ", ".join(map(str, values))) for axis, values in study.axes.items()]
    columns = {"code": "provenance.git", "device": "provenance.device", "precision": "precision"}
    columns |= {"weights": "weights.sha256", "data sha256": "data.sha256"}
    rows += [(name, _counted(done[column])) for name, column in columns.items() if column in done]
    versions = pd.DataFrame([study.records[run_id]["provenance"]["versions"] for run_id in done["run_id"]])
    rows += [(name, _counted(versions[name])) for name in versions]
    cells = "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in rows if value)
    table = f'<div class="scroll"><table class="plain"><tbody>{cells}</tbody></table></div>'
    return ["<details><summary>Provenance</summary>", table, "</details>"]


def _counted(values: Iterable[object]) -> str:
    counts = pd.Series(values, dtype=object).fillna("not recorded").astype(str).value_counts().sort_index()
    return "; ".join(f"{value} ({count} runs)" for value, count in counts.items())
