"""One grid of learning rates for every method: the best of each, and what it takes to find it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from experiments.artefacts import EMPTY, Artefact, Cell, Figure, Table, number, text
from experiments.captions import caption
from experiments.columns import Column, columns, method_label
from experiments.figures import legend_below, line, log_scale, panels, tiling
from experiments.groups import Group, score, score_cell
from experiments.lines import lines, tasks
from experiments.study import Definition, Run, Study, configured
from sora import stats
from sora.errors import UserError

AXIS = "trainer.learning_rate"
ELSEWHERE = ("seed", "seeds", "protocol", AXIS)  # of a record's configuration: told apart by name, or what is tried
TRIALS = (1, 2, 4, 8, 16)
Groups = Mapping[tuple[object, ...], Mapping[str, Group]]


def build(study: Study) -> list[Artefact]:
    """The grid, the best of each method, expected maxima, and two figures."""
    groups = lines(study, "method", AXIS)
    methods = list(dict.fromkeys(str(method) for method, _ in groups))
    found = [
        _best(study, groups, methods),
        _grid(study, groups),
        _expected(study, methods),
        _curves(study, groups, methods),
        _maxima(study, methods),
    ]
    return [artefact for artefact in found if artefact is not None]


@dataclass(frozen=True)
class Choice:
    """What a grid says of a method on a task: ``means``, learning rate -> mean on the select split, in points."""

    method: str
    task: str
    means: Mapping[float, float]
    seeds: tuple[object, ...]
    protocol: str = "holdout"  # whose select split it was
    budget: Mapping[str, object] = field(default_factory=dict)  # whatever else decides a score: key -> value

    @property
    def rate(self) -> float:
        """The best; of equals the first that was tried."""
        return max(self.means, key=lambda rate: self.means[rate])

    @property
    def at_the_edge(self) -> bool:
        """Whether a rate beyond the grid may be better still."""
        return len(self.means) > 1 and self.rate in (min(self.means), max(self.means))


def choices(study: Study) -> list[Choice]:
    """The best learning rate of each method on each task.

    Raises UserError where a run of the grid has no score yet: the best of a part is not the best.
    """
    groups = lines(study, "method", AXIS)
    found = []
    for method in dict.fromkeys(str(method) for method, _ in groups):
        for task in tasks(study):
            column = columns(study, task)[0]
            select = Column(task, column.metric, "select")
            tried = {float(str(rate)): each[task] for (name, rate), each in groups.items() if name == method}
            for rate, group in tried.items():
                if not group.complete or len(group.scores(select)) < len(group.runs):
                    first = next((f"run {run.command}" for run in group.runs if run.record is None), "others diverged")
                    raise UserError(
                        f"{study.key}: {group.coverage} runs of {method} on {task} at {rate:g} are there; {first}"
                    )
            means = {rate: group.mean(select) for rate, group in tried.items()}
            record = group.runs[0].record
            protocol = str(configured(record, "protocol")) if record else ""
            budget = dict(_settings(record["config"])) if record else {}
            found.append(Choice(method, task, means, tuple(study.values("seed")), protocol, budget))
    return found


def _settings(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """``trainer.max_steps`` and the like with their values, but for what is ``ELSEWHERE``."""
    for name, value in config.items():
        key = f"{above}{name}"
        if key in ELSEWHERE:
            continue
        if isinstance(value, Mapping):
            yield from _settings(value, f"{key}.")
        else:
            yield key, value


def _rates(groups: Groups, method: str) -> list[float]:
    return [float(str(rate)) for name, rate in groups if name == method]


def _best(study: Study, groups: Groups, methods: Sequence[str]) -> Table:
    rows = []
    for method in methods:
        for task in tasks(study):
            column = columns(study, task)[0]
            select = Column(task, column.metric, "select")
            tried = {float(str(r)): g[task] for (m, r), g in groups.items() if m == method and task in g}
            whole = {rate: each for rate, each in tried.items() if len(each.scores(select)) == len(each.runs)}
            known = {rate: group.mean(select) for rate, group in whole.items()}
            missing = tuple(command for group in tried.values() for command in score_cell(group, column).commands)
            labels = [text(method_label(method)), text(column.label)]
            if not known:
                rows.append([*labels, Cell(f"0/{len(tried)}", 0, {}, missing), *[Cell(EMPTY)] * 4])
                continue
            choice = Choice(method, task, known, tuple(study.values("seed")))
            best = choice.rate
            rows.append(
                [
                    *labels,
                    Cell(f"{len(known)}/{len(tried)}", len(known), {"of": len(tried)}, missing),
                    Cell(f"{best:g}", best),
                    number(known[best]),
                    score_cell(tried[best], column),
                    text("at the edge of the grid" if choice.at_the_edge else ""),
                ]
            )
    grids = {tuple(sorted(_rates(groups, method))) for method in methods}
    same = "All methods have the same grid." if len(grids) == 1 else "The methods do not have the same grid."
    return Table(
        name="learning_rate",
        title="Best learning rate of each method",
        caption=caption(
            study,
            "The learning rate with the best mean on the select split, and its score on the report split (points, mean "
            "± population SD over seeds). Learning rates: those of which every seed has a score, of those planned; "
            "another study of the same task may have tried more.",
            same,
        ),
        columns=["method", "metric", "learning rates", "best", "select", "report", "remark"],
        rows=rows,
    )


def _grid(study: Study, groups: Groups) -> Table:
    wide = [columns(study, task)[0] for task in tasks(study)]
    rows = [
        [
            text(method_label(str(method))),
            Cell(f"{float(str(rate)):g}", float(str(rate))),
            *(score_cell(by_task.get(column.task), column) for column in wide),
        ]
        for (method, rate), by_task in groups.items()
    ]
    return Table(
        name="grid",
        title="Every learning rate",
        caption=caption(study, "Report split, points, mean ± population SD over seeds, of the selected weights."),
        columns=["method", "learning rate", *(column.label for column in wide)],
        rows=rows,
    )


def trials(study: Study, method: str, column: Column) -> list[tuple[float, float]]:
    """(select, report) in points of every run of a method on a task: one learning rate with one seed is one trial."""
    select = Column(column.task, column.metric, "select")
    found = []
    for run in study.runs:
        if study.value(run, "method") == method and study.value(run, "task") == column.task:
            pair = _pair(run, select, column)
            if pair is not None:
                found.append(pair)
    return sorted(found)


def _pair(run: Run, select: Column, report: Column) -> tuple[float, float] | None:
    if run.record is None:
        return None
    a, b = score(run.record, select), score(run.record, report)
    return None if a is None or b is None else (a, b)


def expected(found: Sequence[tuple[float, float]], count: int) -> tuple[float, float]:
    """Expected select score of the best of ``count`` trials, and the report score that comes with it.

    ``found``: (select, report) sorted by select. Trials of equal select scores are chosen from at random: each stands
    for the mean of their report scores.
    """
    weights = stats.best_of(len(found), count)
    ties: dict[float, list[float]] = {}
    for select, report in found:
        ties.setdefault(select, []).append(report)
    pairs = [(select, stats.mean(ties[select])) for select, _ in found]
    best, with_it = (math.fsum(weights * each) for each in np.asarray(pairs).T)  # @ rounds as the processor likes
    return best, with_it


def _expected(study: Study, methods: Sequence[str]) -> Table:
    rows = []
    for method in methods:
        for task in tasks(study):
            column = columns(study, task)[0]
            found = trials(study, method, column)
            counts = [count for count in TRIALS if count <= len(found)]
            for count in dict.fromkeys([*counts, *([len(found)] if found else [])]):
                select, report = expected(found, count)
                rows.append(
                    [
                        text(method_label(method)),
                        text(column.label),
                        Cell(str(count), count),
                        number(select),
                        number(report),
                        number(select - report, sign=True),
                    ]
                )
    return Table(
        name="expected_maximum",
        title="Expected maximum by number of trials",
        caption=caption(
            study,
            "A trial is one learning rate with one seed, drawn with replacement from those made (Dodge et al. 2019). "
            "Select: expected best score on the select split, points. Report: the score on the report split of the "
            "trial that is best on the select split. Select - report: their difference.",
        ),
        columns=["method", "metric", "trials", "select", "report", "select - report"],
        rows=rows,
    )


def _curves(study: Study, groups: Groups, methods: Sequence[str]) -> Figure | None:
    curves: dict[Column, dict[str, list[tuple[float, float, float]]]] = {}
    for (method, rate), by_task in groups.items():
        for task, group in by_task.items():
            column = columns(study, task)[0]
            scores = group.scores(column)
            if scores:
                point = (float(str(rate)), stats.mean(scores), stats.population_sd(scores))
                curves.setdefault(column, {}).setdefault(str(method), []).append(point)
    if not curves:
        return None

    def draw(canvas: Canvas) -> None:
        for axis, by_method in zip(panels(canvas, [c.label for c in curves]), curves.values(), strict=True):
            for method, points in by_method.items():
                x, y, sd = (list(each) for each in zip(*sorted(points), strict=True))
                style = line(method)
                axis.plot(x, [round(each, 3) for each in y], label=method_label(method), **style)
                low, high = ([round(m + s * d, 3) for m, d in zip(y, sd, strict=True)] for s in (-1, 1))
                axis.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
            log_scale(axis, sorted({point[0] for points in by_method.values() for point in points}))
            axis.set_xlabel("peak learning rate")
            axis.set_ylabel("score (points)")
        legend_below(canvas)

    words = "Report split, selected weights: mean over seeds, band: one population SD."
    return _figure(study, "score_by_learning_rate", "Score by learning rate", words, draw, len(curves))


def _maxima(study: Study, methods: Sequence[str]) -> Figure | None:
    curves: dict[Column, dict[str, list[tuple[int, float]]]] = {}
    for task in tasks(study):
        column = columns(study, task)[0]
        for method in methods:
            found = trials(study, method, column)
            points = [(count, expected(found, count)[0]) for count in range(1, len(found) + 1)]
            if points:
                curves.setdefault(column, {})[method] = points
    if not curves:
        return None

    def draw(canvas: Canvas) -> None:
        for axis, by_method in zip(panels(canvas, [c.label for c in curves]), curves.values(), strict=True):
            for method, points in by_method.items():
                x, y = zip(*((count, round(value, 3)) for count, value in points), strict=True)
                axis.plot(x, y, label=method_label(method), **(line(method) | {"marker": ""}))
            axis.set_xlabel("trials")
            axis.set_ylabel("expected best, select (points)")
        legend_below(canvas)

    words = "Expected best score on the select split (Dodge et al. 2019)."
    return _figure(
        study, "expected_maximum_by_trials", "Expected maximum by number of trials", words, draw, len(curves)
    )


def _figure(study: Study, name: str, title: str, words: str, draw: object, count: int) -> Figure:
    assert callable(draw)
    wide, high = tiling(count)
    size = (max(4.6, 2.3 * wide), 2.1 * high + 0.5)
    return Figure(name=name, title=title, caption=caption(study, words), draw=draw, size=size)


STUDY = Definition("learning_rate", "Learning rate: one grid for all methods", build)
