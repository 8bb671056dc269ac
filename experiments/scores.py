"""Scores of settings: the rows of a table, its details, published numbers next to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from experiments import published
from experiments.draws import Draws
from experiments.labels import ARMS, METHODS, in_words
from experiments.stats import NONE, sd, t_interval
from experiments.study import SEEDS, Study
from experiments.tables import EMPTY, SIGNED, Table, counts, size

COVERED = "Mean ± population SD over seeds, in points, of the selected weights on the report split; (n/m): n of m runs."
AVERAGED = "Average: over tasks, two numbers of one task averaged first."
LIVE = (
    "Live parameters: sum of r (in + out) over the adapted matrices, or what trains outside the head, of the selected "
    "weights, which may be from before the last rank went."
)

DEPENDENCE = {"data_dependence": "data dependence", "data_dependence_same_total": "data dependence same total"}
DEPENDENT = (
    "Data dependence: 1 - the correlation, over matrices, of the live ranks with those that the initial draw and ξ "
    "leave without data; in brackets, with as many ranks of the draw as the run has, so that their number plays no "
    "part (0: the draw alone says where they stay)."
)


def chosen(study: Study, *keys: str) -> pd.DataFrame:
    """The runs that stand for each value of ``keys`` on each task; ``trials``: of how many settings they were chosen.

    Several settings arise where the sweep has axes besides ``keys``, the task and the seeds. The one with the best mean
    on the select split stands, but only where every run of all of them was made: a half-finished sweep chooses nothing
    by accident, before that the first one stands. A run that diverged before its first score has minus infinity.
    """
    others = study.varied("task", *keys)
    runs = study.runs.assign(trials=1)
    if not others:
        return runs
    scored = runs["select"].fillna(-math.inf).where(runs["done"])
    picked = []
    for _, place in runs.groupby([*keys, "task"], sort=False, dropna=False):
        settings = [part for _, part in place.groupby(others, sort=False, dropna=False)]
        means = [scored[part.index].mean(skipna=False) for part in settings]
        best = settings[0] if np.isnan(means).any() else settings[int(np.argmax(means))]
        picked.append(best.assign(trials=len(settings)))
    return pd.concat(picked)


def choice(runs: pd.DataFrame) -> str:
    """What a caption says of ``runs`` of :func:`chosen` where several settings were tried; empty where none were."""
    most = int(runs["trials"].max()) if len(runs) else 1
    words = "settings of a row that with the best mean on the select split stands here, until all are run the first."
    return f"Of {most} {words}" if most > 1 else ""


def long(study: Study, runs: pd.DataFrame, first: bool = False) -> pd.DataFrame:
    """``runs``, once for each number of their task, with ``label``, ``metric``, ``split`` and what they scored.

    ``points`` on that split and ``at_select`` on the select split of the selected weights, ``last`` of the last ones.
    ``first``: for the first number of their task alone.
    """
    nothing, parts = pd.Series(np.nan, runs.index), []
    for column in (each for task in study.tasks for each in study.columns(task)[: 1 if first else None]):
        places = {"points": f"{column.split}.", "last": f"last.{column.split}.", "at_select": "select."}
        values = {name: runs.get(f"{above}{column.metric}", nothing).astype(float) for name, above in places.items()}
        about = {"label": column.label, "metric": column.metric, "split": column.split}
        parts.append(runs.assign(**about, **values)[runs["task"] == column.task])
    return pd.concat(parts, ignore_index=True)


def cells(study: Study, runs: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """One row for each value of ``keys`` and each number of a task: what its runs say together."""
    rows = long(study, runs)
    numbers = ["params.live", "params.trainable", "trainer.learning_rate", *DEPENDENCE]
    rows[numbers] = rows[numbers].apply(pd.to_numeric)
    rows["id_done"] = rows["run_id"].where(rows["done"])
    found = rows.groupby([*keys, "task", "label", "metric", "split"], sort=False, dropna=False).agg(
        mean=("points", "mean"),
        sd=("points", sd),
        sample_sd=("points", "std"),
        points=("points", lambda x: tuple(x.dropna())),
        last=("last", "mean"),
        last_sd=("last", sd),
        select=("at_select", "mean"),
        n=("done", "sum"),
        of=("done", "size"),
        diverged=("diverged", "sum"),
        one_class=("one_class", "sum"),
        remarks=("reason", reasons),
        run_ids=("id_done", lambda x: list(x.dropna())),
        live=("params.live", "mean"),
        trainable=("params.trainable", "mean"),
        rates=("trainer.learning_rate", lambda x: ", ".join(f"{rate:g}" for rate in sorted(x.dropna().unique()))),
        trials=("trials", "first"),
        **{name: (name, "mean") for name in DEPENDENCE},
    )
    found["remarks"] = [
        ", ".join(filter(None, (f"{d} diverged" if d else "", f"{o} one-class" if o else "", why)))
        for d, o, why in zip(found["diverged"], found["one_class"], found["remarks"], strict=True)
    ]
    order = runs[[*keys]].drop_duplicates()  # settings first, in the order of the sweep, then their tasks
    return order.merge(found.reset_index(), on=[*keys], how="left").reset_index(drop=True)


def reasons(found: pd.Series) -> str:
    """``1 refused, as it is about partial data``: why runs that were made cannot be used."""
    counted = found[~found.isin(["", "not run"])].value_counts().sort_index()
    return ", ".join(f"{count} {reason}" for reason, count in counted.items())


def settings_of(found: pd.DataFrame, heads: Mapping[str, str]) -> pd.DataFrame:
    """The key columns under their heads, methods, arms and tasks by their names. ``heads``: key -> column's head."""
    tasks = {task: in_words(task) for task in found["task"].dropna()} if "task" in heads else {}
    words = {"method": METHODS, "arm": ARMS, "task": tasks}
    return pd.DataFrame(
        {head: found[key].map(lambda v, k=key: words.get(k, {}).get(v, v)) for key, head in heads.items()}
    )


