"""Scores of settings, which most studies are made of: the rows of a table, its details, published numbers beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from experiments import published, tables
from experiments.draws import Draws
from experiments.labels import METHODS, TASKS
from experiments.stats import Interval, t_interval
from experiments.study import SEEDS, Study
from experiments.tables import EMPTY, Table

COVERED = "Mean ± population SD over seeds, in points, of the selected weights on the report split; (n/m): n of m runs."
LIVE = (
    "Live parameters: sum of r (in + out) over the adapted matrices, or what trains outside the head, of the selected "
    "weights, which may be from before the last rank went."
)


WORDS = {"method": METHODS, "task": TASKS}


def chosen(study: Study, *keys: str) -> pd.DataFrame:
    """The runs that stand for each value of ``keys`` on each task; ``trials``: of how many settings they were chosen.

    Several settings arise where the sweep has axes besides ``keys``, the task and the seeds. The one with the best mean
    on
    the select split stands, but only where every run of all of them has a score: a half-finished sweep chooses nothing
    by accident, before that the first one stands.
    """
    others = study.varied("task", *keys)
    runs = study.runs.assign(trials=1)
    if not others:
        return runs
    picked = []
    for _, place in runs.groupby([*keys, "task"], sort=False, dropna=False):
        settings = [part for _, part in place.groupby(others, sort=False, dropna=False)]
        means = [part["select"].mean(skipna=False) for part in settings]
        best = settings[0] if np.isnan(means).any() else settings[int(np.argmax(means))]
        picked.append(best.assign(trials=len(settings)))
    return pd.concat(picked)


def long(study: Study, runs: pd.DataFrame) -> pd.DataFrame:
    """``runs``, once for each number of their task, with ``label``, ``metric``, ``split`` and what they scored.

    ``points`` on that split and ``at_select`` on the select split of the selected weights, ``last`` of the last ones.
    """
    nothing, parts = pd.Series(np.nan, runs.index), []
    for column in (each for task in study.tasks for each in study.columns(task)):
        values = {
            name: runs.get(f"{above}{column.metric}", nothing).astype(float)
            for name, above in (
                ("points", f"{column.split}."),
                ("last", f"last.{column.split}."),
                ("at_select", "select."),
            )
        }
        about = {"label": column.label, "metric": column.metric, "split": column.split}
        parts.append(runs.assign(**about, **values)[runs["task"] == column.task])
    return pd.concat(parts, ignore_index=True)


def cells(study: Study, runs: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """One row for each value of ``keys`` and each number of a task: what its runs say together."""
    rows = long(study, runs)
    for name in ("params.live", "params.trainable", "trainer.learning_rate"):
        rows[name] = pd.to_numeric(rows[name]) if name in rows else np.nan
    rows["id_done"] = rows["run_id"].where(rows["done"])
    found = rows.groupby([*keys, "task", "label", "metric", "split"], sort=False, dropna=False).agg(
        mean=("points", "mean"),
        sd=("points", lambda x: x.std(ddof=0)),
        sample_sd=("points", "std"),
        points=("points", lambda x: tuple(x.dropna())),
        last=("last", "mean"),
        last_sd=("last", lambda x: x.std(ddof=0)),
        select=("at_select", "mean"),
        n=("done", "sum"),
        of=("done", "size"),
        diverged=("diverged", "sum"),
        one_class=("one_class", "sum"),
        reasons=("reason", lambda x: _reasons(x)),
        run_ids=("id_done", lambda x: list(x.dropna())),
        live=("params.live", "mean"),
        trainable=("params.trainable", "mean"),
        rates=("trainer.learning_rate", lambda x: ", ".join(f"{rate:g}" for rate in sorted(x.dropna().unique()))),
        trials=("trials", "first"),
        data_dependence=("data_dependence", "mean") if "data_dependence" in rows else ("points", lambda x: np.nan),
    )
    order = runs[[*keys]].drop_duplicates()  # settings first, then their tasks
    return order.merge(found.reset_index(), on=[*keys], how="left").reset_index(drop=True)


def _reasons(reasons: pd.Series) -> str:
    found = reasons[~reasons.isin(["", "not run"])].value_counts().sort_index()
    return ", ".join(f"{count} {reason}" for reason, count in found.items())


def remarks(found: pd.DataFrame) -> pd.Series:
    """``1 diverged, 2 one-class``: what must be known before the scores are used."""
    words = [
        ", ".join(filter(None, (f"{d} diverged" if d else "", f"{o} one-class" if o else "", why)))
        for d, o, why in zip(found["diverged"], found["one_class"], found["reasons"], strict=True)
    ]
    return pd.Series(words, found.index, dtype=object)


def score(found: pd.DataFrame) -> pd.Series:
    """``85.32 ± 0.86 (3/5) [1 diverged]``."""
    scored = found["points"].map(len)
    covered = tables.joined("({}/{})", found["n"], found["of"])
    whole = (found["n"] == found["of"]) & (scored == found["n"])
    words = tables.mean_sd(found["mean"], found["sd"]).where(scored > 0, "")
    words += covered.where(~whole, "").map(lambda text: f" {text}" if text else "")
    words += remarks(found).map(lambda text: f" [{text}]" if text else "")
    return words.str.strip()


def score_columns(found: pd.DataFrame, name: str) -> tuple[pd.DataFrame, pd.Series]:
    """The CSV's columns of a score, and the shown one."""
    data = pd.DataFrame({name: found["mean"], f"{name} sd": found["sd"]})
    for suffix in ("n", "of", "diverged", "one_class"):
        data[f"{name} {suffix}"] = found[suffix].astype("Int64")
    return data, score(found)


