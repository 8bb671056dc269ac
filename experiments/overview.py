"""What all studies say together: score against live parameters, SoRA against LoRA, and which runs are there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from experiments import primary
from experiments.conditions import RATE
from experiments.draws import draws
from experiments.figures import COLOURS, WIDTH, first_of_row, legend_below, line, log_scale, panels, short, tiling
from experiments.labels import ARMS, MAJORITY, METHODS, in_words
from experiments.main_table import with_baselines as with_others
from experiments.scores import chosen, long
from experiments.stats import sd
from experiments.study import SEEDS, Study
from experiments.summary import Section
from experiments.tables import Figure, Table

NAME = "overview"  # the folder of these figures
SWEPT = {"lora": "method.r", "sora": "method.threshold"}  # method -> the setting its curve goes along
AXES = {"backbone", "task", "method", RATE, *SWEPT.values(), *SEEDS}  # of a study whose runs can stand in one picture
UNEQUAL = ("learning_rate",)  # studies whose runs chose the settings of the others
CONDITIONS = ["protocol", "head", "trainer.epochs", "trainer.max_steps", "trainer.batch_size", "data.train"]
LINES = {MAJORITY: (":", "#777777"), "probe": ("--", "#777777"), "zero_shot": ((0, (1, 3)), "#333333")}
LINES["full"] = "-.", line("full")["color"]  # 50 times the parameters of the others: a point would leave them no room
COLOUR = {primary.HOLDS: COLOURS[0], primary.FAILS: COLOURS[1], primary.OPEN: "#777777", primary.UNFINISHED: "#bbbbbb"}
CONTROLS = {"lora_equal": "s", "lora_own": "^", "lora_permuted": "v", "lora_svd": "<"}  # markers, in LoRA's colour
PLACES = {"lora_own": -2, "lora_equal": -1, "lora_permuted": 1, "lora_svd": 2}  # left and right of their own
SHADE = "#e3e3e3"  # of a margin
LEAST = 1.0  # points that an axis spans
UNTRAINED = ("probe", "zero_shot", "svd_cut")  # no training that could differ


@dataclass(frozen=True)
class Overview:
    """What stands before all studies; ``svgs``: figure name -> its file's content."""

    headline: str
    coverage: pd.DataFrame
    figures: Sequence[Figure] = ()
    settings: pd.DataFrame = field(default_factory=pd.DataFrame)
    svgs: Mapping[str, bytes] = field(default_factory=dict)


def overview(sections: Sequence[Section]) -> Overview:
    """Without its SVGs: those of the figures come when they are drawn."""
    found, gaps = settings(sections), differences(sections)
    main = [section.study for section in sections if section.study.name == "main_table"]
    sentences = [(study, words) for study in main if (words := primary.headline(study))]
    several = len(sentences) > 1
    words = " ".join(f"{', '.join(study.values('backbone'))}: {each}" if several else each for study, each in sentences)
    figures = [*pareto(found), *filter(None, [forest(gaps)])]
    return Overview(words, coverage([section.study for section in sections]), figures, found)


def with_baselines(sections: Sequence[Section], found: pd.DataFrame) -> list[Section]:
    """The sections, main tables of methods with the probes and zero-shot scores that other studies have."""
    result = []
    for section in sections:
        study, first = section.study, section.artefacts[:1]
        if study.name == "main_table" and "arm" not in study.runs and first and len(found):
            own = found[found["backbone"].isin(study.values("backbone"))]
            tables = [with_others(each, own) for each in first if isinstance(each, Table)]
            section = replace(section, artefacts=[*tables, *section.artefacts[1:]])
        result.append(section)
    return result


# -- score against live parameters -----------------------------------------------------------------------------


