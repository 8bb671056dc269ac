"""The dataclasses of every configuration group: types, meanings, ranges, and what decides a run's name (torch-free).

Each field has its type, default, range and meaning here and nowhere else; those of the methods are in
``sora/method_config.py``. ``sora/options.py`` makes them known to Hydra, which checks types and keys;
``sora/coercion.py`` checks the ranges; ``sora/runs/run_id.py`` reads whether a field decides the numbers. The files of
``conf/`` hold what differs from a default, and data.

A field that equals its default is left out of the run id. Never change a default: raise ``version`` instead.
"""
# ruff: noqa: RUF009  (opt() returns a dataclass field, so no default is shared)

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

from sora.coercion import MAX_SEED, opt
from sora.errors import UserError
from sora.method_config import MethodConfig
from sora.schedules import spaced

HEADS = ("classifier+pooler", "classifier", "frozen")
MAX_STEPS = 10**9  # and epochs: more is a slip, and their product with other numbers leaves the range of a double
VERSION = "raised whenever the same data would give other numbers"


@dataclass
class BackboneConfig:
    """A pretrained encoder and how it is loaded.

    Where the weights come from is no science by itself: their identity (sha256, revision, or architecture and
    ``init_seed``) is what the run id takes, from ``Backbone.identity()``.
    """

    name: str
    family: str = opt("bert", "model_type in transformers; auto = what config.json next to the weights says")
    version: int = opt(1, VERSION, minimum=1)
    hub: str = opt("", "repository on the Hugging Face hub", science=False)
    revision: str = opt("", "pinned commit of that repository", science=False)
    sha256: dict[str, str] = opt({}, "weight file -> pinned hash", science=False)
    package: str = opt("", "pip package that carries the weights", science=False)
    package_folder: str = opt("", "folder of the weights inside that package", science=False)
    parts: list[str] = opt([], "pip packages, name==version, of a zip in parts", science=False)
    note: str = opt("", "what a reader of its numbers must know", science=False)
    dir: str = opt("", "folder with a folder for each backbone; empty = package or hub", science=False)
    weights: str = opt("pretrained", "pretrained, random or a folder; of backbone=auto also a hub name", science=False)
    init_seed: int = opt(0, "seed of random weights", minimum=0, maximum=MAX_SEED, science=False)
    dropout: float | None = opt(None, "probability; null = the architecture's own", minimum=0.0, below=1.0)
    pooling: str = opt("cls", "auto = as the architecture's own classifier pools", choices=("cls", "mean", "auto"))
    tokenizer: str = opt("spm", "DeBERTaV3: with sentencepiece's NFKC, or as transformers 5", choices=("spm", "hf"))
    golden: str = opt("", "token ids that its tokenizer must give (sora/backbones/golden_tokens.json)", science=False)
    arch: dict[str, Any] = opt({}, "transformers config of the architecture")


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
    version: int = opt(1, VERSION, minimum=1)
    benchmark: str = opt(
        "own", "the collection it belongs to", choices=("glue", "superglue", "synthetic", "own"), science=False
    )
    reader: str = opt(
        "own", "tsv, jsonl: official files; own: any files", choices=("own", "tsv", "jsonl", "synthetic"), science=False
    )
    layout: str = opt(
        "flat", "jsonl: what a row holds", choices=("flat", "copa", "multirc", "record", "wic", "wsc"), science=False
    )
    scoring: str = opt(
        "classes", "what an example's logits are", choices=("classes", "choices", "answers", "candidates")
    )
    spans: str = opt("", "marked words: vectors for the head, or signs in the text", choices=("", "vectors", "marks"))
    truncate: str = opt("", "what gives way to max_length; empty = the longer text first", choices=("", "text_a"))
    folder: str = opt("", 'folder inside the official download, such as "SST-2"', science=False)
    generator: str = opt("", "synthetic tasks", choices=("", "pair", "single", "graded"), science=False)
    files: dict[str, Any] = opt({}, "split -> file name; own: any source of rows", science=False)
    text: list[str] = opt([], "own: the text column, or two", science=False)
    label: str = opt("", "own: the column of the labels", science=False)
    quoting: str = opt("auto", "own: as data.quoting", choices=("auto", "csv", "none"), science=False)
    hub: str = opt("", "data set on the Hugging Face hub with the same examples as parquet", science=False)
    revision: str = opt("", "pinned commit of that data set", science=False)
    hub_config: str = opt("", "its folder there", science=False)
    hub_splits: dict[str, str] = opt({}, "split -> name there, where that differs", science=False)
    hub_columns: dict[str, str] = opt({}, "text_a, text_b, label, id -> column there", science=False)
    columns: dict[str, str] = opt({}, "text_a, text_b, label -> header or 0-based index", science=False)
    test_columns: dict[str, str] = opt({}, "what the test file names differently", science=False)
    mismatched: dict[str, list[int]] = opt({}, "jsonl: split -> rows with officially wrong spans", science=False)
    headerless: list[str] = opt([], "splits whose file has no header line", science=False)
    short_rows: str = opt(
        "refuse", "a row with fewer columns than the header", choices=("refuse", "skip"), science=False
    )
    empty_text: str = opt("refuse", "a row without text in a text column", choices=("refuse", "keep"), science=False)
    labels: list[str] = opt([], "the labels in the order of the classes; empty = regression")
    score_range: list[float] = opt([], "regression: lowest and highest valid target", science=False)
    standardize: bool = opt(False, "regression: learn targets less the training mean, in units of their SD")
    metrics: list[str] = opt(["accuracy"], "reported, first one leads")
    select_metric: str = opt("accuracy", "the checkpoint is chosen by it")
    sizes: dict[str, int] = opt({}, "official number of rows of each split", minimum=1, science=False)
    items: dict[str, int] = opt({}, "predictions asked for, where a row asks for several", minimum=1, science=False)
    trained_on: list[str] = opt([], "a diagnostic set: the tasks whose model it examines", science=False)
    submission: dict[str, str] = opt({}, "split -> name of the leaderboard's file", science=False)
    submission_labels: list[str] = opt([], "its words, where they are not those of labels", science=False)
    train_rows: int = opt(0, "a fixed slice of so many training rows stands for all; 0 = all", minimum=0, science=False)
    paper_split: str = opt(
        "halve", "protocol=paper: halve validation, or 1,000 of train", choices=("halve", "heldout"), science=False
    )
    max_length: int = opt(128, "tokens; what trainer.max_length=null stands for", minimum=4, science=False)
    source: str = opt("", "where the data comes from, for people", science=False)

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

    @property
    def is_pair(self) -> bool:
        """Whether an example is two texts; WSC's is one, with both words marked in it."""
        return "text_b" in self.columns if self.layout == "flat" else self.layout != "wsc"


