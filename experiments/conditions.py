"""Under which conditions the runs of a study were trained: one table for each page, and a few sentences above it."""

from __future__ import annotations

import pandas as pd

from experiments.labels import METHODS, in_words
from experiments.study import Study
from experiments.tables import EMPTY, pipes
from sora.runs.recipes import values_of

RATE = "trainer.learning_rate"
LARGEST_RHO, SMALLEST_TRAVEL = 0.5, 0.5  # those of sora/methods/regime.py, which would need torch here
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
POOLINGS = {"cls": "of the first token", "mean": "over all tokens"}
TRAINER = ("clip", "warmup_ratio", "weight_decay")  # in one sentence for all runs, as they seldom differ
FLAGS = {"synthetic": "on a generated task", "random_weights": "on random weights", "partial": "on partial data"}


def conditions(study: Study) -> str:
    """Markdown: the sentences, then the table."""
    return described(study) + (f"\n\n{pipes(conditions_table(study))}" if len(study.done) else "")


def conditions_table(study: Study) -> pd.DataFrame:
    """A row for each task and the methods that were trained alike on it, in words."""
    done = study.done
    rows = pd.DataFrame(
        [
            _row(task, str(method), part)
            for task in study.tasks
            for method, part in done[done["task"] == task].groupby("method", sort=False)
        ]
    ).fillna(EMPTY)
    alike = rows.groupby([name for name in rows if name != "method"], sort=False)["method"].agg(", ".join)
    return alike.reset_index()[[*rows]]


def rho(runs: pd.DataFrame) -> pd.Series:
    """ξ / learning rate of SoRA's runs by their records, of records without a regime by their settings; else NaN."""
    xi, rate = pd.to_numeric(runs["method.threshold"]), pd.to_numeric(runs[RATE])
    settings = (xi / rate).where((xi > 0) & (runs["method"] == "sora"))
    return pd.to_numeric(runs["regime.rho"]).fillna(settings)


def caution(runs: pd.DataFrame) -> str:
    """In how many of SoRA's runs the loss could hardly keep a rank, in a sentence; empty where it could in all."""
    sora = runs[(runs["method"] == "sora") & runs["done"].astype(bool)]
    hopeless = (rho(sora) > LARGEST_RHO) | (pd.to_numeric(sora["regime.travel"]) < SMALLEST_TRAVEL)
    if not hopeless.any():
        return ""
    return (
        f"In {hopeless.sum()} of {len(sora)} runs of SoRA ρ (ξ / learning rate) is above {LARGEST_RHO} or travel (how "
        f"far a gate can move in all) below {SMALLEST_TRAVEL}: hardly a gate can be held up by the loss, where ranks "
        "stay is expected to follow the initial draw (docs/regime.md)."
    )


def described(study: Study) -> str:
    """Backbone, protocol, pooling, head, precision, seeds, flags, and how settings were chosen, in sentences."""
    done = study.done
    sentences = [
        f"Backbone {backbone}. {str(values_of('backbone', str(backbone)).get('note', '')).strip()}".strip()
        for backbone in study.values("backbone")
    ]
    sentences += [f"Protocol {name}: {PROTOCOLS.get(name, 'see conf/protocol')}." for name in study.values("protocol")]
    sentences += [
        f"Pooling {name}{f' ({POOLINGS[name]})' if name in POOLINGS else ''}."
        for name in study.values("backbone.pooling")
    ]
    sentences += [f"Head {name}: {HEADS.get(name, name)}." for name in study.values("head")]
    sentences += [f"Precision {name}." for name in study.values("precision")]
    trained = done[_trained(done)]
    if words := ", ".join(f"{key} {_listed(trained[f'trainer.{key}'])}" for key in TRAINER if f"trainer.{key}" in done):
        sentences.append(f"Training: {words} (keys of trainer.); all other settings are in each run's record.")
    sentences.append(f"Seeds {_listed(study.runs['seed'])}.")
    flags = {words: int(done[f"flags.{flag}"].sum()) for flag, words in FLAGS.items()}
    flags |= {"diverged": int(done["diverged"].sum()), "that answer one class alone": int(done["one_class"].sum())}
    if flagged := ", ".join(f"{count} {words}" for words, count in flags.items() if count):
        sentences.append(f"Of {len(done)} runs: {flagged}.")
    if len(done):
        sentences.append(_chosen(done))
    return " ".join(sentences)


def _row(task: str, method: str, runs: pd.DataFrame) -> dict[str, str]:
    rows = values_of("task", task).get("train_rows")
    found = {
        "task": in_words(task) + (f", {rows:,} fixed rows" if rows else ""),
        "method": METHODS.get(method, method),
        "examples": _listed(runs["data.train"], ",.0f"),
        "steps": _listed(runs["last.step"]),
        "epochs": _listed(pd.to_numeric(runs["epochs"]).round(1)),
        "batch": _listed(runs["trainer.batch_size"].where(_trained(runs))),
        "peak learning rate": _listed(runs[RATE]),
        "ξ": _listed(pd.to_numeric(runs["method.threshold"])),
        "ρ": _listed(rho(runs).round(3)),
        "travel": _listed(pd.to_numeric(runs["regime.travel"]).round(3)),
    }
    if trials := sorted(set(_trials(runs)) - {""}):
        found["chosen before by"] = "; ".join(trials)
    if runs["schedule.steps"].notna().any():
        count = runs["schedule.levels"].map(lambda levels: len(levels) if isinstance(levels, tuple) else None)
        found["levels"] = f"{_listed(count)} of {_listed(runs['schedule.steps'])} steps"
    return found


def _trained(runs: pd.DataFrame) -> pd.Series:
    """Whether a run made a step: a probe, a zero-shot score and a LoRA that was cut made none."""
    return pd.to_numeric(runs["last.step"]) > 0


def _listed(values: pd.Series, form: str = "g") -> str:
    """The values, ascending, each once; a dash where there are none."""
    return ", ".join(f"{value:{form}}" for value in sorted(values.dropna().unique())) or EMPTY


def _chosen(done: pd.DataFrame) -> str:
    """Whether settings were chosen beforehand, by a recipe of ours, and for all methods by the same trials."""
    trials = _trials(done)
    if not trials.any():
        return "No recipe of these runs names trials that chose its settings."
    if without := int((trials == "").sum()):
        there = len(done) - without
        return f"The settings of {there} of {len(done)} runs were chosen by earlier trials, which their records name."
    tasks = done["task"]
    alike = trials.groupby(tasks).nunique().max() == 1 and done.groupby(tasks)["method"].nunique().max() > 1
    words = "Settings were chosen by earlier trials, which each record names"
    return words + ("; the same for every method." if alike else ".")


def _trials(runs: pd.DataFrame) -> pd.Series:
    """By which trials a recipe chose each run's settings, without the study they are in; empty where none did."""
    tuned = runs["provenance.recipe.tuned"].map(lambda text: text if isinstance(text, str) else "")
    return tuned.astype(object).str.replace(r" \([^)]*\)", "", regex=True)