def settings(sections: Sequence[Section]) -> pd.DataFrame:
    """One row for each setting whose runs can be compared, and each constant answer: mean, SD and live parameters.

    Taken are studies that vary nothing but method, rank, ξ and learning rate (of several rates the best on the select
    split stands), of each task the runs that were trained as its main table was, or as most settings were. Linear
    probes and the zero-shot score have no training that could differ.
    """
    studies = [section.study for section in sections if section.study.name not in UNEQUAL]
    studies = [study for study in studies if "arm" in study.runs or set(study.varied()) <= AXES]
    rows = [found for study in studies if len(found := _rows(study))]
    if not rows:
        return pd.DataFrame()
    runs = pd.concat(rows, ignore_index=True)
    for key in (*CONDITIONS, *SWEPT.values(), RATE, "arm"):
        runs[key] = runs.get(key, np.nan)
    once = runs.sort_values(["main", "arm"], ascending=[False, True]).drop_duplicates(["run_id", "label"])
    runs = runs.loc[once.index.sort_values()]  # the runs of two arms, as SoRA-best and SoRA-small may be, all in one
    runs["trained as"] = runs[CONDITIONS].astype(object).map(str).agg(" ".join, axis=1)
    runs.loc[runs["method"].isin(UNTRAINED), "trained as"] = ""
    runs["series"] = runs["method"].where(~runs["arm"].isin(CONTROLS), runs["arm"])
    runs.loc[runs["series"].isin(CONTROLS), [*SWEPT.values(), RATE]] = np.nan  # of each seed its own
    runs["setting"] = runs[[*SWEPT.values(), RATE, "arm"]].astype(object).map(str).agg(" ".join, axis=1)
    keys = ["backbone", "task", "label", "metric", "trained as", "method", "series", "setting"]
    found = runs.groupby(keys, sort=False).agg(
        mean=("points", "mean"),
        sd=("points", sd),
        n=("points", "count"),
        live=("params.live", "mean"),
        **{key: (key, "first") for key in SWEPT.values()},
        main=("main", "max"),
    )
    found = found.reset_index()
    return pd.concat([_like_the_main_table(found), _constants(sections)], ignore_index=True)


def _rows(study: Study) -> pd.DataFrame:
    runs = study.runs if "arm" in study.runs else chosen(study, "method", *SWEPT.values())
    rows = long(study, runs, first=True)
    plain = ~rows["schedule.kind"].isin(["sparsify", "one_shot"])
    return rows[rows["done"] & rows["points"].notna() & plain].assign(main=study.name == "main_table")


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
    """The majority class on the first number of each task of a main table, for each backbone."""
    found = []
    for study in (section.study for section in sections if section.study.name == "main_table"):
        drawn = draws(study, study.runs)
        for column in (study.columns(task)[0] for task in study.tasks):
            if column.label in drawn and not np.isnan(drawn[column.label].constant):
                row = {"task": column.task, "label": column.label, "metric": column.metric}
                row |= {"method": MAJORITY, "series": MAJORITY}
                mean = {"mean": drawn[column.label].constant}
                found += [row | mean | {"backbone": str(backbone)} for backbone in study.values("backbone")]
    return pd.DataFrame(found)


def pareto(found: pd.DataFrame) -> Iterable[Figure]:
    """A figure for each backbone with a panel for each task that has two trained settings."""
    trained = found[~found["method"].isin(LINES)] if len(found) else found
    for backbone in trained["backbone"].unique() if len(trained) else ():
        of = found[found["backbone"] == backbone]
        settings_of_task = trained.loc[trained["backbone"] == backbone, "task"].value_counts(sort=False)
        if parts := {task: of[of["task"] == task] for task, count in settings_of_task.items() if count > 1}:
            yield _pareto(str(backbone), parts)


def _pareto(backbone: str, parts: dict[str, pd.DataFrame]) -> Figure:
    titles = [in_words(task, part["metric"].iloc[0]) for task, part in parts.items()]

    def draw(canvas: Canvas) -> None:
        for part, axis in zip(parts.values(), panels(canvas, titles), strict=True):
            _panel(axis, part.round({"live": 1, "mean": 3, "sd": 3}))
        legend_below(canvas, 4)

    caption = (
        f"{backbone}. Mean over seeds, bars: one SD over seeds. LoRA's line goes along r, SoRA's along ξ. Horizontal: "
        "what needs no adapter. What was trained on a task had as many steps on the same examples."
    )
    if any(part["series"].isin(PLACES).any() for part in parts.values()):
        caption += " LoRA of SoRA's size stands left and right of it, so that each is seen."
    high = tiling(len(parts))[1]
    title = "Score against live parameters"
    return Figure(f"score_against_live_parameters-{backbone}", title, caption, draw, (WIDTH, 2.35 * high + 0.75))


