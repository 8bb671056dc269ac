"""What all studies say together: score against live parameters, SoRA against LoRA, and which runs are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from experiments.conditions import RATE
from experiments.constant_answer import NAME as CONSTANT
from experiments.figures import COLOURS, WIDTH, legend_below, line, log_scale, panels, short, tiling
from experiments.labels import METHODS, in_words
from experiments.scores import chosen, long
from experiments.study import SEEDS, Study
from experiments.summary import MARGINS, Section, headline, judged
from experiments.tables import Figure

NAME = "overview"  # the folder of these figures
SWEPT = {"lora": "method.r", "sora": "method.threshold"}  # method -> the setting its curve goes along
AXES = {"backbone", "task", "method", RATE, *SWEPT.values(), *SEEDS}  # of a study whose runs can stand in one picture
UNEQUAL = ("learning_rate",)  # studies whose runs chose the settings of the others
CONDITIONS = ["protocol", "head", "trainer.epochs", "trainer.max_steps", "trainer.batch_size", "data.train"]
LINES = {CONSTANT: (":", "#777777"), "probe": ("--", "#777777"), "zero_shot": ((0, (1, 3)), "#333333")}
LINES |= {"full": ("-.", COLOURS[0])}  # 50 times the parameters of the others: as a point it would leave them no room
COLOUR = {"better": COLOURS[0], "worse": COLOURS[1], "within the margin": COLOURS[2], "not resolved": "#777777"}


@dataclass(frozen=True)
class Overview:
    """What stands before all studies; ``svgs``: figure name -> its file's content."""

    headline: str
    settings: pd.DataFrame
    coverage: pd.DataFrame
    figures: Sequence[Figure] = ()
    svgs: Mapping[str, bytes] = field(default_factory=dict)


def overview(sections: Sequence[Section]) -> Overview:
    """Without its SVGs: those of the figures come when they are drawn."""
    found, gaps = settings(sections), differences(sections)
    figures = [*pareto(found), *filter(None, [forest(gaps)])]
    return Overview(headline(gaps), found, coverage([section.study for section in sections]), figures)


# -- score against live parameters -----------------------------------------------------------------------------


def settings(sections: Sequence[Section]) -> pd.DataFrame:
    """One row for each setting whose runs can be compared, and each constant answer: mean, SD and live parameters.

    Taken are studies that vary nothing but method, rank, ξ and learning rate (of several rates the best on the select
    split stands), of each task the runs that were trained as its main table was, or as most settings were. Linear
    probes and the zero-shot score have no training that could differ.
    """
    studies = [each.study for each in sections if each.study.name not in UNEQUAL and set(each.study.varied()) <= AXES]
    rows = [_rows(study) for study in studies if len(study.done)]
    if not rows:
        return pd.DataFrame()
    runs = pd.concat(rows, ignore_index=True).drop_duplicates(["run_id", "label"])
    for key in (*CONDITIONS, *SWEPT.values(), RATE):
        runs[key] = runs.get(key, np.nan)
    runs["trained as"] = runs[CONDITIONS].astype(object).map(str).agg(" ".join, axis=1)
    runs.loc[runs["method"].isin(("probe", "zero_shot")), "trained as"] = ""
    runs["setting"] = runs[[*SWEPT.values(), RATE]].astype(object).map(str).agg(" ".join, axis=1)
    keys = ["backbone", "task", "label", "metric", "trained as", "method", "setting"]
    found = runs.groupby(keys, sort=False).agg(
        mean=("points", "mean"),
        sd=("points", lambda x: x.std(ddof=0)),
        n=("points", "count"),
        live=("params.live", "mean"),
        **{key: (key, "first") for key in SWEPT.values()},
        main=("main", "max"),
    )
    found = found.reset_index()
    return pd.concat([_like_the_main_table(found), _constants(sections)], ignore_index=True)


def _rows(study: Study) -> pd.DataFrame:
    rows = long(study, chosen(study, *(key for key in ("method", *SWEPT.values()) if key in study.runs)))
    first = [study.columns(task)[0].label for task in study.tasks]
    plain = rows["schedule.kind"].isin(["none", None]) if "schedule.kind" in rows else True
    return rows[rows["done"] & rows["label"].isin(first) & rows["points"].notna() & plain].assign(
        main=study.name == "main_table"
    )


def _like_the_main_table(found: pd.DataFrame) -> pd.DataFrame:
    parts = []
    for _, part in found.groupby(["backbone", "task"], sort=False):
        trained = part[part["trained as"] != ""]
        order = trained.groupby("trained as", sort=False).agg(main=("main", "max"), count=("main", "size"))
        best = order.sort_values(["main", "count"], ascending=False, kind="stable").index[:1]
        part = part[part["trained as"].isin(["", *best])]
        ranks = part.loc[part["method"] == "sora", ["main", "method.r"]].sort_values("main", ascending=False)
        one = ranks["method.r"][ranks["main"] == ranks["main"].max()].mode()[:1]  # SoRA's curve goes along ξ at one r
        parts.append(part[(part["method"] != "sora") | part["method.r"].isin(one)])
    return pd.concat(parts)


