"""A sweep without a study of its own: every setting with its scores, nothing compared, nothing refused."""

from experiments.scores import cells, score_columns, settings_of
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
    data = data.join(score_columns(found, "last weights", "last", "last_sd"))
    data["live parameters"] = counts(found["live"])
    if found["data_dependence"].notna().any():
        data["data dependence"] = found["data_dependence"]
    formats = {"live parameters": size, **dict.fromkeys(axes, "{:g}")}
    return [Table("scores", "Scores of the sweep", "Mean ± population SD over seeds, in points.", data, formats)]