def _panel(axis: Axes, part: pd.DataFrame) -> None:
    points = part[~part["method"].isin(LINES)]
    zero = points["live"] <= 0
    least = points.loc[~zero, "live"].min()
    points = points.assign(x=points["live"].where(~zero, (least if least > 0 else 1.0) / 4))
    # Of one size, the controls would hide each other and SoRA: they stand around it, a marker's width apart.
    apart = 0.03 * max(math.log(points["x"].max() / points["x"].min()), 0.1)
    points["x"] *= np.exp(apart * points["series"].map(PLACES).fillna(0))
    for series, mine in points.groupby("series", sort=False):
        mine, style = mine.sort_values("x", kind="stable"), line(mine["method"].iloc[0])
        name = METHODS.get(str(series), str(series))
        if series in CONTROLS:
            style = line("lora") | {"marker": CONTROLS[str(series)], "markerfacecolor": "white"}
            name = ARMS[str(series)]
        if series not in SWEPT:
            style["linestyle"] = "none"
        bars = {"yerr": mine["sd"].fillna(0), "elinewidth": 0.8, "capsize": 2}
        axis.errorbar(mine["x"], mine["mean"], label=name, **bars, **style)
    low, high = (points["mean"] - points["sd"].fillna(0)).min(), (points["mean"] + points["sd"].fillna(0)).max()
    room = max(high - low, 0.5)
    lines = part[part["method"].isin(LINES)].drop_duplicates("method")
    near = lines[lines["mean"].between(low - 0.8 * room, high + 0.8 * room)]
    for row in near.itertuples():
        dashes, colour = LINES[row.method]
        axis.axhline(row.mean, linestyle=dashes, color=colour, linewidth=1.2, label=METHODS.get(row.method, row.method))
    far = [f"{METHODS.get(r.method, r.method)} {r.mean:.1f}" for r in lines.drop(near.index).itertuples()]
    ends = [*near["mean"], low, high]
    lacking = max(0.0, LEAST - (max(ends) - min(ends))) / 2
    pad = 0.06 * max(max(ends) - min(ends), LEAST)
    axis.set_ylim(min(ends) - lacking - pad * (3.4 if far else 1), max(ends) + lacking + pad)
    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.margins(x=0.12)
    log_scale(axis)
    if zero.any():  # no logarithm: they stand left of the rest
        ticks = [tick for tick in axis.get_xticks() if tick >= least / 2]
        axis.set_xticks([float(points["x"].min()), *ticks], ["0", *map(short, ticks)])
    if far:
        axis.text(0.03, 0.02, f"off the scale: {', '.join(far)}", transform=axis.transAxes, fontsize=8, color="#555555")
    axis.set_xlabel("live parameters")
    if first_of_row(axis):
        axis.set_ylabel("score (points)")


# -- SoRA against LoRA ------------------------------------------------------------------------------------------


def differences(sections: Sequence[Section]) -> pd.DataFrame:
    """One row for each test of the main tables (:func:`experiments.primary.tests`), on each task.

    Columns: those of the tests, and group (what is compared), study, backbone, words (the number's name).
    """
    rows = []
    for study in (section.study for section in sections if section.study.name == "main_table"):
        place = {"study": study.key, "backbone": ", ".join(map(str, study.values("backbone")))}
        name = primary.NAMES[primary.key_of(study)]
        for test in primary.tests(study).to_dict("records"):
            words = in_words(test["name"], test["metric"])
            rows.append(place | test | {"group": f"{name} {test['comparison']}", "words": words})
    return pd.DataFrame(rows)


