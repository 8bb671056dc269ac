"""The paper's Table 1: every method on every task, compared with LoRA and with fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from experiments.artefacts import Artefact, Figure, text
from experiments.captions import caption
from experiments.columns import Column, columns, method_label
from experiments.comparisons import against_baselines, comparison_table
from experiments.constant_answer import beside_constant_answer
from experiments.figures import legend_below, log_scale, look, panels, tiling
from experiments.items import ItemScores, item_scores
from experiments.lines import Line, detail_table, every_group, lines, published_table, score_table, tasks
from experiments.study import Definition, Study
from sora import stats

SOURCES = (("sora", "1"), ("adalora", "1"))
PANEL = (2.3, 2.1)  # inches


def build(study: Study) -> list[Artefact]:
    """Scores, their details, comparisons, published numbers, and score against live parameters."""
    rows = [
        Line((text(method_label(str(method))),), str(method), _setting(study, str(method)), groups)
        for (method,), groups in lines(study, "method").items()
    ]
    items = resampled(study, rows)
    found = [
        beside_constant_answer(study, score_table(study, "main_table", "Scores", ["method"], rows), rows, items),
        comparison_table(study, against_baselines(rows), items),
        score_figure(study, rows, items),
        published_table(study, "published", ["method"], rows, SOURCES),
        detail_table(study, "details", ["method"], rows, items),
    ]
    return [artefact for artefact in found if artefact is not None]


def _setting(study: Study, method: str) -> str | None:
    """The setting whose published numbers belong beside a method: its rank, where it has one."""
    ranks = {
        run.record["config"]["method"].get("r")
        for run in study.runs
        if run.record and study.value(run, "method") == method
    }
    if method not in ("lora", "adalora", "sora"):
        return None
    return f"method.r={ranks.pop()}" if len(ranks) == 1 else "method.r=8"


def resampled(study: Study, rows: Sequence[Line]) -> dict[Column, ItemScores]:
    """Scores on resampled items of all runs in the rows; computed once for the same runs."""
    chosen = {
        task: [run for row in rows if task in row.groups for run in row.groups[task].done] for task in tasks(study)
    }
    key = "items", tuple((task, *(run.run_id for run in runs)) for task, runs in chosen.items())
    if key not in study.memo:
        result: dict[Column, ItemScores] = {}
        for task, runs in chosen.items():
            result |= item_scores(study, columns(study, task), runs)
        study.memo[key] = result
    return dict(study.memo[key])


def score_figure(study: Study, rows: Sequence[Line], items: dict[Column, ItemScores]) -> Figure | None:
    """Score against live parameters, one panel per task; None without a score."""
    shown = [
        columns(study, task)[0]
        for task in tasks(study)
        if any(row.groups[task].scores(columns(study, task)[0]) for row in rows if task in row.groups)
    ]
    if not shown:
        return None
    points = [
        (row, column, row.groups[column.task].live(), row.groups[column.task].mean(column), _band(row, column, items))
        for column in shown
        for row in rows
        if column.task in row.groups and row.groups[column.task].scores(column)
    ]

    def draw(canvas: Canvas) -> None:
        axes = dict(zip(shown, panels(canvas, [column.label for column in shown]), strict=True))
        for row, column, live, mean, band in points:
            axis = axes[column]
            low, high = (mean - band.low, band.high - mean) if band is not None else (0.0, 0.0)
            axis.errorbar(
                [round(live, 1)],
                [round(mean, 3)],
                yerr=[[round(max(low, 0.0), 3)], [round(max(high, 0.0), 3)]],
                linestyle="none",
                capsize=2,
                label=row.name,
                **look(row.method),
            )
        for axis in axes.values():
            axis.margins(x=0.25)
            log_scale(axis)
            axis.set_xlabel("live parameters")
            axis.set_ylabel("score (points)")
        legend_below(canvas)

    wide, high = tiling(len(shown))
    return Figure(
        name="score_against_live_parameters",
        title="Score against live parameters",
        caption=caption(
            study,
            "Mean over seeds; bars: 95 % bootstrap over seeds and items, or t over seeds where a metric has no items. "
            "Live parameters on a log scale, without the head.",
            groups=every_group(rows),
        ),
        draw=draw,
        size=(max(4.6, PANEL[0] * wide), PANEL[1] * high + 0.5),
    )


def _band(row: Line, column: Column, items: dict[Column, ItemScores]) -> stats.Interval | None:
    group = row.groups[column.task]
    band = items[column].interval(group) if column in items else None
    return band or stats.t_interval(group.scores(column))


STUDY = Definition("main_table", "Main table: all methods on all tasks (Table 1)", build)
