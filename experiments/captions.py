"""What every table of a study must say: which examples, which head, which weights, how many trials."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from experiments.artefacts import Caption
from experiments.groups import Group
from experiments.study import Record, Study, configured
from sora.recipes import values_of

RATE = "trainer.learning_rate"
PROTOCOLS = {
    "paper": "selected and reported on the two halves of the validation set (SST-2, QNLI, QQP: selected on 1,000 "
    "training examples, reported on the whole validation set), as the SoRA authors' code splits",
    "dev": "selected and reported on the same validation set, which is optimistic",
    "holdout": "selected on at most 1,000 examples taken from the training set, reported on the whole validation set",
}
HEADS = {
    "classifier+pooler": "classifier and pooler train",
    "classifier": "the classifier trains, the pooler is frozen",
    "frozen": "classifier and pooler keep their random or pretrained weights, as in the SoRA authors' code",
}


def caption(study: Study, *sentences: str, groups: Iterable[Group] = ()) -> Caption:
    """``sentences``; as conditions backbone and its note, protocol, head, seeds and trials of the study, in words."""
    records = [run.record for run in study.runs if run.record is not None]
    parts: list[str] = []
    backbones = study.values("backbone") or said(records, "backbone")
    for backbone in backbones:
        note = backbone_note(str(backbone))
        parts.append(f"Backbone {backbone}." + (f" {note}" if note else ""))
    for protocol in said(records, "protocol") or study.values("protocol"):
        words = PROTOCOLS.get(str(protocol))
        parts.append(f"Protocol {protocol}: {words}." if words else f"Protocol {protocol}.")
    for head in said(records, "head"):
        words = HEADS.get(str(head))
        parts.append(f"Head {head}: {words}." if words else f"Head {head}.")
    for precision in said(records, "precision"):
        parts.append(f"Precision {precision}.")
    if seeds := study.values("seed"):
        parts.append(f"Seeds {', '.join(map(str, seeds))}.")
    for task in said(records, "task"):
        if rows := values_of("task", task).get("train_rows"):
            parts.append(f"{task} trains on {rows:,} fixed rows of its training file.")
    groups = list(groups)
    trials = sorted({group.trials for group in groups})
    if not groups and records and len(study.axes.get(RATE, ())) < 2:
        parts.append(_rates(records))
    if trials == [1] or (not groups and records and len(study.axes.get(RATE, ())) < 2):
        parts.append(_tuning(records, [axis for axis in study.axes if _decides(axis) and len(study.axes[axis]) > 1]))
    elif trials:
        parts.append(
            f"Trials per cell: {', '.join(map(str, trials))}; the setting that is best on the select split stands."
        )
    parts += _lengths(records)
    parts += _thresholds(study, records)
    if flagged := _flagged(records):
        parts.append(flagged)
    return Caption(" ".join(sentences), tuple(filter(None, parts)))


def _decides(axis: str) -> bool:
    """Whether runs that differ on an axis could want other learning rates."""
    return axis.startswith("method.") or axis == "head"


def _lengths(records: list[Record]) -> list[str]:
    """How long the runs trained, where a number of steps bounds them or levels of sparsity follow."""
    told = []
    levelled = [record for record in records if record["level_results"]]
    pairs = dict.fromkeys(
        (configured(record, "trainer.max_steps"), configured(record, "trainer.batch_size")) for record in records
    )
    if limits := [f"{steps} steps of {size}" for steps, size in pairs if steps]:
        what = "Training before the levels" if levelled else "Training"
        told.append(f"{what} stopped after {' or '.join(limits)} examples at the latest.")
    if unlimited := [str(size) for steps, size in pairs if not steps]:
        told.append(f"Batches of {' or '.join(unlimited)} examples.")
    trained = [record for record in levelled if configured(record, "schedule.kind") == "sparsify"]
    for count, steps, epochs in dict.fromkeys(
        (len(record["level_results"]) - 1, configured(record, "schedule.steps"), configured(record, "schedule.epochs"))
        for record in trained
        if record["status"] == "ok"
    ):
        each = f"{steps} steps" if steps else f"{float(epochs or 0):g} epochs"
        told.append(f"A sparsifying schedule then trained {count} levels of {each} each.")
    return told


def _thresholds(study: Study, records: list[Record]) -> list[str]:
    """SoRA's ξ, which decides how many parameters stay, where the study does not vary it."""
    axis = "method.threshold"
    tasks: dict[float, dict[str, None]] = {}
    for record in records:
        if (value := configured(record, axis)) is not None:
            tasks.setdefault(float(value), {})[str(configured(record, "task"))] = None
    if not tasks or len(study.axes.get(axis, ())) > 1:
        return []
    when = " before the levels" if any(record["level_results"] for record in records) else ""
    told = (f"{value:g}" + (f" ({', '.join(names)})" if len(tasks) > 1 else "") for value, names in tasks.items())
    return [f"SoRA's threshold ξ{when}: {', '.join(told)}."]