def settings_of(found: pd.DataFrame, heads: Mapping[str, str]) -> pd.DataFrame:
    """The key columns under their heads, methods and tasks by their names. ``heads``: key -> head of its column."""
    return pd.DataFrame(
        {head: found[key].map(lambda v, k=key: WORDS.get(k, {}).get(v, v)) for key, head in heads.items()}
    )


def score_table(
    study: Study, name: str, title: str, found: pd.DataFrame, heads: Mapping[str, str], *words: str
) -> Table:
    """A row for each setting: its labels, live parameters, every number of every task, the average of the tasks.

    ``heads``: key -> head of its column. ``words``: sentences of the caption.
    """
    keys = list(heads)
    places = found[keys].drop_duplicates().reset_index(drop=True)
    by_task = found.groupby([*keys, "task"], sort=False, dropna=False)
    live = by_task["live"].first().groupby(level=keys, sort=False, dropna=False).mean()
    dependence = by_task["data_dependence"].first().groupby(level=keys, sort=False, dropna=False).mean()
    per_task = by_task["mean"].agg(lambda x: x.mean(skipna=False)).unstack("task").reindex(columns=study.tasks)
    runs = by_task[["n", "of"]].first().groupby(level=keys, sort=False, dropna=False).sum()
    index = pd.MultiIndex.from_frame(places) if len(keys) > 1 else pd.Index(places[keys[0]])
    data = settings_of(places, heads)
    show = data.map(str)
    data["live parameters"] = tables.counts(live.reindex(index).reset_index(drop=True))
    show["live parameters"] = tables.size(data["live parameters"])
    if dependence.notna().any():
        data["data dependence"] = dependence.reindex(index).to_numpy()
        show["data dependence"] = tables.number(data["data dependence"])
    for label in [column.label for task in study.tasks for column in study.columns(task)]:
        part = places.merge(found[found["label"] == label], on=keys, how="left")
        there = part["n"].notna()
        columns, words_ = score_columns(
            part.where(there, part.assign(points=[()] * len(part), n=0, of=0, diverged=0, one_class=0, reasons="")),
            label,
        )
        data = pd.concat([data, columns.where(there)], axis=1)
        show[label] = words_.where(there, EMPTY)
    average = per_task.mean(axis=1, skipna=False).reindex(index).reset_index(drop=True)
    done, of = (runs[name].reindex(index).reset_index(drop=True) for name in ("n", "of"))
    data["average"] = average
    partly = tables.joined(" ({:.0f}/{:.0f})", done, of).where((done < of) & average.notna(), "")
    show["average"] = tables.number(average) + partly
    caption = " ".join([*words, COVERED, "Average: over tasks, two numbers of one task averaged first.", LIVE])
    return Table(name, title, caption, data, show)


