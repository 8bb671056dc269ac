"""The first page of a results folder: the finding in a sentence, the main table, the pictures, the way to the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from experiments import primary
from experiments.constant_answer import NAME as CONSTANT
from experiments.labels import TASKS
from experiments.study import Study
from experiments.tables import SIGNED, Artefact, Figure, Table, counts, pipes, size


@dataclass(frozen=True)
class Section:
    """A study with what was made of it; ``svgs``: figure name -> its file's content."""

    study: Study
    title: str
    artefacts: Sequence[Artefact]
    svgs: Mapping[str, bytes]

    def table(self, name: str) -> pd.DataFrame | None:
        """The numbers of a table, or None."""
        return next((each.data for each in self.artefacts if isinstance(each, Table) and each.name == name), None)

    @property
    def heading(self) -> str:
        """Title, backbone and tasks: ``Threshold ξ (Table 6), minilm-l6, STS-B``."""
        tasks = [TASKS.get(task, task) for task in self.study.tasks]
        about = [
            ", ".join(map(str, self.study.values("backbone"))),
            ", ".join(tasks) if len(tasks) < 4 else f"{len(tasks)} tasks",
        ]
        return ", ".join(filter(None, (self.title, *about)))

    @property
    def coverage(self) -> str:
        """``25 of 25 runs``."""
        return f"{int(self.study.runs['done'].sum())} of {len(self.study.runs)} runs"


def page(sections: Sequence[Section], claims: Table | None, problems: Sequence[str], published: str) -> str:
    """results/README.md."""
    main = [section for section in sections if section.study.name == "main_table" and section.study.runs["done"].any()]
    lines = [
        "# Results",
        "",
        "Written by `make tables` from `records/` and `studies/`; every run is a row of [runs.csv](runs.csv).",
    ]
    for section in main:
        lines += ["", f"## {section.heading}", "", finding(section), "", pipes(main_table(section).show), ""]
        caption = main_table(section).caption if "arm" in section.study.runs else CAPTION
        lines.append(f"{caption} More: [all of it](tables/{section.study.key}/README.md).")
    pictures = [
        (section, figure)
        for section in (main or sections)
        for figure in section.artefacts
        if isinstance(figure, Figure)
    ]
    for section, figure in pictures:
        lines += [
            "",
            f"![{figure.title}](figures/{section.study.key}/{figure.name}.png)",
            "",
            f"{figure.title}. {figure.caption}",
        ]
    if sections:
        lines += ["", "## All studies", ""]
        lines += [
            f"- [{section.heading}](tables/{section.study.key}/README.md): {section.coverage}" for section in sections
        ]
    if claims is not None:
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in claims.data["verdict"].value_counts().items())
        lines += [f"- [{claims.title}](tables/claims/README.md): {verdicts}"]
    if problems:
        lines += ["", "## Files that could not be used", "", *(f"- {problem}" for problem in problems)]
    return "\n".join([*lines, "", published, ""])


def finding(section: Section) -> str:
    """SoRA against LoRA in one sentence, from the comparisons; nothing where there are none."""
    if "arm" in section.study.runs:
        sentence = primary.headline(section.study)
        return f"**{sentence}**" if sentence else ""
    found, scores = section.table("comparisons"), section.table("main_table")
    if found is None or scores is None:
        return ""
    pair = found[(found["baseline"] == "LoRA") & (found["method"] == "SoRA")]
    if pair.empty:
        return ""
    of_tasks = pair[pair["metric"] != "average"]
    counts = [f"{word} on {int((of_tasks['verdict'] == word).sum())}" for word in ("better", "worse", "not resolved")]
    live = scores.set_index("method")["live parameters"]
    words = f"SoRA against LoRA on {len(of_tasks)} tasks: {', '.join(counts)}; "
    words += f"{100 * live['SoRA'] / live['LoRA']:.0f} % of LoRA's live parameters"
    mean = pair[pair["metric"] == "average"]
    if len(mean):
        row = mean.iloc[0]
        words += (
            f", {row['difference']:+.2f} points on average ({row['t interval']:+.2f} to {row['t interval high']:+.2f})"
        )
    return f"**{words}.**"


def main_table(section: Section) -> Table:
    """task, method, n, score, live parameters, minus LoRA with its interval and verdict: words, a row for each cell."""
    if "arm" in section.study.runs:
        (whole,) = [each for each in section.artefacts if isinstance(each, Table) and each.name == "main_table"]
        return whole
    details, scores, found = (section.table(name) for name in ("details", "main_table", "comparisons"))
    assert details is not None
    assert scores is not None
    rows = details.rename(columns={"metric": "task"})
    order = [*rows["task"].unique()]
    data = rows[["task", "method"]].assign(n=rows["runs"]).assign(**{"n of": rows["runs of"]})
    data["score"], data["score sd"], data["live parameters"] = rows["selected"], rows["SD"], rows["live"]
    if "data dependence" in rows:
        data["data dependence"] = rows["data dependence"]
    if found is not None:
        pairs = found[found["baseline"] == "LoRA"].rename(columns={"metric": "task", "difference": "minus LoRA"})
        pairs = pairs.rename(columns={"t interval": "95 % interval", "t interval high": "95 % interval high"})
        columns = ["task", "method", "minus LoRA", "95 % interval", "95 % interval high", "verdict"]
        data = data.merge(pairs[columns], on=["task", "method"], how="left")
    data["remarks"] = rows["remarks"]
    constant = scores[scores["method"] == CONSTANT]
    if len(constant):
        first = [{"task": task, "method": CONSTANT, "score": constant[task].iloc[0]} for task in order]
        data = pd.DataFrame([*(row for row in first if pd.notna(row["score"])), *data.to_dict("records")])[[*data]]
    data = data.sort_values("task", key=lambda tasks: tasks.map(order.index), kind="stable", ignore_index=True)
    data[["n", "n of", "live parameters"]] = data[["n", "n of", "live parameters"]].apply(counts)
    formats = {"live parameters": size, "minus LoRA": SIGNED, "95 % interval": SIGNED}
    return Table("summary", section.heading, CAPTION, data, formats)


CAPTION = (
    "Score: mean ± population SD over seeds, points, report split. Minus LoRA: paired by seed; t interval over seeds "
    "(95 %), verdict also by the bootstrap over seeds and items, corrected after Holm."
)