@dataclass
class ProtocolConfig:
    """Which examples are trained on, selected on and reported on."""

    name: str = opt("paper", "docs/tasks.md has a table", choices=("paper", "dev", "holdout"))
    version: int = opt(1, VERSION, minimum=1)


@dataclass
class TrainerConfig:
    """The loop. Steps are optimiser steps."""

    epochs: float = opt(20.0, "passes over the training examples", above=0.0, maximum=MAX_STEPS)
    max_steps: int | None = opt(None, "in place of epochs; null = what the epochs are", minimum=1, maximum=MAX_STEPS)
    batch_size: int = opt(8, "examples per replica", minimum=1)
    learning_rate: float | None = opt(None, "peak; null = the method's", above=0.0)
    # transformers' old one puts eps before the bias correction and decays last
    optimizer: str | None = opt(
        None, "torch's, or transformers' old one; null = the method's", choices=("adamw", "adamw_hf"), unnamed="adamw"
    )
    weight_decay: float = opt(0.1, "of matrices; none on biases and SoRA's gates", minimum=0.0)
    warmup_ratio: float = opt(0.06, "share of the steps in which the rate rises", minimum=0.0, below=1.0)
    clip: float = opt(0.1, "per-replica gradient norm; 0 = off", minimum=0.0)
    max_length: int | None = opt(None, "tokens; null = the task's", minimum=4)
    bucketing: bool = opt(True, "batches of like length")
    eval_every: int | None = opt(
        1000, "steps between evaluations, also after the last; null = a tenth of all steps", minimum=1
    )
    train_subset: str = opt("both", "weights that are measured on it", choices=("both", "selected", "never"))
    checkpoint_every: int = opt(500, "steps between checkpoints", minimum=1, science=False)
    cuda_graphs: bool = opt(False, "give a GPU a step's forward and backward pass as a whole", science=False)
    log_every: int = opt(10, "steps between lines of the log", minimum=1, science=False)