def intervals(found: pd.DataFrame, drawn: Mapping[str, Draws]) -> pd.DataFrame:
    """95 % intervals of each cell: bootstrap over seeds and items, Student's t over seeds; NaN where there is none."""
    nothing = Interval(np.nan, np.nan)
    both = [
        (*(drawn[label].interval(ids) if label in drawn else nothing), *t_interval(points))
        for label, ids, points in zip(found["label"], found["run_ids"], found["points"], strict=True)
    ]
    names = ["bootstrap interval", "bootstrap interval high", "t interval", "t interval high"]
    return pd.DataFrame(both, columns=names, index=found.index, dtype=float)


def detail_table(study: Study, found: pd.DataFrame, heads: Mapping[str, str], drawn: Mapping[str, Draws]) -> Table:
    """Everything about each cell: both SDs, selected and last weights, both intervals, parameters."""
    found = found.dropna(subset="label").reset_index(drop=True)
    scored = found["points"].map(len) > 0
    ranges = intervals(found, drawn).where(scored)
    ahead = (found["select"] - found["mean"]).where(found["split"] == "report")
    data = settings_of(found, heads).assign(metric=found["label"])
    data["runs"], data["runs of"] = found["n"], found["of"]
    data["selected"], data["SD"], data["sample SD"] = found["mean"], found["sd"], found["sample_sd"]
    data = pd.concat([data, ranges], axis=1)
    data["last"], data["last SD"], data["select - report"] = found["last"], found["last_sd"], ahead
    data["live"], data["trainable"] = tables.counts(found["live"]), tables.counts(found["trainable"])
    data["peak learning rate"] = found["rates"].where(scored, "")
    data["trials in this study"] = found["trials"].where(scored).astype("Int64")
    data["remarks"] = remarks(found)
    if found["data_dependence"].notna().any():
        data["data dependence"] = found["data_dependence"]
    show = data[[*heads.values(), "metric"]].map(str)
    show["runs"] = tables.joined("{}/{}", data["runs"], data["runs of"])
    for name in ("selected", "SD", "sample SD"):
        show[name] = tables.number(data[name])
    for name in ("bootstrap interval", "t interval"):
        show[name] = tables.interval(data[name], data[f"{name} high"])
    show["last"], show["last SD"] = tables.number(data["last"]), tables.number(data["last SD"])
    show["select - report"] = tables.number(data["select - report"], sign=True)
    show["live"], show["trainable"] = tables.size(data["live"]), tables.size(data["trainable"])
    for name in ("peak learning rate", "trials in this study", "remarks"):
        show[name] = tables.plain(data[name])
    if "data dependence" in data:
        show["data dependence"] = tables.number(data["data dependence"])
    caption = (
        "Scores in points. Intervals: 95 %; bootstrap over seeds and items, t over seeds only (docs/statistics.md says "
        "how often they cover). Select - report: difference of the two scores of the selected weights: optimism about "
        "the choice among them and, where the splits are of two files, the difference of those."
    )
    return Table("details", "Details of each cell", caption, data, show)


def published_table(
    study: Study, found: pd.DataFrame, heads: Mapping[str, str], sources: Sequence[tuple[str, str]], settings: pd.Series
) -> Table | None:
    """Published numbers beside ours, with the difference; None where nothing was published on these settings.

    ``sources``: (source, table) as in results/published. ``settings``: of each row of ``found`` the key of its
    published numbers, such as ``method.r=8``; None = whatever is printed.
    """
    rows = [
        (index, theirs)
        for index, cell in found.iterrows()
        for source in sources
        if (
            theirs := published.lookup(
                *source, cell["method"], cell["task"], cell["metric"], cell["split"], settings[index]
            )
        )
        is not None
    ]
    if not rows:
        return None
    ours = found.loc[[index for index, _ in rows]].reset_index(drop=True)
    theirs = pd.DataFrame([each for _, each in rows]).reset_index(drop=True)
    data = settings_of(ours, heads).assign(metric=ours["label"])
    columns, words = score_columns(ours, "ours")
    data = pd.concat([data, columns], axis=1)
    data["published"], data["published sd"] = theirs["mean"], theirs["sd"]
    data["difference"] = ours["mean"] - theirs["mean"]
    data["our live parameters"] = tables.counts(ours["live"])
    data["printed parameters"], data["source"] = theirs["params"].replace("", EMPTY), theirs["where"]
    show = data[[*heads.values(), "metric"]].map(str).assign(ours=words)
    show["published"] = tables.mean_sd(theirs["mean"], theirs["sd"]).where(
        theirs["sd"].notna(), tables.number(theirs["mean"])
    )
    show["difference"] = tables.number(data["difference"], sign=True)
    show["our live parameters"] = tables.size(data["our live parameters"])
    show["printed parameters"], show["source"] = data["printed parameters"], data["source"]
    caption = " ".join(["Points. Difference: ours minus published.", *_unlike(study, sources)])
    return Table("published", "Beside published numbers", caption, data, show)


