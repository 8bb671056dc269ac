"""A sweep without a study of its own: every setting with its scores, nothing compared, nothing refused."""

from experiments import tables
from experiments.scores import cells, score_columns, settings_of
from experiments.study import REFUSABLE, SEEDS, Study
from experiments.tables import Artefact, Table

TITLE = "Sweep"
ACCEPTS = frozenset(REFUSABLE)


def build(study: Study) -> list[Artefact | None]:
    """One row per setting; seeds are repetitions. Tasks with several metrics have a row for each."""
    axes = [axis for axis in study.axes if axis not in SEEDS]
    keys = [axis for axis in axes if axis != "task"]
    found = cells(study, study.runs.assign(trials=1), *keys)
    data = settings_of(found, {axis: axis for axis in axes}).assign(metric=found["label"])
    show = data.apply(tables.plain)
    for name, mean, sd in (("selected weights", "mean", "sd"), ("last weights", "last", "last_sd")):
        columns, show[name] = score_columns(found.assign(mean=found[mean], sd=found[sd]), name)
        data = data.join(columns)
    data["live parameters"] = tables.counts(found["live"])
    show["live parameters"] = tables.size(data["live parameters"])
    if found["data_dependence"].notna().any():
        data["data dependence"] = found["data_dependence"]
        show["data dependence"] = tables.number(data["data dependence"])
    return [Table("scores", "Scores of the sweep", "Mean ± population SD over seeds, in points.", data, show)]