def forest(found: pd.DataFrame) -> Figure | None:
    """The differences with their intervals and margins, a panel for each comparison; None without one."""
    if found.empty:
        return None
    groups = {str(name): part for name, part in found.groupby("group", sort=False)}

    def draw(canvas: Canvas) -> None:
        heights = [len(part) + 0.8 for part in groups.values()]
        axes = canvas.subplots(len(groups), 1, squeeze=False, height_ratios=heights).ravel()
        for (name, part), axis in zip(groups.items(), axes, strict=True):
            several = found["backbone"].nunique() > 1
            _forest(axis, part.round(6), part["words"] + (", " + part["backbone"] if several else ""))
            axis.set_title(f"{name}?", loc="left")
        axes[-1].set_xlabel("difference (points)")
        handles = [Patch(color=COLOUR[each], label=each) for each in COLOUR if each in set(found["verdict"])]
        handles += [Patch(color=SHADE, label="margin")] if found["margin"].notna().any() else []
        canvas.legend(handles=handles, loc="outside lower center", ncols=len(handles))

    margins = {words: margin for words, margin in zip(found["words"], found["margin"], strict=True) if margin > 0}
    limits = ", ".join(f"{margin:g} ({words})" for words, margin in margins.items())
    limits += f"; of methods {primary.NOT_FIXED}" if limits and (found["other"] == "lora").any() else ""
    caption = (
        "Differences of means, paired by seed. 95 % intervals: thick, t over seeds; thin, bootstrap over seeds and "
        f"examples.{f' Margin in points, shaded: {limits}.' if limits else ''}"
    )
    size = (WIDTH, 0.42 * len(found) + 0.5 * len(groups) + 0.7)
    return Figure("sora_minus_lora", "SoRA against LoRA, task by task", caption, draw, size)


def _forest(axis: Axes, part: pd.DataFrame, names: pd.Series) -> None:
    for place, row in enumerate(part.to_dict("records")):
        if row["margin"] > 0:
            axis.fill_betweenx([place - 0.36, place + 0.36], -row["margin"], 0, color=SHADE, linewidth=0)
        colour, (low, high, least, most) = COLOUR[row["verdict"]], (row[end] for end in primary.ENDS)
        axis.plot([least, most], [place + 0.2, place + 0.2], color=colour, linewidth=1.0)
        axis.plot([low, high], [place, place], color=colour, linewidth=2.4, solid_capstyle="butt")
        axis.plot([row["difference"]], [place], color=colour, marker="o")
    axis.axvline(0, color="#000000", linewidth=0.8)
    axis.set_yticks(range(len(part)), names)
    axis.set_ylim(len(part) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")
    right = axis.secondary_yaxis("right")
    words = [f"{test['difference']:+.2f}, {primary.verdict_text(test)}" for test in part.to_dict("records")]
    sizes = ["" if np.isnan(share) else f"\n{share:.0f} % of its size" for share in part["share"]]
    right.set_yticks(range(len(part)), [word + size for word, size in zip(words, sizes, strict=True)])
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)


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
    every["method"] = every["method"].map(lambda method: METHODS.get(method, method))
    if "arm" in every:
        every["method"] = every["arm"].map(lambda arm: ARMS.get(arm, arm)).where(every["arm"].notna(), every["method"])
    every = every.sort_values("done", ascending=False, kind="stable")
    every = every.drop_duplicates(["run_id", "method"])  # one run may stand in two rows: SoRA-best is SoRA-small
    every["unusable"] = ~every["done"] & (every["reason"] != "not run")
    bad = {flag: (flag, "sum") for flag in ("diverged", "one_class", "unusable")}
    found = every.groupby(["task", "method"], sort=False).agg(done=("done", "sum"), runs=("done", "size"), **bad)
    marks = found[["diverged", "one_class", "unusable"]].rename(columns={"one_class": "one-class"})
    found["bad"] = marks.max(axis=1)
    found["words"] = [
        ", ".join([f"{done}/{runs}", *(f"{count} {word}" for word, count in row.items() if count)])
        for done, runs, row in zip(found["done"], found["runs"], marks.to_dict("records"), strict=True)
    ]
    found["state"] = np.where(found["bad"] > 0, "bad", np.where(found["done"] < found["runs"], "open", "done"))
    return found.reset_index()
