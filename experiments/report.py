"""One HTML file with everything: opens from disk, asks no server for anything, runs without a library."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experiments.conditions import conditions_table, described
from experiments.labels import ARMS, METHODS, in_words
from experiments.overview import Overview
from experiments.study import Study
from experiments.summary import Section, caution, headings
from experiments.tables import Figure, Table, numeric

FOLDED = ("details", "comparisons", "published", "levels", "paper")
WORDY = 28  # characters; a longer cell may break into lines
KINDS = {"better": "good", "holds": "good", "worse": "bad", "fails": "bad"}
STATES = {"done": "good", "bad": "bad", "open": "open"}


def page(
    sections: Sequence[Section],
    overview: Overview,
    problems: Sequence[str],
    published: str,
    claims: Table | None = None,
) -> str:
    """The whole file. ``published``: the note on published numbers. The template escapes all text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["attr_class"] = lambda kind: Markup(' class="{}"').format(kind) if kind else ""
    names = headings(sections)
    shown = [_section(section, names[section.study.key]) for section in sections]
    if claims is not None:
        nothing = dict.fromkeys(("commands", "conditions", "words", "provenance", "missing", "missing_words"))
        about = {"id": "claims", "heading": claims.title, "parts": [_table(claims) | {"title": "Claim by claim"}]}
        first = sum(section.study.name == "main_table" for section in sections)
        shown.insert(first, nothing | about)
    return environment.get_template("report.html.jinja").render(
        headline=overview.headline,
        caution=caution(sections),
        strip=_strip(overview.coverage),
        summary=_summary(sections),
        figures=[_figure(figure, overview.svgs[figure.name]) for figure in overview.figures],
        links=[(each["id"], each["heading"]) for each in shown],
        problems=problems,
        sections=shown,
        published=published,
    )


def _summary(sections: Sequence[Section]) -> str:
    if not sections:
        return "No study has a manifest here yet."
    done = sum(int(section.study.runs["done"].sum()) for section in sections)
    runs = sum(len(section.study.runs) for section in sections)
    studies = f"{len(sections)} {'study' if len(sections) == 1 else 'studies'}"
    return (
        f"Runs of each task and method that are done. {studies}, {done} of {runs} runs done. Scores are in points (100 "
        "times the metric). A click on a column's head sorts by it."
    )


def _strip(coverage: pd.DataFrame) -> dict[str, Any]:
    """Tasks by methods: how many runs are there, in words and a colour."""
    known = [*ARMS.values(), *METHODS.values()]
    methods = sorted(coverage["method"].unique(), key=lambda name: known.index(name) if name in known else len(known))
    rows = []
    for task, part in coverage.groupby("task", sort=False):
        cells = {row.method: {"text": row.words, "kind": STATES[str(row.state)]} for row in part.itertuples()}
        rows.append((in_words(str(task)), [cells.get(method, {"text": "", "kind": ""}) for method in methods]))
    return {"methods": methods, "rows": rows}


def _section(section: Section, heading: str) -> dict[str, Any]:
    study = section.study
    parts = [
        _table(each) if isinstance(each, Table) else {"figure": _figure(each, section.svgs[each.name])}
        for each in section.artefacts
    ]
    without = study.runs[~study.runs["done"]]
    reasons = "; ".join(f"{count} {reason}" for reason, count in without["reason"].value_counts().sort_index().items())
    return {
        "id": study.key,
        "heading": f"{heading} ({section.coverage})",
        "parts": parts,
        "commands": f"tables/{study.key}/runs.sh",
        "conditions": conditions_table(study) if len(study.done) else None,
        "words": described(study),
        "provenance": _provenance(study),
        "missing": "\n".join(without["command"] + "  # " + without["run_id"] + ", " + without["reason"]),
        "missing_words": f"{len(without)} of {len(study.runs)} runs: {reasons}.",
    }


def _table(table: Table) -> dict[str, Any]:
    kinds = ["number" if each else "" for each in numeric(table)]
    kinds = ["verdict" if name == "verdict" else kind for name, kind in zip(table.columns, kinds, strict=True)]
    keys = table.data[table.columns]
    rows = [
        [_cell(*each) for each in zip(row, key, kinds, strict=True)]
        for row, key in zip(table.show.itertuples(index=False), keys.itertuples(index=False), strict=True)
    ]
    return {
        "figure": None,
        "title": table.title,
        "caption": table.caption,
        "folded": table.name in FOLDED,
        "judged": "verdict" in kinds,
        "columns": [{"name": name, "kind": kind} for name, kind in zip(table.columns, kinds, strict=True)],
        "rows": rows,
        "notes": table.notes,
    }


def _cell(text: object, key: object, kind: str) -> dict[str, str]:
    words = str(text)
    if kind == "verdict":
        kind = f"verdict {KINDS.get(words.rpartition(': ')[2].partition(',')[0], 'open')}" if words.strip("–") else kind
    elif len(words) > WORDY and not kind:
        kind = "words"
    rounded = f"{key:.6g}" if isinstance(key, float) else str(key)  # so that the last bits of a sum change no byte
    return {"text": words, "key": "" if pd.isna(key) else rounded, "kind": kind}


def _figure(figure: Figure, svg: bytes) -> dict[str, Any]:
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"
    return {"title": figure.title, "caption": figure.caption, "source": source, "width": f"{figure.size[0]:g}"}


def _provenance(study: Study) -> pd.DataFrame:
    """Which code, device, weights and data; no machine's name and no time."""
    done = study.done
    rows = [("fixed", ", ".join(f"{k}={v}" for k, v in study.fixed.items()))]
    rows += [(f"axis {axis}", ", ".join(map(str, values))) for axis, values in study.axes.items()]
    columns = {"code": "provenance.git", "device": "provenance.device", "precision": "precision"}
    columns |= {"weights": "weights.sha256", "data sha256": "data.sha256"}
    rows += [(name, _counted(done[column])) for name, column in columns.items() if column in done]
    versions = pd.DataFrame([study.records[run_id]["provenance"]["versions"] for run_id in done["run_id"]])
    rows += [(name, _counted(versions[name])) for name in versions]
    return pd.DataFrame([row for row in rows if row[1]], columns=["what", "value"])


def _counted(values: Iterable[object]) -> str:
    counts = pd.Series(values, dtype=object).fillna("not recorded").astype(str).value_counts().sort_index()
    return "; ".join(f"{value} ({count} runs)" for value, count in counts.items())
