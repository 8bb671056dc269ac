"""The rows that most studies are made of: one setting, its groups by task, and the tables and figures of such rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from experiments import published
from experiments.artefacts import EMPTY, Cell, Table, Value, number, text
from experiments.captions import caption, learning_rates, peak_learning_rates
from experiments.columns import Column, columns
from experiments.groups import Group, chosen, params_cell, score_cell
from experiments.items import ItemScores
from experiments.study import Study, commands, configured
from sora import stats


@dataclass(frozen=True)
class Line:
    """One setting of a study.

    Attributes:
        labels: its cells on the left.
        method: its method. setting: the key of its published numbers, such as ``method.r=8``.
        groups: task -> its runs.
    """

    labels: tuple[Cell, ...]
    method: str
    setting: str | None = None
    groups: dict[str, Group] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its labels in one string."""
        return " ".join(cell.text for cell in self.labels)

    def live(self) -> float:
        """Live parameters, averaged over tasks; NaN without a record."""
        values = [value for group in self.groups.values() if not math.isnan(value := group.live())]
        return stats.mean(values) if values else math.nan


def tasks(study: Study) -> list[str]:
    """The tasks of the study, in the order of its sweep."""
    return [str(task) for task in study.values("task")]


def lines(study: Study, *axes: str) -> dict[tuple[object, ...], dict[str, Group]]:
    """Values on ``axes`` -> task -> the group that stands for them (:func:`experiments.groups.chosen`)."""
    result: dict[tuple[object, ...], dict[str, Group]] = {}
    for (*key, task), runs in study.groups(*axes, "task").items():
        by = _selector(study, str(task))
        result.setdefault(tuple(key), {})[str(task)] = chosen(study, runs, by, *axes, "task")
    return result


def _selector(study: Study, task: str) -> Column:
    """The metric by which settings of a task are compared: the one that chose the checkpoint."""
    for run in study.runs:
        if run.record is not None and run.record["config"]["task"]["name"] == task:
            return Column(task, str(configured(run.record, "task.select_metric")))
    return columns(study, task)[0]


def every_group(rows: Sequence[Line]) -> list[Group]:
    """All groups of the rows."""
    return [group for row in rows for group in row.groups.values()]


def score_table(study: Study, name: str, title: str, heads: Sequence[str], rows: Sequence[Line], *words: str) -> Table:
    """Labels, live parameters, a column for each number of each task, and the average of the tasks.

    ``words``: sentences at the head of the caption.
    """
    wide = [column for task in tasks(study) for column in columns(study, task)]
    cells = []
    for row in rows:
        scores = [score_cell(row.groups.get(column.task), column) for column in wide]
        cells.append([*row.labels, params_cell(row.live()), *scores, average_cell(study, row)])
    groups = every_group(rows)
    told = (
        *words,
        "Mean ± population SD over seeds, in points, of the selected weights on the report split; (n/m): n of m runs.",
        "Average: over tasks, two numbers of one task averaged first.",
        "Live parameters: sum of r (in + out) over the adapted matrices, or what trains outside the head, of the "
        "selected weights, which may be from before the last rank went.",
        learning_rates(groups),
    )
    return Table(
        name=name,
        title=title,
        caption=caption(study, *filter(None, told), groups=groups),
        columns=[*heads, "live parameters", *(column.label for column in wide), "average"],
        rows=cells,
    )


def average_cell(study: Study, row: Line) -> Cell:
    """Mean over the tasks of the study; empty unless every task has a score."""
    means = []
    for task in tasks(study):
        group = row.groups.get(task)
        if group is None:
            return Cell(EMPTY)
        means.append(stats.mean([group.mean(column) for column in columns(study, task)]))
    value = stats.mean(means)
    if math.isnan(value):
        return Cell(EMPTY)
    runs = sum(len(group.runs) for group in row.groups.values())
    done = sum(len(group.records) for group in row.groups.values())
    return Cell(f"{value:.2f}" + (f" ({done}/{runs})" if done < runs else ""), round(value, 6))


def detail_table(
    study: Study, name: str, heads: Sequence[str], rows: Sequence[Line], items: dict[Column, ItemScores]
) -> Table:
    """Everything about each cell: both SDs, selected and last weights, both intervals, parameters."""
    cells = []
    for row in rows:
        for task, group in row.groups.items():
            for column in columns(study, task):
                cells.append([*row.labels, text(column.label), *_details(group, column, items.get(column))])
    return Table(
        name=name,
        title="Details of each cell",
        caption=caption(
            study,
            "Scores in points. Intervals: 95 %; bootstrap over seeds and items, t over seeds only (docs/statistics.md "
            "says how often they cover). Select - report: difference of the two scores of the selected weights: "
            "optimism about the choice among them and, where the splits are of two files, the difference of those.",
            groups=every_group(rows),
        ),
        columns=[
            *heads,
            "metric",
            "runs",
            "selected",
            "SD",
            "sample SD",
            "bootstrap interval",
            "t interval",
            "last",
            "last SD",
            "select - report",
            "live",
            "trainable",
            "peak learning rate",
            "trials in this study",
            "remarks",
        ],
        rows=cells,
    )