def _tuning(records: list[Record], varied: Sequence[str] = ()) -> str:
    """What was tried before the runs of a table that has one trial a cell.

    ``varied``: the axes of the study whose values the trials did not tell apart.
    """
    found = [record["provenance"].get("recipe", {}).get("tuned", "") for record in records]
    if not any(found):
        return "One trial per method and task: no hyper-parameter was chosen on these examples."
    studies: dict[str, set[str]] = {}
    for each in filter(None, found):
        words, _, study = each.partition(" (")
        studies.setdefault(words, set()).update({study.rstrip(")")} - {""})
    told = "; ".join(
        words + (f" ({', '.join(sorted(named))})" if named else "") for words, named in sorted(studies.items())
    )
    if varied:
        told += f"; with the default of {', '.join(varied)} alone"
    if without := found.count(""):
        return f"Chosen beforehand: {told}. {without} of {len(found)} runs have a setting that nothing chose."
    return f"Chosen beforehand{_alike(records)}: {told}."


def _alike(records: Iterable[Record]) -> str:
    """Whether the methods had the same trials on each task, where there are several."""
    trials: dict[str, dict[str, set[str]]] = {}
    for record in records:
        by_method = trials.setdefault(str(configured(record, "task")), {})
        found = record["provenance"].get("recipe", {}).get("tuned", "").partition(" (")[0]
        by_method.setdefault(str(configured(record, "method")), set()).add(found)
    several = [list(by_method.values()) for by_method in trials.values() if len(by_method) > 1]
    if not several:
        return ""
    same = all(words == each[0] for each in several for words in each)
    return ", for every method alike" if same else ", not for every method alike"


def said(records: Iterable[Record], axis: str) -> list[str]:
    """What the records' configurations say on an axis, each value once."""
    return list(dict.fromkeys(str(configured(record, axis)) for record in records))


def backbone_note(name: str) -> str:
    """What conf/backbone says must be told beside every number of that backbone; empty where it says nothing."""
    return str(values_of("backbone", name).get("note", "")).strip()


def learning_rates(groups: Iterable[Group]) -> str:
    """``Peak learning rate: LoRA 0.0008; SoRA 0.0008.``, or an empty string without records."""
    return _rates([record for group in groups for record in group.records])


def _rates(records: Iterable[Record]) -> str:
    from experiments.columns import method_label

    rates: dict[str, set[float]] = {}
    for record in records:
        method = method_label(record["config"]["method"]["name"])
        rates.setdefault(method, set()).add(float(configured(record, RATE) or 0))
    told = "; ".join(f"{method} {', '.join(f'{rate:g}' for rate in sorted(found))}" for method, found in rates.items())
    return f"Peak learning rate: {told}." if told else ""


def peak_learning_rates(group: Group) -> list[float]:
    """Those of the group's runs, ascending, each once."""
    return sorted({float(configured(record, RATE) or 0) for record in group.records})


def _flagged(records: list[Record]) -> str:
    """Counts of runs that a reader would not expect among real ones."""
    words = {"synthetic": "on a generated task", "random_weights": "on random weights", "partial": "on partial data"}
    counts = {word: sum(record["flags"][flag] for record in records) for flag, word in words.items()}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"Of {len(records)} runs: {told}." if told else ""
