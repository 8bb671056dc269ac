"""The first page of a results folder: the finding in a sentence, the main table, the pictures, the way to the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from experiments import conditions
from experiments.conditions import conditions_table, described
from experiments.labels import in_words
from experiments.study import Study
from experiments.tables import EMPTY, Artefact, Figure, Table, pipes

if TYPE_CHECKING:
    from experiments.overview import Overview

ORDER = ("main_table", "rank_budget", "threshold", "rank_map")  # stand first, in this order
LAST = ("efficiency", "fidelity", "seeds", "learning_rate", "runs")  # and these last
PICTURES = ("learning_curves", "ranks_", "gate_", "score_by_rate_and")  # beginnings of names; shown on the first page


@dataclass(frozen=True)
class Section:
    """A study with what was made of it; ``svgs``: figure name -> its file's content."""

    study: Study
    title: str
    artefacts: Sequence[Artefact]
    svgs: Mapping[str, bytes]

    @property
    def heading(self) -> str:
        """Title, backbone and tasks: ``Threshold ξ (Table 6), minilm-l6, STS-B``."""
        tasks = [in_words(task) for task in self.study.tasks]
        about = [
            ", ".join(map(str, self.study.values("backbone"))),
            ", ".join(tasks) if len(tasks) < 4 else f"{len(tasks)} tasks",
        ]
        return ", ".join(filter(None, (self.title, *about)))

    @property
    def coverage(self) -> str:
        """``25 of 25 runs``."""
        return f"{int(self.study.runs['done'].sum())} of {len(self.study.runs)} runs"


def in_order(sections: Sequence[Section]) -> list[Section]:
    """The main table first, what explains no result last."""
    places = {name: place for place, name in enumerate([*ORDER, "", *LAST])}
    return sorted(sections, key=lambda section: places.get(section.study.name, len(ORDER)))


def headings(sections: Sequence[Section]) -> dict[str, str]:
    """The heading of each study by its key; of those that would be equal, with the first settings that differ."""
    studies = [section.study for section in sections]
    found = pd.Series([section.heading for section in sections], [study.key for study in studies], dtype=object)
    for key in dict.fromkeys(key for study in studies for key in (*study.axes, *study.fixed)):
        words = [", ".join(map(str, study.axes.get(key, [study.fixed.get(key, EMPTY)]))) for study in studies]
        setting = pd.Series(words, found.index, dtype=object)
        differ = setting.groupby(found).transform("nunique") > 1
        found = found.where(~differ, found + f", {key} " + setting)
    alike = found.duplicated(keep=False)
    return found.where(~alike, found + ", " + pd.Series([study.hash for study in studies], found.index)).to_dict()


def caution(sections: Sequence[Section]) -> str:
    """What must be known before anything is compared, of the main tables, or of all runs where there is none."""
    studies = [section.study for section in sections]
    studies = [study for study in studies if study.name == "main_table"] or studies
    words = conditions.caution(pd.concat([study.runs for study in studies], ignore_index=True)) if studies else ""
    return f"Read comparisons of methods here with care. {words}" if words else ""


def page(
    sections: Sequence[Section], overview: Overview, claims: Table | None, problems: Sequence[str], published: str
) -> str:
    """results/README.md."""
    lines = ["# Results", ""]
    warning = caution(sections)
    if warning:  # above what it is about
        lines += [f"**{warning}**", ""]
    if overview.headline:
        lines += [overview.headline if warning else f"**{overview.headline}**", ""]
    lines.append("Written by `make tables` from `records/` and `studies/`; every run is a row of [runs.csv](runs.csv).")
    for section, table in _first_tables(sections):
        link = f"[All of its tables](tables/{section.study.key}/README.md)."
        lines += ["", f"## {section.heading}", "", _once(table.show), "", f"{table.caption} {link}", ""]
        trained = conditions_table(section.study).drop(columns="chosen before by", errors="ignore")
        lines += [_once(trained), "", described(section.study)]
    pictures = [("overview", figure) for figure in overview.figures]
    pictures += [
        (section.study.key, figure)
        for section in sections
        for figure in section.artefacts
        if isinstance(figure, Figure) and figure.name.startswith(PICTURES)
    ]
    for folder, figure in pictures:
        lines += ["", f"![{figure.title}](figures/{folder}/{figure.name}.png)", "", f"{figure.title}. {figure.caption}"]
    if sections:
        lines += ["", "## All studies", ""]
        names = headings(sections)
        lines += [
            f"- [{names[each.study.key]}](tables/{each.study.key}/README.md): {each.coverage}" for each in sections
        ]
    if claims is not None:
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in claims.data["verdict"].value_counts().items())
        lines += [f"- [{claims.title}](tables/claims/README.md): {verdicts}"]
    if problems:
        lines += ["", "## Files that could not be used", "", *(f"- {problem}" for problem in problems)]
    return "\n".join([*lines, "", published, ""])


def _first_tables(sections: Sequence[Section]) -> list[tuple[Section, Table]]:
    """The main tables; where there is none the first table of every study that has a run."""
    begun = [section for section in sections if len(section.study.done)]
    main = [section for section in begun if section.study.name == "main_table"]
    return [
        (section, table)
        for section in main or begun
        for table in [each for each in section.artefacts if isinstance(each, Table)][:1]
    ]


def _once(show: pd.DataFrame) -> str:
    """A pipe table that names a task in its first row alone."""
    if "task" in show:
        show = show.assign(task=show["task"].where(show["task"] != show["task"].shift(), ""))
    return pipes(show)