def dependence(found: pd.DataFrame) -> pd.DataFrame:
    """Data dependence as a table shows it; no column where no row has one."""
    return found[[*DEPENDENCE]].dropna(axis="columns", how="all").rename(columns=DEPENDENCE)


def score_columns(found: pd.DataFrame, name: str, mean: str = "mean", sd: str = "sd") -> pd.DataFrame:
    """A score, its SD over seeds and the counts that belong to it, as :class:`experiments.tables.Table` shows them."""
    counts = {f"{name} {key}": found[key].astype("Int64") for key in ("n", "of", "diverged", "one_class")}
    return pd.DataFrame({name: found[mean], f"{name} sd": found[sd], **counts})


def score_table(
    study: Study, name: str, title: str, found: pd.DataFrame, heads: Mapping[str, str], words: str = ""
) -> Table:
    """A row for each setting: its labels, live parameters, every number of every task, the average of the tasks.

    ``heads``: key -> head of its column. ``words``: of the caption.
    """
    keys = list(heads)
    places = found[keys].drop_duplicates().reset_index(drop=True)
    by_task = found.groupby([*keys, "task"], sort=False, dropna=False)
    firsts = {name: (name, "first") for name in ("live", *DEPENDENCE)}
    means = by_task.agg(**firsts, mean=("mean", _whole_mean)).reset_index()
    rows = means.groupby(keys, sort=False, dropna=False)
    sums = rows.agg(**{name: (name, "mean") for name in firsts}, average=("mean", _whole_mean), tasks=("task", "size"))
    sums = places.merge(sums.reset_index(), on=keys, how="left")
    data = settings_of(places, heads).assign(**{"live parameters": counts(sums["live"])})
    data = data.join(dependence(sums))
    for label in (column.label for task in study.tasks for column in study.columns(task)):
        data = data.join(score_columns(places.merge(found[found["label"] == label], on=keys, how="left"), label))
    if len(study.tasks) > 1:
        data["average"] = sums["average"].where(sums["tasks"] == len(study.tasks))
    caption = " ".join(filter(None, (words, COVERED, AVERAGED if len(study.tasks) > 1 else "", LIVE)))
    return Table(name, title, caption, data, {"live parameters": size, **dict.fromkeys(heads.values(), "{:g}")})


def averages(study: Study, found: pd.DataFrame, key: str) -> pd.DataFrame:
    """The average of the tasks for each value of ``key``: mean, live and DEPENDENCE, NaN where a task lacks it.

    ``found``: rows with a task, a mean and the others; of two numbers of one task the mean counts.
    """
    columns = ["mean", "live", *DEPENDENCE]
    by_task = found.groupby([key, "task"], sort=False)[columns].agg(_whole_mean)
    rows = by_task.groupby(level=key, sort=False)
    return rows.agg(_whole_mean)[rows.size() == len(study.tasks)]


def _whole_mean(values: pd.Series) -> float:
    """The mean, NaN where a value is missing."""
    return float(values.mean(skipna=False))


def intervals(found: pd.DataFrame, drawn: Mapping[str, Draws]) -> pd.DataFrame:
    """95 % intervals of each cell: bootstrap over seeds and items, Student's t over seeds; NaN where there is none."""
    both = [
        (*(drawn[label].interval(ids) if label in drawn else NONE), *t_interval(points))
        for label, ids, points in zip(found["label"], found["run_ids"], found["points"], strict=True)
    ]
    names = ["bootstrap interval", "bootstrap interval high", "t interval", "t interval high"]
    return pd.DataFrame(both, columns=names, index=found.index, dtype=float)