def _unlike(study: Study, sources: Sequence[tuple[str, str]]) -> list[str]:
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
    return [f"Not like for like: {'; '.join(reasons)}."] if reasons else []


def beside_constant_answer(
    study: Study, table: Table, found: pd.DataFrame, heads: Mapping[str, str], drawn: Mapping[str, Draws]
) -> Table:
    """The score table headed by the constant answer, with a note on the cells that are not shown to be better.

    As it is where no column has classes and items (a regression, several items of one question, no logits).
    """
    points = {label: each.constant for label, each in drawn.items() if not np.isnan(each.constant)}
    if not points:
        return table
    labels = {task: [column.label for column in study.columns(task)] for task in study.tasks}
    row: dict[str, float | str] = {table.data.columns[0]: "Constant answer"} | points
    row["average"] = float(
        np.mean([np.mean([points.get(label, np.nan) for label in each]) for each in labels.values()])
    )
    first = pd.DataFrame([row]).reindex(columns=table.data.columns)
    data = pd.concat(
        [first.astype({c: table.data[c].dtype for c in first if first[c].isna().all()}), table.data], ignore_index=True
    )
    words = {
        name: f"{value:.2f}"
        if isinstance(value, float) and not np.isnan(value)
        else value
        if isinstance(value, str)
        else EMPTY
        for name, value in row.items()
    }
    show = pd.concat(
        [pd.DataFrame([{name: words.get(name, EMPTY) for name in table.show}]), table.show], ignore_index=True
    )
    notes = [
        "Constant answer: one class for every item, the one that scores best on the report split, which no run is told."
    ]
    doubtful = found[[_may_be_constant(cell, drawn) for _, cell in found.iterrows()]]
    if len(doubtful):
        names = settings_of(doubtful, heads).astype(str).agg(" ".join, axis=1)
        listed = [f"{label}: {', '.join(part)}" for label, part in names.groupby(doubtful["label"], sort=False)]
        listed.sort(key=lambda words: [*drawn].index(words.partition(": ")[0]))
        notes.append(
            "Not shown to be better than that, as the bootstrap interval (seeds and items) or the t interval (seeds) "
            f"of the difference does not lie above 0 (95 %, uncorrected): {'; '.join(listed)}."
        )
    return Table(table.name, table.title, table.caption, data, show, [*table.notes, " ".join(notes)])


def _may_be_constant(cell: pd.Series, drawn: Mapping[str, Draws]) -> bool:
    """Whether no interval shows the cell to be better than the constant answer; not where it has no score."""
    each = drawn.get(cell["label"])
    if each is None or np.isnan(each.constant) or not cell["points"]:
        return False
    lows = [each.above_constant(cell["run_ids"]).low, t_interval(cell["points"]).low - each.constant]
    known = [low for low in lows if not np.isnan(low)]
    return not known or min(known) <= 0


def by_seed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with a record, by their seeds; of repeated seeds the last."""
    done = rows[rows["done"]]
    there = [name for name in SEEDS if name in done]
    return done.drop_duplicates(there, keep="last").set_index(there)


def paired(a: pd.DataFrame, b: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """``columns`` of ``a``, and of ``b`` as ``<column>_b``, at the seeds that both have; rows as of :func:`by_seed`."""
    common = a.index.intersection(b.index, sort=False)
    return a.loc[common, columns].join(b.loc[common, columns].add_suffix("_b"))