def _constants(sections: Sequence[Section]) -> pd.DataFrame:
    """The constant answer on each number whose main table has it."""
    found = []
    for section in sections:
        table = section.table("main_table")
        row = table[table["method"] == CONSTANT] if table is not None else []
        for task in section.study.tasks if len(row) else ():
            column = section.study.columns(task)[0]
            place = {"task": task, "label": column.label, "metric": column.metric, "method": CONSTANT}
            found += [
                place | {"backbone": str(backbone), "mean": float(row[column.label].iloc[0])}
                for backbone in section.study.values("backbone")
            ]
    return pd.DataFrame(found).dropna(subset="mean") if found else pd.DataFrame()


def pareto(found: pd.DataFrame) -> Iterable[Figure]:
    """A figure for each backbone with a panel for each task that has a trained setting."""
    trained = found[~found["method"].isin(LINES)] if len(found) else found
    for backbone in trained["backbone"].unique() if len(trained) else ():
        of = found[found["backbone"] == backbone]
        tasks = trained.loc[trained["backbone"] == backbone, "task"].unique()
        yield _pareto(str(backbone), {task: of[of["task"] == task] for task in tasks})


def _pareto(backbone: str, parts: dict[str, pd.DataFrame]) -> Figure:
    titles = [in_words(task, part["metric"].iloc[0]) for task, part in parts.items()]

    def draw(canvas: Canvas) -> None:
        for part, axis in zip(parts.values(), panels(canvas, titles), strict=True):
            _panel(axis, part.round({"live": 1, "mean": 3, "sd": 3}))
        legend_below(canvas, 4)

    caption = (
        f"{backbone}. Mean over seeds, bars: one SD over seeds. LoRA's line goes along r, SoRA's along ξ. Horizontal: "
        "what needs no adapter. All settings of a task were trained for as many steps on the same examples."
    )
    high = tiling(len(parts))[1]
    title = "Score against live parameters"
    return Figure(f"score_against_live_parameters-{backbone}", title, caption, draw, (WIDTH, 2.35 * high + 0.75))


def _panel(axis: Axes, part: pd.DataFrame) -> None:
    points = part[~part["method"].isin(LINES)]
    zero = points["live"] <= 0
    least = points.loc[~zero, "live"].min()
    points = points.assign(x=points["live"].where(~zero, (least if least > 0 else 1.0) / 4))
    for method, mine in points.groupby("method", sort=False):
        mine, style = mine.sort_values("x", kind="stable"), line(method)
        if str(method) not in SWEPT:
            style["linestyle"] = "none"
        name = METHODS.get(str(method), str(method))
        axis.errorbar(
            mine["x"], mine["mean"], yerr=mine["sd"].fillna(0), label=name, elinewidth=0.8, capsize=2, **style
        )
    low, high = (points["mean"] - points["sd"]).min(), (points["mean"] + points["sd"]).max()
    room = max(high - low, 0.5)
    lines = part[part["method"].isin(LINES)].drop_duplicates("method")
    near = lines[lines["mean"].between(low - 0.8 * room, high + 0.8 * room)]
    for row in near.itertuples():
        style, colour = LINES[row.method]
        axis.axhline(row.mean, linestyle=style, color=colour, linewidth=1.2, label=METHODS.get(row.method, row.method))
    far = [f"{METHODS.get(r.method, r.method)} {r.mean:.1f}" for r in lines.drop(near.index).itertuples()]
    ends = [*near["mean"], low, high]
    pad = 0.06 * (max(ends) - min(ends))
    axis.set_ylim(min(ends) - pad * (3.4 if far else 1), max(ends) + pad)
    axis.margins(x=0.12)
    log_scale(axis)
    if zero.any():  # no logarithm: they stand left of the rest
        ticks = [tick for tick in axis.get_xticks() if tick >= least / 2]
        axis.set_xticks([float(points["x"].min()), *ticks], ["0", *map(short, ticks)])
    if far:
        axis.text(0.03, 0.02, f"off the scale: {', '.join(far)}", transform=axis.transAxes, fontsize=8, color="#555555")
    axis.set_xlabel("live parameters")
    if axis.get_subplotspec().is_first_col():
        axis.set_ylabel("score (points)")


# -- SoRA against LoRA ------------------------------------------------------------------------------------------


