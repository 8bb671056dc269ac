"""What a task is: the torch-free description that one file of conf/task holds."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sora import files
from sora.errors import UserError

CONF = files.CONF / "task"


@dataclass
class TaskConfig:
    """One task, as its YAML in conf/task gives it.

    ``labels`` lists the label strings in the order of the classifier's outputs; an empty list means
    regression to a single real target. Splits are named ``train``, ``validation`` and ``test`` (and
    ``validation_mm``, ``test_mm`` for MNLI's mismatched genres); a labelled set without
    training data is ``diagnostic``.

    ``scoring`` says what an example's logits are, and what the metrics count:

    classes      one logit per label (one in all for a regression); an example counts by itself
    choices      one head scores each choice, and the choices' scores are the logits (COPA)
    answers      as classes, but examples belong to questions, and ``em`` counts questions (MultiRC)
    candidates   of the examples of a question the one surest to be right is the answer (ReCoRD)
    """

    name: str
    version: int = 1  # raised whenever the same data would give other numbers
    benchmark: str = "own"  # glue | superglue | synthetic | own
    reader: str = "own"  # tsv | jsonl: official files; synthetic; own: any files, and what is not said is found in them
    layout: str = "flat"  # jsonl: what a row holds: flat | copa | multirc | record | wic | wsc
    scoring: str = "classes"  # classes | choices | answers | candidates
    spans: str = ""  # marked words: vectors (theirs join the pooled one) | marks (signs in the text)
    truncate: str = ""  # what gives way to max_length: text_a alone; "" = the longer text first
    folder: str = ""  # folder inside the official download, such as "SST-2"
    generator: str = ""  # synthetic tasks: pair | single | graded
    files: dict[str, Any] = field(default_factory=dict)  # split -> file name; own: any source of rows
    text: list[str] = field(default_factory=list)  # own: the text column, or two
    label: str = ""  # own: the column of the labels
    quoting: str = "auto"  # own: auto | csv | none, what quotes in delimited text are
    hub: str = ""  # data set on the Hugging Face hub with the same examples as parquet
    revision: str = ""  # pinned commit of that data set
    hub_config: str = ""  # its folder there
    hub_splits: dict[str, str] = field(default_factory=dict)  # split -> name there, where that differs
    hub_columns: dict[str, str] = field(default_factory=dict)  # text_a, text_b, label, id -> column there
    columns: dict[str, str] = field(default_factory=dict)  # text_a, text_b, label -> header or 0-based index
    test_columns: dict[str, str] = field(default_factory=dict)  # what the test file names differently
    ignored_keys: list[str] = field(default_factory=list)  # jsonl: what a row has that nothing here is made of
    mismatched: dict[str, list[int]] = field(default_factory=dict)  # jsonl: split -> rows with officially wrong spans
    headerless: list[str] = field(default_factory=list)  # splits whose file has no header line
    short_rows: str = "refuse"  # refuse | skip: a row with fewer columns than the header
    empty_text: str = "refuse"  # refuse | keep: a row without text in a text column
    labels: list[str] = field(default_factory=list)
    score_range: list[float] = field(default_factory=list)  # regression: lowest and highest valid target
    standardize: bool = False  # regression: learn targets less the training split's mean, in units of its SD
    metrics: list[str] = field(default_factory=lambda: ["accuracy"])  # reported, first one leads
    select_metric: str = "accuracy"  # the checkpoint is chosen by it
    sizes: dict[str, int] = field(default_factory=dict)  # official number of rows of each split
    items: dict[str, int] = field(default_factory=dict)  # predictions asked for, where a row asks for several
    trained_on: list[str] = field(default_factory=list)  # a diagnostic set: the tasks whose model it examines
    submission: dict[str, str] = field(default_factory=dict)  # split -> name of the leaderboard's file
    submission_labels: list[str] = field(default_factory=list)  # its words, where they are not those of labels
    train_rows: int = 0  # a fixed slice of so many training rows stands for all; 0 = all
    paper_split: str = "halve"  # protocol=paper: halve (validation) | heldout (1,000 of train)
    max_length: int = 128  # tokens; what trainer.max_length=null stands for
    source: str = ""  # where the data comes from, for people

    @property
    def regression(self) -> bool:
        """Whether the target is a real number rather than a class."""
        return not self.labels

    @property
    def num_outputs(self) -> int:
        """Width C of the classifier's output: one per class, 1 for regression."""
        return len(self.labels) or 1

    @property
    def choices(self) -> int:
        """Texts that are scored for one example: K choices, otherwise 1."""
        return len(self.labels) if self.scoring == "choices" else 1

    @property
    def head_outputs(self) -> int:
        """Width of the head: C, but one score where it reads every choice by itself."""
        return 1 if self.scoring == "choices" else self.num_outputs

    @property
    def span_vectors(self) -> int:
        """Marked spans whose vectors the head reads."""
        return 2 if self.spans == "vectors" else 0

    @property
    def text_columns(self) -> list[str]:
        """``["text_a"]`` or ``["text_a", "text_b"]``."""
        return [key for key in ("text_a", "text_b") if key in self.columns]


def load_task(name: str, folder: Path = CONF) -> TaskConfig:
    """Reads conf/task/<name>.yaml without Hydra (for the evaluate module and for tests).

    Raises UserError when there is no such file or when it has a field that TaskConfig lacks.
    """
    import yaml  # here, because importing a task should not cost a YAML parser

    path = folder / f"{name}.yaml"
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    if name not in known:
        raise UserError(f"task {name!r} has no file in conf/task; choose one of {', '.join(known)}")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    unknown = sorted(set(values) - {f.name for f in fields(TaskConfig)})
    if unknown:
        raise UserError(
            f"conf/task/{name}.yaml has unknown fields {', '.join(unknown)}; TaskConfig lists those there are"
        )
    return TaskConfig(**{key: value for key, value in values.items() if value is not None})
