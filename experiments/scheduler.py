"""Figure 2: memorization and generalization while the sparsifying scheduler (Algorithm 1) takes ranks away."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from experiments import published
from experiments.artefacts import EMPTY, Artefact, Cell, Figure, Table, number, text
from experiments.captions import caption
from experiments.columns import METRICS, task_label
from experiments.figures import legend_below, panels, tiling
from experiments.groups import params_cell
from experiments.levels import (
    SENTENCE,
    SHARES,
    Curve,
    Point,
    curves,
    draw_curve,
    interpolated,
    metric_of,
    scale,
    varied,
)
from experiments.study import Definition, Study
from sora import stats

PANEL = (3.0, 2.6)  # inches
KEPT = (99.0, 95.0, 90.0)  # percent of the dense model


def build(study: Study) -> list[Artefact]:
    """The figure, its numbers, and how small an adapter still keeps how much, beside what the paper says."""
    drawn = curves(study, lambda run: varied(study, run, "task", "method"))
    found: list[Artefact | None] = [figure(study, drawn), kept_table(study, drawn), levels_table(study, drawn)]
    return [artefact for artefact in [*found, paper_table(study, drawn)] if artefact is not None]


def _title(curve: Curve) -> str:
    return ", ".join(filter(None, (task_label(curve.task), curve.name)))


def figure(study: Study, drawn: Sequence[Curve]) -> Figure | None:
    """Both percentages over live parameters, a panel per task; None without a run."""
    shown = [curve for curve in drawn if curve.seeds]
    if not shown:
        return None

    def draw(canvas: Canvas) -> None:
        for curve, axis in zip(shown, panels(canvas, [_title(curve) for curve in shown], 3), strict=True):
            for style, share in enumerate(SHARES):
                draw_curve(axis, curve, share, share, style)
            scale(axis, [curve])
            axis.set_ylabel("% of the dense model")
        legend_below(canvas)

    wide, high = tiling(len(shown), 3)
    return Figure(
        name="memorization_and_generalization",
        title="Memorization and generalization under the scheduler (Figure 2)",
        caption=caption(
            study,
            "From right to left: the dense model, then level after level. Thick: mean over seeds at each level, with a "
            "band of one population SD; thin: the seeds. Live parameters on a log scale, without the head.",
            SENTENCE,
        ),
        draw=draw,
        size=(max(4.6, PANEL[0] * wide), PANEL[1] * high + 0.5),
    )


def kept_table(study: Study, drawn: Sequence[Curve]) -> Table:
    """The fewest live parameters that keep 99, 95 and 90 % of the dense model."""
    rows = []
    for curve in drawn:
        for share in SHARES:
            cells = [text(_title(curve)), text(share), curve.cell(), params_cell(curve.dense())]
            rows.append([*cells, *(_fewest(curve, share, percent) for percent in KEPT)])
    return Table(
        name="kept",
        title="How few parameters keep how much",
        caption=caption(
            study,
            "Fewest live parameters of a level whose mean over seeds, and that of every level before it, keeps the "
            "percentage; in brackets the share of the dense model's. – : no level but the dense one.",
            SENTENCE,
        ),
        columns=["task", "of", "runs", "dense", *(f"≥ {percent:.0f} %" for percent in KEPT)],
        rows=rows,
    )


def _fewest(curve: Curve, share: str, percent: float) -> Cell:
    found = math.nan
    for level, at_level in curve.levels():
        if level > 0 and not _mean(at_level, share) >= percent:
            break
        found = stats.mean([point.live for point in at_level]) if level > 0 else found
    if math.isnan(found) or not curve.dense():
        return Cell(EMPTY)
    cell = params_cell(found)
    return Cell(f"{cell.text} ({100 * found / curve.dense():.1f} %)", cell.value)


def _mean(at_level: Sequence[Point], share: str) -> float:
    values = [point.percent[share] for point in at_level]
    return stats.mean(values)


def levels_table(study: Study, drawn: Sequence[Curve]) -> Table:
    """Every level: its threshold, what lives, both percentages, the score on the report split, where ranks live."""
    rows = []
    for curve in drawn:
        for level, at_level in curve.levels():
            thresholds = sorted({point.threshold for point in at_level})
            live, dense = stats.mean([point.live for point in at_level]), curve.dense()
            rows.append(
                [
                    text(_title(curve)),
                    Cell(str(level), level),
                    Cell(", ".join(f"{value:.3g}" for value in thresholds), thresholds[0]),
                    Cell(f"{len(at_level)}/{len(curve.runs)}", len(at_level), {"of": len(curve.runs)}),
                    params_cell(live),
                    number(100 * live / dense if dense else None, 1),
                    *(_spread([point.percent[share] for point in at_level], 1) for share in SHARES),
                    _spread([point.report for point in at_level], 2),
                    *(number(100 * stats.mean([p.thirds[third] for p in at_level]), 0) for third in range(3)),
                ]
            )
    return Table(
        name="levels",
        title="Every level",
        caption=caption(
            study,
            "Mean ± population SD over the seeds that reached the level (n/m: n of m runs). ξ: threshold of the level "
            "at the peak learning rate. Live: sum of r (in + out) over the adapted matrices. Report: score on the "
            "report split, in points. Alive: share of all ranks in the lower, middle and upper third of the layers.",
            SENTENCE,
            *_metrics(study),
        ),
        columns=[
            *("task", "level", "ξ", "runs", "live", "% of dense"),
            *(f"{share} %" for share in SHARES),
            *("report", "alive % lower", "middle", "upper"),
        ],
        rows=rows,
    )


def _spread(values: Sequence[float], digits: int) -> Cell:
    mean, sd = stats.mean(values), stats.population_sd(values)
    if math.isnan(mean):
        return Cell(EMPTY)
    return Cell(f"{mean:.{digits}f} ± {sd:.{digits}f}", round(mean, 6), {"sd": round(sd, 6)})


def _metrics(study: Study) -> list[str]:
    """``Metrics: CoLA MCC, RTE acc.``; nothing without a record."""
    named = {
        record["config"]["task"]["name"]: metric_of(record) for run in study.runs if (record := run.record) is not None
    }
    told = ", ".join(f"{task_label(task)} {METRICS.get(metric, metric).rstrip('.')}" for task, metric in named.items())
    return [f"Metrics: {told}."] if told else []


def paper_table(study: Study, drawn: Sequence[Curve]) -> Table | None:
    """What the paper's text and figure say of the tasks of this study, beside ours; None where it says nothing."""
    rows = []
    for curve in drawn:
        for theirs in published.scheduler().get(curve.task, []):
            share = 100 * theirs.live / theirs.dense
            kept = [_at_share(curve, name, share) for name in SHARES]
            rows.append(
                [
                    text(_title(curve)),
                    params_cell(theirs.dense),
                    params_cell(theirs.live),
                    number(share, 1),
                    text(theirs.percent),
                    text(theirs.source),
                    params_cell(curve.dense()),
                    *(number(value, 1) for value in kept),
                ]
            )
    if not rows:
        return None
    return Table(
        name="paper",
        title="Beside the paper's Figure 2",
        caption=caption(
            study,
            "The paper: RoBERTa-large; its levels of ξ start at 1e-4, end and steps are not given; values marked "
            "figure are read off the figure by eye, those marked text are printed. Ours: percentages at the same share "
            "of the dense model's live parameters, interpolated linearly in the logarithm of live parameters + 1 "
            "between the levels' means. Backbone, levels and training differ: shapes can be compared, values cannot.",
        ),
        columns=[
            *("task", "paper: dense", "paper: live", "% of dense", "paper: %", "read from"),
            *("ours: dense", "ours: memorization %", "ours: generalization %"),
        ],
        rows=rows,
    )


def _at_share(curve: Curve, share: str, of_dense: float) -> float:
    """Mean percentage where ``of_dense`` percent of the dense model's parameters live; NaN beyond the levels."""
    means = [(stats.mean([p.live for p in each]), _mean(each, share)) for _, each in curve.levels()]
    if not means:
        return math.nan
    live, values = zip(*means, strict=True)
    return interpolated(live, values, of_dense / 100 * curve.dense())


STUDY = Definition(
    "scheduler", "Sparsifying scheduler: memorization and generalization (Figure 2)", build, frozenset({"synthetic"})
)
