"""A sweep without a study of its own: every setting with its scores, nothing compared, nothing refused."""

import pandas as pd

from experiments.conditions import RATE
from experiments.figures import heat_maps
from experiments.labels import in_words
from experiments.scores import cells, dependence, score_columns, settings_of
from experiments.study import REFUSABLE, SEEDS, Study
from experiments.tables import Artefact, Table, counts, size

TITLE = "Sweep"
ACCEPTS = frozenset(REFUSABLE)


def build(study: Study) -> list[Artefact | None]:
    """One row per setting; seeds are repetitions. Tasks with several metrics have a row for each."""
    axes = [axis for axis in study.axes if axis not in SEEDS]
    found = cells(study, study.runs.assign(trials=1), *(axis for axis in axes if axis != "task"))
    data = settings_of(found, {axis: axis for axis in axes}).assign(metric=found["label"])
    data = data.join(score_columns(found, "selected weights"))
    data = data.join(score_columns(found.assign(one_class=0), "last weights", "last", "last_sd"))
    data["live parameters"] = counts(found["live"])
    data = data.join(dependence(found))
    formats = {"live parameters": size, **dict.fromkeys(axes, "{:g}")}
    words = (
        "Mean ± population SD over seeds, in points, report split; (n/m): n of m runs. One-class: runs whose selected "
        "weights give every item one answer; of the last weights it is not known."
    )
    return [Table("scores", "Scores by setting", words, data, formats), *rate_by_threshold(study)]


def rate_by_threshold(study: Study) -> list[Artefact | None]:
    """SoRA's score and live ranks over learning rate and ξ, a panel for each task; nothing unless they vary alone."""
    if study.varied("task", "method", "method.threshold", "method.rho", RATE):  # settings are no seeds
        return []
    runs = study.done.dropna(subset=["method.threshold"])
    places = runs[["method.threshold", RATE]].drop_duplicates()
    if len(places) <= max(places.nunique()):
        return []
    maps: dict[str, dict[str, pd.DataFrame]] = {"score": {}, "ranks": {}}
    for task, part in runs.groupby("task", sort=False):
        for key, tables in maps.items():
            name = in_words(str(task), study.columns(str(task))[0].metric if key == "score" else "")
            grid = part.pivot_table(index=RATE, columns="method.threshold", values=key, aggfunc="mean")
            tables[name] = grid.rename(index="{:g}".format, columns="{:g}".format)
    words = "Mean over seeds of the selected weights; a colour scale of its own for each panel."
    return [
        heat_maps((name, title, words), maps[key], ("ξ", "peak learning rate", label), form)
        for key, name, title, label, form in (
            ("score", "score_by_rate_and_threshold", "Score by learning rate and ξ", "score (points)", "{:.1f}"),
            ("ranks", "ranks_by_rate_and_threshold", "Live ranks by learning rate and ξ", "live ranks", "{:.0f}"),
        )
    ]
