"""From measurements to ratios, and the table: pure functions of the JSON that is kept (torch-free)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmark.cases import FLOOR, OURS, TRAINER, Section
from benchmark.measure import Result

SCHEMA = 1
REFERENCES = {  # column of ratios -> how the label of its reference starts
    "speed / Trainer": (TRAINER, "Trainer"),
    "speed / ours solo": (OURS,),
    "time / frozen": (FLOOR,),
}


def section(found: Section, results: Sequence[Result]) -> dict[str, Any]:
    """A measured section as JSON; without ``results`` one that was not measured."""
    rows = [
        asdict(result.case) | {key: value for key, value in asdict(result).items() if key != "case"}
        for result in results
    ]
    return {"title": found.title, "device": found.device, "rows": rows or [asdict(case) for case in found.cases]}


def rates(row: Mapping[str, Any]) -> list[float]:
    """Examples a second of every turn, all replicas counted; [] where nothing was measured."""
    examples = row.get("steps", 0) * row["batch"] * row["replicas"]
    return [examples / seconds for seconds in row.get("seconds", [])]


def ratios(row: Mapping[str, Any], reference: Mapping[str, Any]) -> list[float]:
    """Speed of ``row`` over that of ``reference``, turn by turn: both of a round saw the machine in one state."""
    return [own / other for own, other in zip(rates(row), rates(reference), strict=False)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """``1.24 [1.20-1.31]``: median and range; a dash without values."""
    if not values:
        return "–"
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} [{low:.{digits}f}-{high:.{digits}f}]"


def markdown(report: Mapping[str, Any]) -> str:
    """The whole table: ratios first, then examples a second, time a step, peak memory."""
    where = report["provenance"]
    about = (
        f"{where['device']}, {where['cores']} cores, {where['threads']} threads; torch {where['versions']['torch']}; "
        f"commit {where['git'] or 'unknown'}; {where['started']}."
    )
    lines = ["# Benchmark", "", f"    {where['command']}", "", about, "", LEGEND]
    if report["quick"]:
        lines += ["", "**A quick run, one short turn each: it shows that everything runs, not what it costs.**"]
    for each in report["sections"]:
        lines += ["", f"## {each['title']} ({'GPU' if each['device'] == 'cuda' else 'CPU'})", ""]
        lines += _table(each["rows"]) if any("seconds" in row for row in each["rows"]) else ["Not measured."]
    if report["startup"]:
        lines += ["", "## Start-up", "", "| command | seconds |", "|---|---|"]
        lines += [f"| `{command}` | {spread(seconds)} |" for command, seconds in report["startup"].items()]
    return "\n".join(lines) + "\n"


LEGEND = (
    "Median and range over turns; on a CPU all contestants of a section are alive at once and take turns of equally "
    "many steps, on a GPU they come one after another. "
    "Speed is examples a second, of all runs of a pack; a ratio compares two contestants turn by turn. `Trainer` is "
    "the Hugging Face Trainer (with peft's adapter), `frozen` the bare backbone, forward and backward, on our batches."
)


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = {title: found for title, starts in REFERENCES.items() if (found := _reference(rows, starts)) is not None}
    head = [*columns, "examples / s", "ms / step", "peak MB"]
    lines = [f"| | {' | '.join(head)} |", f"|---|{'---:|' * len(head)}"]
    for row in rows:
        if row.get("error"):
            lines.append(f"| {row['label']} | {' | '.join(['–'] * (len(head) - 1))} | {row['error']} |")
            continue
        shown = []
        for title, reference in columns.items():
            compared = ratios(reference, row) if title.startswith("time") else ratios(row, reference)
            shown.append("–" if reference is row else spread(compared))
        steps = [1000 * seconds / row["steps"] for seconds in row["seconds"]]
        shown += [spread(rates(row), 1), spread(steps, 1), f"{row['peak_bytes'] / 2**20:,.0f}"]
        lines.append(f"| {row['label']} | {' | '.join(shown)} |")
    return lines


def _reference(rows: Sequence[Mapping[str, Any]], starts: Sequence[str]) -> Mapping[str, Any] | None:
    """The measured row with that label, alone or with what follows in brackets."""
    for row in rows:
        if row.get("seconds") and row["label"].partition(" (")[0] in starts:
            return row
    return None
