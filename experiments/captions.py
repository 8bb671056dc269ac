"""What every table of a study must say: which examples, which head, which weights, how many trials."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from experiments.groups import Group
from experiments.study import Record, Study, configured

CONF = Path(__file__).resolve().parents[1] / "conf"
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


def caption(study: Study, *sentences: str, groups: Iterable[Group] = ()) -> str:
    """``sentences``, then backbone and its note, protocol, head, seeds and trials of the study, in words."""
    records = [run.record for run in study.runs if run.record is not None]
    parts = [*sentences]
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
    if seeds := study.values("seed"):
        parts.append(f"Seeds {', '.join(map(str, seeds))}.")
    trials = sorted({group.trials for group in groups})
    if trials == [1]:
        parts.append(_tuning(records))
    elif trials:
        parts.append(
            f"Trials per cell: {', '.join(map(str, trials))}; the setting that is best on the select split stands."
        )
    limits = [value for value in said(records, "trainer.max_steps") if value != "None"]
    if limits:
        parts.append(f"Training stopped after {' or '.join(limits)} steps at the latest.")
    if flagged := _flagged(records):
        parts.append(flagged)
    return " ".join(parts)


def _tuning(records: list[Record]) -> str:
    """What was tried before the runs of a table that has one trial a cell."""
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
    if without := found.count(""):
        return f"Chosen beforehand: {told}. {without} of {len(found)} runs have a setting that nothing chose."
    return f"Chosen beforehand, for every method and task alike: {told}."


def said(records: Iterable[Record], axis: str) -> list[str]:
    """What the records' configurations say on an axis, each value once."""
    return list(dict.fromkeys(str(configured(record, axis)) for record in records))


def backbone_note(name: str) -> str:
    """What conf/backbone says must be told beside every number of that backbone; empty where it says nothing."""
    file = CONF / "backbone" / f"{name}.yaml"
    if not file.is_file():  # somebody's own backbone, in a folder of theirs
        return ""
    return str(yaml.safe_load(file.read_text(encoding="utf-8")).get("note", "")).strip()


def learning_rates(groups: Iterable[Group]) -> str:
    """``Peak learning rate: LoRA 0.0008; SoRA 0.0008.``, or an empty string without records."""
    from experiments.columns import method_label

    rates: dict[str, set[float]] = {}
    for group in groups:
        if found := peak_learning_rates(group):
            method = method_label(group.records[0]["config"]["method"]["name"])
            rates.setdefault(method, set()).update(found)
    told = "; ".join(f"{method} {', '.join(f'{rate:g}' for rate in sorted(found))}" for method, found in rates.items())
    return f"Peak learning rate: {told}." if told else ""


def peak_learning_rates(group: Group) -> list[float]:
    """Those of the group's runs, ascending, each once."""
    return sorted({float(configured(record, "trainer.learning_rate") or 0) for record in group.records})


def _flagged(records: list[Record]) -> str:
    """Counts of runs that a reader would not expect among real ones."""
    words = {"synthetic": "on a generated task", "random_weights": "on random weights", "partial": "on partial data"}
    counts = {word: sum(record["flags"][flag] for record in records) for flag, word in words.items()}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"Of {len(records)} runs: {told}." if told else ""