MEASURING = ("max_length", "train_subset", "checkpoint_every", "log_every")  # of TrainerConfig: how it is measured


@dataclass
class ScheduleConfig:
    """What follows the ordinary training: levels of sparsity, each measured (sora/schedules.py).

    ``levels`` are thresholds xi (``sparsify``) or the shares of all gates that are zeroed (``one_shot``). An empty list
    means those that ``spacing`` lays from ``start`` to ``stop``; they are filled in before the run is named.
    """

    kind: str = opt("none", "what the levels are", choices=("none", "sparsify", "one_shot"))
    version: int = opt(1, VERSION, minimum=1)
    levels: list[float] = opt([], "thresholds xi, or shares of the gates; empty = by spacing", minimum=0.0)
    # Algorithm 1 is linear; the authors' third spacing, log_linear, is all but linear
    spacing: str = opt(
        "linear", "linear: equal differences; exp_linear: equal factors", choices=("linear", "log_linear", "exp_linear")
    )
    start: float = opt(1e-4, "first level; the paper starts there and does not say where it ends", minimum=0.0)
    stop: float = opt(1e-3, "last level", above=0.0)
    count: int = opt(10, "number of levels", minimum=2)
    epochs: float = opt(5.0, "passes per level (paper; released code: 15)", above=0.0, maximum=MAX_STEPS)
    steps: int | None = opt(None, "steps per level; null = what the epochs are", minimum=1, maximum=MAX_STEPS)
    lr: str = opt(
        "rewarm",
        "in each level: warm-up and decay anew, the peak, or 0 as in the released code",
        choices=("rewarm", "constant", "authors_zero"),
    )

    def resolved(self) -> ScheduleConfig:
        """With its levels filled in. Raises UserError for levels that cannot be."""
        if self.kind == "none":
            if self.levels:
                raise UserError("schedule.levels: given, but schedule.kind=none has no levels; choose another schedule")
            return self
        if not self.levels and self.stop <= self.start:
            raise UserError(f"schedule.stop: got {self.stop:g}, must be above schedule.start={self.start:g}")
        levels = self.levels or spaced(self.spacing, self.start, self.stop, self.count)
        if any(later <= earlier for earlier, later in pairwise(levels)):
            raise UserError(f"schedule.levels: got {levels}, must rise from level to level")
        if self.kind == "one_shot" and levels[-1] > 1:
            raise UserError(f"schedule.levels: got {levels[-1]:g}, must be at most 1: they are shares of the gates")
        return replace(self, levels=levels)

    def unused(self) -> frozenset[str]:
        """Fields that do nothing as the others are set, and so are no part of the run's name."""
        if self.kind == "none":
            return frozenset(f.name for f in fields(self)) - {"kind", "version"}
        training = {"epochs", "steps", "lr"} if self.kind == "one_shot" else {"epochs"} if self.steps else set()
        return frozenset({"spacing", "start", "stop", "count"} | training)


