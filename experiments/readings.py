"""SoRA's two readings, each with a head that trains and a frozen one: the grid of conf/experiment/fidelity.yaml."""

from __future__ import annotations

from experiments.artefacts import Artefact, text
from experiments.comparisons import comparison_table
from experiments.lines import Line, detail_table, lines, score_table
from experiments.main_table import resampled
from experiments.study import Study

HEADS = ("reading", "head")


def build(study: Study) -> list[Artefact]:
    """Scores, the paper's reading against the authors' with the same head, details."""
    rows = [
        Line((text(reading), text(head)), "sora", None, groups)
        for (reading, head), groups in lines(study, "method.fidelity", "head").items()
    ]
    items = resampled(study, rows)
    families = [
        (authors, [row for row in rows if row.labels[0].text == "paper" and row.labels[1] == authors.labels[1]])
        for authors in rows
        if authors.labels[0].text == "authors"
    ]
    found = [
        score_table(study, "fidelity", "Scores by reading", HEADS, rows, "Readings: method.fidelity."),
        comparison_table(study, families, items),
        detail_table(study, "details", HEADS, rows, items),
    ]
    return [artefact for artefact in found if artefact is not None]