def differences(sections: Sequence[Section], method: str = "SoRA", baseline: str = "LoRA") -> pd.DataFrame:
    """One row for each task of a main table: ``method`` minus ``baseline`` in points, paired by seed.

    Columns: study, backbone, task, label, metric, words (the number's name), seeds, difference, low and high (95 %, t
    over seeds), margin (NaN where none is set), live (percent of the baseline's live parameters), verdict (see
    :func:`experiments.summary.judged`). The average over tasks has the task ``average``.
    """
    rows = []
    for section in sections:
        found, details = section.table("comparisons"), section.table("details")
        if section.study.name != "main_table" or found is None or details is None:
            continue
        study = section.study
        numbers = {column.label: column for task in study.tasks for column in study.columns(task)[:1]}
        live = details.set_index(["method", "metric"])["live"].astype(float)
        for row in found[(found["baseline"] == baseline) & (found["method"] == method)].to_dict("records"):
            label = row["metric"]
            column = numbers.get(label)
            low, high = row["t interval"], row["t interval high"]
            margin = MARGINS.get(column.metric, np.nan) if column else np.nan
            place = {"study": study.key, "backbone": ", ".join(map(str, study.values("backbone"))), "label": label}
            place |= {"task": column.task if column else label, "metric": column.metric if column else ""}
            place["words"] = in_words(column.task, column.metric) if column else "average of the tasks"
            share = 100 * live[method, label] / live[baseline, label] if column else np.nan
            place |= {"margin": margin, "live": share, "verdict": judged(row["verdict"], low, high, margin)}
            rows.append(place | {"seeds": row["seeds"], "difference": row["difference"], "low": low, "high": high})
    return pd.DataFrame(rows)


def forest(found: pd.DataFrame) -> Figure | None:
    """The differences with their intervals and margins; None without one."""
    if found.empty:
        return None
    several = found["backbone"].nunique() > 1
    names = found["words"] + (", " + found["backbone"] if several else "")

    def draw(canvas: Canvas) -> None:
        axis = canvas.subplots()
        for place, row in enumerate(found.round(3).itertuples()):
            if not np.isnan(row.margin):
                axis.fill_betweenx([place - 0.36, place + 0.36], -row.margin, row.margin, color="#e3e3e3", linewidth=0)
            colour = COLOUR[row.verdict]
            axis.plot([row.low, row.high], [place, place], color=colour, linewidth=2.2, solid_capstyle="butt")
            axis.plot([row.difference], [place], color=colour, marker="s" if row.task == "average" else "o")
        axis.axvline(0, color="#000000", linewidth=0.8)
        axis.set_yticks(range(len(found)), names)
        axis.set_ylim(len(found) - 0.4, -0.6)
        axis.grid(visible=False, axis="y")
        axis.set_xlabel("SoRA minus LoRA (points)")
        words = zip(found["difference"], found["verdict"], found["live"], strict=True)
        right = axis.secondary_yaxis("right")
        right.set_yticks(
            range(len(found)),
            [
                f"{gap:+.2f}, {verdict}" + ("" if np.isnan(live) else f"\n{live:.0f} % of LoRA's size")
                for gap, verdict, live in words
            ],
        )
        right.tick_params(length=0)
        right.spines["right"].set_visible(False)
        handles = [Patch(color=COLOUR[each], label=each) for each in COLOUR if each in set(found["verdict"])]
        handles.append(Patch(color="#e3e3e3", label="margin"))
        canvas.legend(handles=handles, loc="outside lower center", ncols=len(handles))

    margins = {in_words("", metric): m for metric, m in zip(found["metric"], found["margin"], strict=True) if m > 0}
    caption = (
        "Difference of the means, paired by seed; interval: 95 %, t over seeds. Margin in points: "
        f"{', '.join(f'{margin:g} ({name})' for name, margin in margins.items())}. Better and worse also by the "
        "bootstrap over seeds and items, corrected after Holm."
    )
    size = (WIDTH, 0.42 * len(found) + 1.1)
    return Figure("sora_minus_lora", "SoRA against LoRA, task by task", caption, draw, size)


# -- what is there ----------------------------------------------------------------------------------------------


def coverage(studies: Sequence[Study]) -> pd.DataFrame:
    """One row for each task and method: ``done`` of ``runs``, a ``state`` (done | open | bad), and both in ``words``.

    Of the main tables, where there are any: a grid of learning rates has bad runs by design. Bad are runs that
    diverged, that answer one class alone, or whose record cannot be used.
    """
    studies = [study for study in studies if study.name == "main_table"] or studies
    if not any(len(study.runs) for study in studies):
        return pd.DataFrame(columns=["task", "method", "done", "runs", "state", "words"])
    every = pd.concat([study.runs for study in studies], ignore_index=True)
    every = every.sort_values("done", ascending=False, kind="stable").drop_duplicates("run_id")
    every["unusable"] = ~every["done"] & (every["reason"] != "not run")
    bad = {flag: (flag, "sum") for flag in ("diverged", "one_class", "unusable")}
    found = every.groupby(["task", "method"], sort=False).agg(done=("done", "sum"), runs=("done", "size"), **bad)
    marks = pd.DataFrame(
        {"diverged": found["diverged"], "one-class": found["one_class"], "unusable": found["unusable"]}
    )
    found["bad"] = marks.max(axis=1)
    found["words"] = [
        ", ".join([f"{done}/{runs}", *(f"{count} {word}" for word, count in row.items() if count)])
        for done, runs, row in zip(found["done"], found["runs"], marks.to_dict("records"), strict=True)
    ]
    found["state"] = np.where(found["bad"] > 0, "bad", np.where(found["done"] < found["runs"], "open", "done"))
    return found.reset_index()