@dataclass
class DataConfig:
    """Where the data lie, and for task=own what they are. What they hold enters the run id by its hash."""

    dir: str | None = opt(None, "folder of the task folders, or its parent; null = the hub", science=False)
    allow_partial: bool = opt(False, "accept other numbers of examples than the official ones", science=False)
    limit: int | None = opt(None, "first examples of each split, for a trial; null = all", minimum=1, science=False)
    files: Any = opt(None, "task=own: split -> source, or one source that holds all splits", science=False)
    text: Any = opt(None, "task=own: the text column, or two", science=False)
    label: str | None = opt(None, "task=own: the column of the labels", science=False)
    quoting: str = opt("auto", "task=own: what quotes are", choices=("auto", "csv", "none"), science=False)


@dataclass
class SeedsConfig:
    """Seeds set apart from ``seed``; dropout always goes by ``seed``."""

    init: int | None = opt(None, "seed of the trainable weights; null = seed", minimum=0, maximum=MAX_SEED)
    data: int | None = opt(None, "seed of the order of training examples; null = seed", minimum=0, maximum=MAX_SEED)


@dataclass
class PathsConfig:
    """Folders that are written to; relative ones start at the current folder."""

    results: str = opt("results", "folder of the records", science=False)
    runs: str = opt("runs", "folder of checkpoints, logs and adapters", science=False)
    cache: str | None = opt(None, "folder of tokens; null = in the hub's cache", science=False)


@dataclass
class TrackerConfig:
    """Where metrics.jsonl is copied to."""

    name: str = opt("none", "the service", choices=("none", "wandb"), science=False)
    project: str = opt("sora-bench", "name of the project there", science=False)
    entity: str | None = opt(None, "user or team; null = the account's own", science=False)
    mode: str = opt("offline", "offline: wandb sync sends it later", choices=("offline", "online"), science=False)


@dataclass
class StudyConfig:
    """Of a sweep: what results/studies/ calls it, and what a study's file sweeps over."""

    name: str | None = opt("sweep", "name of its manifest; null = sweep", science=False)
    # where the settings of a study are sweeps of their own; tables join all arms of a study
    arm: str = opt("", "a study of several sweeps: the name of this one", science=False)
    tasks: Any = opt([], "names of tasks, for experiment=", science=False)
    seeds: Any = opt([], "seeds, for experiment=", science=False)


@dataclass
class RunConfig:
    """One run, fully resolved: what ``build_runs`` in sora/runs/resolve.py returns for each replica."""

    backbone: BackboneConfig
    method: MethodConfig
    task: TaskConfig
    protocol: ProtocolConfig
    trainer: TrainerConfig
    schedule: ScheduleConfig
    seed: int = opt(0, "an integer, or a list such as [0,1,2]: trained together", minimum=0, maximum=MAX_SEED)
    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    precision: str = opt("fp32", "of the frozen backbone; what trains stays fp32", choices=("fp32", "tf32", "bf16"))
    head: str = opt("classifier+pooler", "what trains above the encoder; frozen: the released code", choices=HEADS)
    deterministic: bool = opt(False, "forbid kernels whose sums depend on timing", science=False)
    device: str = opt("auto", "auto = the first GPU, else the CPU", choices=("auto", "cuda", "cpu"), science=False)
    data: DataConfig = field(default_factory=DataConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig, metadata={"science": False})
    recipe: str = opt("", "file of conf/recipe whose values are in use", science=False)
    budget: str = opt("", "file of conf/budget, likewise", science=False)
    unpublished: list[str] = opt([], "keys of the recipe whose values nobody published; * = all", science=False)
    tuned: str = opt("", "how trials chose values of the recipe", science=False)
    resume: str = opt("auto", "auto: from the newest checkpoint", choices=("auto", "never"), science=False)
    predict: bool = opt(False, "also write predictions for the official test set", science=False)
    dry_run: bool = opt(False, "only print run ids, sizes and parameter counts", science=False)