def _details(group: Group, column: Column, items: ItemScores | None) -> list[Cell]:
    found, last = group.scores(column), group.scores(column, "last")
    runs = Cell(group.coverage, len(group.records), {"of": len(group.runs)}, commands(group.runs))
    remarks = text(", ".join(group.remarks())) if group.remarks() else Cell(EMPTY)
    if not found:
        return [runs, *[Cell(EMPTY)] * 12, remarks]
    select = group.mean(Column(column.task, column.metric, "select"))
    ahead = select - stats.mean(found) if column.split == "report" else math.nan
    trainable = stats.mean([record["params"]["trainable"] for record in group.records])
    return [
        runs,
        number(stats.mean(found)),
        number(stats.population_sd(found)),
        number(stats.sample_sd(found)),
        interval_cell(items.interval(group) if items is not None else None),
        interval_cell(stats.t_interval(found)),
        number(stats.mean(last)) if last else Cell(EMPTY),
        number(stats.population_sd(last)) if last else Cell(EMPTY),
        number(ahead, sign=True),
        params_cell(group.live()),
        params_cell(trainable),
        text(", ".join(f"{rate:g}" for rate in peak_learning_rates(group))),
        Cell(str(group.trials), group.trials),
        remarks,
    ]


def interval_cell(interval: stats.Interval | None, sign: bool = False) -> Cell:
    """``84.20 to 86.44``; sorted by its lower end."""
    if interval is None:
        return Cell(EMPTY)
    form = "+.2f" if sign else ".2f"
    extra: dict[str, Value] = {"high": round(interval.high, 6)}
    return Cell(f"{interval.low:{form}} to {interval.high:{form}}", round(interval.low, 6), extra)


def published_table(
    study: Study, name: str, heads: Sequence[str], rows: Sequence[Line], sources: Sequence[tuple[str, str]]
) -> Table | None:
    """Published numbers beside ours, with the difference; None where nothing was published on these settings.

    ``sources``: (source, table) as in results/published.
    """
    cells, any_of_ours = [], False
    for row in rows:
        for task, group in row.groups.items():
            for column in columns(study, task):
                for source, table in sources:
                    theirs = published.lookup(source, table, row.method, column, row.setting)
                    if theirs is None:
                        continue
                    mean = group.mean(column)
                    any_of_ours |= not math.isnan(mean)
                    printed = f"{theirs.mean:.2f}" + (f" ± {theirs.sd:.2f}" if theirs.sd is not None else "")
                    cells.append(
                        [
                            *row.labels,
                            text(column.label),
                            score_cell(group, column),
                            Cell(printed, theirs.mean, {"sd": theirs.sd}),
                            number(mean - theirs.mean, sign=True),
                            params_cell(group.live()),
                            text(theirs.params or EMPTY),
                            text(theirs.where),
                        ]
                    )
    if not cells:
        return None
    return Table(
        name=name,
        title="Beside published numbers",
        caption=caption(
            study, "Points. Difference: ours minus published.", *_unlike(study, sources), groups=every_group(rows)
        ),
        columns=[
            *heads,
            "metric",
            "ours",
            "published",
            "difference",
            "our live parameters",
            "printed parameters",
            "source",
        ],
        rows=cells,
    )


def _unlike(study: Study, sources: Sequence[tuple[str, str]]) -> list[str]:
    """Why the published numbers are not like for like with ours."""
    reasons = []
    records = [run.record for run in study.runs if run.record is not None]
    backbones = {str(backbone) for backbone in study.values("backbone")} | {
        str(record["config"]["backbone"]["name"]) for record in records
    }
    if others := sorted(backbones - {published.BACKBONE}):
        reasons.append(f"ours are on {', '.join(others)}, theirs on {published.BACKBONE}")
    if any(configured(record, "trainer.max_steps") is not None for record in records):
        reasons.append("ours were stopped early")
    protocols = {record["config"]["protocol"]["name"] for record in records}
    if protocols - {"paper"}:
        reasons.append("the protocol is not the SoRA paper's")
    if "paper" in protocols and any(source == "adalora" for source, _ in sources):
        reasons.append("the AdaLoRA paper reports on the whole validation set")
    return [f"Not like for like: {'; '.join(reasons)}."] if reasons else []
