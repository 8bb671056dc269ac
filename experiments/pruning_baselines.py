"""The sparsifying scheduler in its three readings against one-shot magnitude pruning of the same dense models."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure as Canvas

from experiments.artefacts import EMPTY, Artefact, Cell, Figure, Table, text
from experiments.captions import caption
from experiments.columns import task_label
from experiments.figures import legend_below, panels, tiling
from experiments.levels import SENTENCE, SHARES, Curve, Seeds, curves, draw_curve, interpolated, scale, varied
from experiments.lines import interval_cell
from experiments.study import Definition, Run, Study, configured
from sora import stats

PANEL = (3.0, 2.6)  # inches
READINGS = {  # name -> what it is, in words
    "scheduler": "learning rate warmed up and decayed anew in every level (the paper's Algorithm 1 as read here)",
    "scheduler, constant rate": "the peak learning rate in every level",
    "scheduler, no rate": "learning rate 0 in every level, as the released code runs: gates only shrink",
    "one-shot": "the gates of smallest magnitude zeroed at once, nothing trained again",
}
NAMES = tuple(READINGS)
OF_RATE = {"rewarm": NAMES[0], "constant": NAMES[1], "authors_zero": NAMES[2]}
OF_FILE = {"sparsify": NAMES[0], "sparsify_constant": NAMES[1], "sparsify_authors": NAMES[2], "one_shot": NAMES[3]}
BUDGETS = (50, 25, 10, 5, 2)  # percent of the dense model's live parameters


def build(study: Study) -> list[Artefact]:
    """Generalization and memorization over live parameters, and generalization at equal live parameters."""
    drawn = curves(study, lambda run: _named(study, run, reading(study, run)))
    found = [figure(study, drawn, share) for share in reversed(SHARES)]
    return [*(each for each in found if each is not None), budget_table(study, drawn)]


def _named(study: Study, run: Run, schedule: str) -> str:
    """``schedule`` and what else the sweep varies for the run."""
    return ", ".join(filter(None, (schedule, varied(study, run, "task", "method", "schedule", "schedule.lr"))))


def reading(study: Study, run: Run) -> str:
    """What a run's schedule is called here: by its record, or, before it has one, by the file it is to use."""
    if run.record is None:
        wanted = str(study.value(run, "schedule"))
        return OF_FILE.get(wanted, wanted)
    kind = configured(run.record, "schedule.kind")
    return NAMES[3] if kind == "one_shot" else OF_RATE.get(str(configured(run.record, "schedule.lr")), str(kind))


def figure(study: Study, drawn: Sequence[Curve], share: str) -> Figure | None:
    """One of the two percentages over live parameters, a panel per task; None without a run."""
    tasks = list(dict.fromkeys(curve.task for curve in drawn if curve.seeds))
    if not tasks:
        return None
    styles = list(dict.fromkeys([*NAMES, *(curve.name for curve in drawn)]))  # a reading looks the same everywhere

    def draw(canvas: Canvas) -> None:
        for task, axis in zip(tasks, panels(canvas, [task_label(task) for task in tasks], 3), strict=True):
            shown = [curve for curve in drawn if curve.task == task and curve.seeds]
            for curve in shown:
                draw_curve(axis, curve, share, curve.name, styles.index(curve.name))
            scale(axis, shown)
            axis.set_ylabel(f"{share}\n(% of the dense model)")
        legend_below(canvas, 2)

    wide, high = tiling(len(tasks), 3)
    return Figure(
        name=share,
        title=f"{share.capitalize()}: the scheduler's readings and one-shot pruning",
        caption=caption(
            study,
            "Thick: mean over seeds at each level, with a band of one population SD; thin: the seeds. Live parameters "
            "on a log scale, without the head.",
            SENTENCE,
            *(f"{name.capitalize()}: {words}." for name, words in READINGS.items()),
        ),
        draw=draw,
        size=(max(4.6, PANEL[0] * wide), PANEL[1] * high + 0.8),
    )


def budget_table(study: Study, drawn: Sequence[Curve]) -> Table:
    """Generalization at equal shares of the dense model, and each reading's paired difference to one-shot pruning."""
    rows = []
    for task in dict.fromkeys(curve.task for curve in drawn):
        of_task = {curve.name: curve for curve in drawn if curve.task == task}
        for name, curve in of_task.items():
            cells = _budget_cells(curve, of_task.get(_named(study, curve.runs[0], NAMES[3])))
            rows.append([text(task_label(task)), text(name), curve.cell(), *cells])
    return Table(
        name="budgets",
        title="Generalization at equal live parameters",
        caption=caption(
            study,
            "Generalization in percent of the dense model at shares of the dense model's live parameters: mean ± "
            "population SD over seeds, each seed's curve interpolated linearly in the logarithm of live parameters + 1 "
            "between its levels (– where not every seed's levels reach the share). Minus one-shot: 95 % t-interval "
            "of the difference, paired by seed, as the dense model of a seed is the same; one interval for each share, "
            "not corrected for their number.",
            SENTENCE,
        ),
        columns=[
            *("task", "schedule", "runs"),
            *(column for share in BUDGETS for column in (f"at {share} %", f"at {share} %, minus one-shot")),
        ],
        rows=rows,
    )


def _budget_cells(curve: Curve, one_shot: Curve | None) -> list[Cell]:
    cells = []
    for share in BUDGETS:
        mine = at_share(curve, share)
        values = list(mine.values())
        if not values or any(math.isnan(value) for value in values):
            cells += [Cell(EMPTY), Cell(EMPTY)]
            continue
        mean, sd = stats.mean(values), stats.population_sd(values)
        cells.append(Cell(f"{mean:.1f} ± {sd:.1f}", round(mean, 6), {"sd": round(sd, 6)}))
        theirs = at_share(one_shot, share) if one_shot is not None and one_shot is not curve else {}
        gaps = [mine[seed] - theirs[seed] for seed in mine if seed in theirs and not math.isnan(theirs[seed])]
        cells.append(interval_cell(stats.t_interval(gaps) if gaps else None, sign=True))
    return cells


def at_share(curve: Curve, percent: float) -> dict[Seeds, float]:
    """Each seed's generalization where ``percent`` of its dense model's parameters live; NaN beyond its levels."""
    return {
        seeds: interpolated(
            [point.live for point in points],
            [point.percent["generalization"] for point in points],
            percent / 100 * points[0].live,
        )
        for seeds, points in curve.seeds.items()
    }


STUDY = Definition(
    "pruning_baselines",
    "Sparsifying scheduler against one-shot magnitude pruning",
    build,
    frozenset({"synthetic"}),
)