def detail_table(study: Study, found: pd.DataFrame, heads: Mapping[str, str], drawn: Mapping[str, Draws]) -> Table:
    """Everything about each cell: both SDs, selected and last weights, both intervals, parameters."""
    scored = found["points"].map(len) > 0
    data = settings_of(found, heads).assign(metric=found["label"], runs=found["n"])
    data["runs of"], data["selected"], data["SD"], data["sample SD"] = (
        found[x] for x in ("of", "mean", "sd", "sample_sd")
    )
    data = data.join(intervals(found, drawn).where(scored))
    data["last"], data["last SD"] = found["last"], found["last_sd"]
    data["select - report"] = (found["select"] - found["mean"]).where(found["split"] == "report")
    data["live"], data["trainable"] = counts(found["live"]), counts(found["trainable"])
    data = data.join(dependence(found))
    data["peak learning rate"] = found["rates"].where(scored, "")
    data["trials in this study"] = found["trials"].where(scored).astype("Int64")
    data["remarks"] = found["remarks"]
    caption = (
        "Scores in points. Intervals: 95 %; bootstrap over seeds and items, t over seeds only (docs/statistics.md says "
        "how often they cover). Select - report: difference of the two scores of the selected weights: optimism about "
        "the choice among them and, where the splits are of two files, the difference of those. Last: the last "
        "step's weights. Remarks: one-class (one answer for every item) is said of the selected weights."
    )
    formats = {"live": size, "trainable": size, "select - report": SIGNED, **dict.fromkeys(heads.values(), "{:g}")}
    return Table("details", "Details of each cell", caption, data, formats)


def published_table(
    study: Study, found: pd.DataFrame, heads: Mapping[str, str], sources: Sequence[tuple[str, str]], settings: pd.Series
) -> Table | None:
    """Published numbers next to ours, with the difference; None where nothing was published on these settings.

    ``sources``: (source, table) as in results/published. ``settings``: of each row of ``found`` the key of its
    published numbers, such as ``method.r=8``; None = whatever is printed.
    """
    rows = []
    for (_, cell), setting in zip(found.iterrows(), settings, strict=True):
        for source in sources:
            place = cell["method"], cell["task"], cell["metric"], cell["split"]
            if (printed := published.lookup(*source, *place, setting)) is not None:
                rows.append((cell, printed))
    if not rows:
        return None
    ours, theirs = (pd.DataFrame(each).reset_index(drop=True) for each in zip(*rows, strict=True))
    data = settings_of(ours, heads).assign(metric=ours["label"]).join(score_columns(ours, "ours"))
    data["published"], data["published sd"] = theirs["mean"], theirs["sd"].astype(float)
    data["difference"] = (ours["mean"] - theirs["mean"]).astype(float)
    data["our live parameters"] = counts(ours["live"])
    data["printed parameters"], data["source"] = theirs["params"].replace("", EMPTY), theirs["where"]
    caption = f"Points. Difference: ours minus published. {_unlike(study, sources)}".strip()
    formats = {"our live parameters": size, "difference": SIGNED, **dict.fromkeys(heads.values(), "{:g}")}
    return Table("published", "Ours and published numbers", caption, data, formats)


def _unlike(study: Study, sources: Sequence[tuple[str, str]]) -> str:
    """Why the published numbers are not like for like with ours."""
    reasons = []
    if others := sorted(set(study.values("backbone")) - {published.BACKBONE}):
        reasons.append(f"ours are on {', '.join(others)}, theirs on {published.BACKBONE}")
    if study.values("trainer.max_steps"):
        reasons.append("ours were stopped early")
    protocols = set(study.done["protocol"])
    if protocols - {"paper"}:
        reasons.append("the protocol is not the SoRA paper's")
    if "paper" in protocols and any(source == "adalora" for source, _ in sources):
        reasons.append("the AdaLoRA paper reports on the whole validation set")
    return f"Not like for like: {'; '.join(reasons)}." if reasons else ""


# -- runs by their seeds ---------------------------------------------------------------------------------------


def by_seed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with a record, by their seeds; of repeated seeds the last."""
    return rows[rows["done"]].drop_duplicates(SEEDS, keep="last").set_index(SEEDS)


def paired(a: pd.DataFrame, b: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """``columns`` of ``a``, and of ``b`` as ``<column>_b``, at the seeds that both have; rows as of :func:`by_seed`."""
    common = a.index.intersection(b.index, sort=False)
    return a.loc[common, columns].join(b.loc[common, columns].add_suffix("_b"))
