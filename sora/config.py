"""Torch-free dataclasses for every configuration group: types, units, ranges, and what decides a run's name.

Each field has its type, default, range and meaning here and nowhere else (:func:`opt`). ``sora/options.py`` makes them
known to Hydra, which checks types and keys; ``sora/coercion.py`` checks the ranges; ``sora/runs/run_id.py`` reads
whether a field decides the numbers. The files of ``conf/`` hold what differs from a default, and data.

A field that equals its default is left out of the run id. Never change a default: raise ``version`` instead.
"""
# ruff: noqa: RUF009  (opt() returns a dataclass field, so no default is shared)

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, ClassVar

from sora.errors import UserError
from sora.schedules import spaced

PACKABLE = ["seed", "seeds.init", "seeds.data", "trainer.learning_rate"]  # whatever the method
PRECISIONS = ("fp32", "tf32", "bf16")
HEADS = ("classifier+pooler", "classifier", "frozen")
MAX_STEPS = 10**9  # and epochs: more is a slip, and their product with other numbers leaves the range of a double
MAX_SEED = 2**63 - 1  # what a torch generator takes


def opt(default: Any, *, science: bool = True, unnamed: Any = None, **rule: Any) -> Any:
    """A dataclass field with its range.

    ``rule``: ``choices`` (a tuple), ``minimum`` and ``maximum`` (ends included), ``above`` and ``below``
    (ends excluded); on a list they hold for each item. ``science=False``: runs of one name may differ. ``unnamed``:
    where the default null stands for another value, the value that is left out of the run id in its place.
    """
    metadata = {"science": science, "rule": rule, "unnamed": unnamed}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class BackboneConfig:
    """A pretrained encoder and how it is loaded.

    Where the weights come from is no science by itself: their identity (sha256, revision, or architecture and
    ``init_seed``) is what the run id takes, from ``Backbone.identity()``.
    """

    name: str
    family: str = opt("bert")  # model_type in transformers; auto = what config.json beside the weights says
    version: int = opt(1, minimum=1)
    hub: str = opt("", science=False)  # repository on the Hugging Face hub
    revision: str = opt("", science=False)  # pinned commit of that repository
    sha256: dict[str, str] = opt({}, science=False)  # weight file -> pinned hash
    package: str = opt("", science=False)  # pip package that carries the weights ("" = none)
    package_folder: str = opt("", science=False)  # folder of the weights inside that package
    parts: list[str] = opt([], science=False)  # pip packages, name==version, of a zip in parts
    note: str = opt("", science=False)  # what must be said beside every number of this backbone
    dir: str = opt("", science=False)  # folder with a folder for each backbone; "" = package or hub
    weights: str = opt("pretrained", science=False)  # pretrained | random | <folder>; of backbone=auto also a hub name
    init_seed: int = opt(0, minimum=0, maximum=MAX_SEED, science=False)  # of random weights
    dropout: float | None = opt(None, minimum=0.0, below=1.0)  # null = the architecture's own probabilities
    pooling: str = opt("cls", choices=("cls", "mean", "auto"))  # auto = as the architecture's own classifier pools
    # of a DeBERTaV3: with the NFKC step of its sentencepiece model, or as transformers 5 builds it
    tokenizer: str = opt("spm", choices=("spm", "hf"))
    golden: str = opt("", science=False)  # token ids that its tokenizer must give (sora/backbones/golden.py)
    arch: dict[str, Any] = opt({})  # transformers config of the architecture


@dataclass
class MethodConfig:
    """What every method has."""

    name: str
    version: int = opt(1, minimum=1)
    # keys in which the runs of one pack may differ
    packable: list[str] = opt(PACKABLE, science=False)
    learning_rate: float = opt(8e-4, above=0.0, science=False)  # peak, when trainer.learning_rate is null

    GATED: ClassVar[bool] = False  # has gates that a threshold drives to zero: what a sparsity schedule works on
    TRAINS: ClassVar[bool] = True  # by optimiser steps; else no key of the trainer but MEASURING decides anything
    OWN_HEAD: ClassVar[bool] = False  # puts its own head on the encoder, so that ``head`` decides nothing

    def resolved(self) -> MethodConfig:
        """A copy in which no switch is left to a default that another field decides."""
        return self

    def unused(self) -> frozenset[str]:
        """Fields that do nothing as the others are set, and so are no part of the run's name."""
        return frozenset()

    def optimizer(self) -> str:
        """What ``trainer.optimizer`` left null stands for."""
        return "adamw"

    def at_rate(self, learning_rate: float) -> MethodConfig:
        """A copy in which what is given in units of the peak learning rate has its value."""
        return self


METHODS: dict[str, type[MethodConfig]] = {}  # method.name -> its dataclass


def method(name: str) -> Any:
    """Class decorator: ``conf/method/<name>.yaml`` is read into this dataclass."""

    def register(cls: type[MethodConfig]) -> type[MethodConfig]:
        METHODS[name] = cls
        return cls

    return register


@method("full")
@dataclass
class FullConfig(MethodConfig):
    """Every weight of the encoder is trained; nothing is shared, so nothing can be packed."""

    packable: list[str] = opt([], science=False)
    learning_rate: float = opt(5e-5, above=0.0, science=False)


@method("lora")
@dataclass
class LoraConfig(MethodConfig):
    """LoRA: h = W0 x + (alpha / r) B A x."""

    r: int = opt(8, minimum=1)
    alpha: float = opt(16.0, above=0.0)
    dropout: float = opt(0.0, minimum=0.0, below=1.0)  # on the adapter's input
    targets: list[str] | None = opt(None)  # patterns of module names; null = the six matrices of each layer
    rslora: bool = opt(False)  # scale by alpha / sqrt(r) instead (Kalajdzievski, arXiv 2312.03732)


@method("sora")
@dataclass
class SoraConfig(LoraConfig):
    """SoRA: h = W0 x + (alpha / r) B (g * A x), with the two readings of its training rule.

    A switch left null means "as ``fidelity`` says" and is resolved before the run is named, and so is
    ``trainer.optimizer``; ``fidelity`` itself decides nothing else.
    """

    packable: list[str] = opt(
        [
            "seed",
            "seeds.init",
            "seeds.data",
            "method.threshold",
            "method.rho",
            "method.penalty",
            "trainer.learning_rate",
        ],
        science=False,
    )
    fidelity: str = opt("authors", choices=("authors", "paper"), science=False)
    threshold: float = opt(1e-4, minimum=0.0)  # xi at peak learning rate; the paper's grid is 1e-5, 5e-5, 1e-4
    # sets threshold to rho * peak learning rate; above 0.5 the initial draw decides which ranks stay
    rho: float | None = opt(None, minimum=0.0, science=False)
    threshold_rule: str | None = opt(None, choices=("constant", "lr_scaled"))  # lr_scaled: xi times lr / peak lr
    prox: str | None = opt(None, choices=("soft", "authors"))  # soft: equation 11; authors: below 2 xi becomes zero
    gate_update: str | None = opt(None, choices=("adam", "gradient"))  # the step before the proximal one
    penalty: float = opt(0.1, minimum=0.0)  # lambda of the L1 term in the loss
    penalty_rule: str | None = opt(None, choices=("off", "mean", "sum"))
    clip: str = opt("joint", choices=("joint", "own"))  # the gates' gradients: with all others, or by their own norm

    GATED: ClassVar[bool] = True
    OPTIMIZER: ClassVar[dict[str, str]] = {"authors": "adamw_hf", "paper": "adamw"}
    SWITCHES: ClassVar[dict[str, dict[str, Any]]] = {
        "authors": {
            "gate_update": "adam",
            "threshold_rule": "constant",
            "prox": "authors",
            "penalty_rule": "mean",
        },
        "paper": {
            "gate_update": "gradient",
            "threshold_rule": "lr_scaled",
            "prox": "soft",
            "penalty_rule": "off",
        },
    }

    def resolved(self) -> SoraConfig:
        """With every null switch set as ``fidelity`` reads it; a switch that was given wins."""
        switches = self.SWITCHES[self.fidelity]
        return replace(self, **{key: value for key, value in switches.items() if getattr(self, key) is None})

    def optimizer(self) -> str:
        return self.OPTIMIZER[self.fidelity]

    def at_rate(self, learning_rate: float) -> SoraConfig:
        """With the threshold that ``rho`` stands for, to six significant digits."""
        if self.rho is None:
            return self
        return replace(self, threshold=float(f"{self.rho * learning_rate:.6g}"), rho=None)

    def unused(self) -> frozenset[str]:
        return frozenset({"penalty"}) if self.penalty_rule == "off" else frozenset()


@method("masked_lora")
@dataclass
class MaskedLoraConfig(LoraConfig):
    """LoRA whose rank is given matrix by matrix: the control of methods that choose ranks.

    ``ranks`` are those of the finished run ``source`` (sora/runs/sources.py fills them in before the run is named), or
    are typed. ``pattern`` says what becomes of them: kept, permuted among matrices of equal cost, or levelled. The
    scale stays alpha / r. Where the ranks were taken from does not name the run.
    """

    packable: list[str] = opt(
        [*PACKABLE[:3], "method.source", "method.pattern", "method.permutation", PACKABLE[3]], science=False
    )
    source: str = opt("", science=False)  # run id or record of a finished run
    # rank of every adapted matrix by its full name; null = the source's (OmegaConf cannot set a dict over a typed null)
    ranks: Any = opt(None)
    pattern: str = opt("own", choices=("own", "permuted", "uniform"))
    permutation: int | None = opt(None, minimum=0, maximum=MAX_SEED)  # seed of the permutation; null = seed

    def resolved(self) -> MaskedLoraConfig:
        """Itself. Raises UserError for a rank that cannot be."""
        if not isinstance(self.ranks, dict | None):
            raise UserError(f"method.ranks: got {self.ranks!r}, must be a group of matrices and their ranks, or null")
        for name, rank in (self.ranks or {}).items():
            if not isinstance(rank, int) or not 0 <= rank <= self.r:
                raise UserError(f"method.ranks.{name}: got {rank}, must be from 0 to method.r={self.r}")
        return self

    def unused(self) -> frozenset[str]:
        return frozenset() if self.pattern == "permuted" else frozenset({"permutation"})


@method("adalora")
@dataclass
class AdaloraConfig(LoraConfig):
    """AdaLoRA: W0 + (alpha / init_r) P diag(lambda) Q, whose ranks are allocated during training.

    ``r`` is the average rank in the end. The two phases are given in steps, or below 1 as fractions of all steps.
    """

    init_r: int = opt(12, minimum=1)  # rank of every matrix at the start; 1.5 r in the paper
    warmup: float = opt(0.1, minimum=0.0)  # t_i: before it nothing is taken away
    final: float = opt(0.3, minimum=0.0)  # t_f: at the end the chosen ranks train on, undisturbed
    interval: int = opt(10, minimum=1)  # steps between allocations, Delta T
    beta1: float = opt(0.85, minimum=0.0, below=1.0)  # of the running sensitivity
    beta2: float = opt(0.85, minimum=0.0, below=1.0)  # of its uncertainty
    orthogonality: float = opt(0.1, minimum=0.0)  # gamma of the orthogonality term in the loss

    def resolved(self) -> AdaloraConfig:
        """Itself. Raises UserError where there is nothing to allocate, or no time to do it in."""
        if self.r > self.init_r:
            raise UserError(
                f"method.r: got {self.r}, must be at most method.init_r={self.init_r}, the rank AdaLoRA starts from"
            )
        for key in ("warmup", "final"):
            value = getattr(self, key)
            if value >= 1 and value != int(value):
                raise UserError(f"method.{key}: got {value:g}, must be whole steps, or below 1 a fraction of all steps")
        if self.rslora:
            raise UserError("method.rslora: AdaLoRA scales by alpha / init_r; leave it false")
        return self


@method("bitfit")
@dataclass
class BitfitConfig(MethodConfig):
    """BitFit: the biases of linear layers and LayerNorms train."""


@method("adapter")
@dataclass
class AdapterConfig(MethodConfig):
    """Bottleneck adapters: y + U gelu(D y) behind linear layers."""

    bottleneck: int = opt(8, minimum=1)
    targets: list[str] | None = opt(None)  # patterns of module names; null = the six matrices of each layer


@method("probe")
@dataclass
class ProbeConfig(MethodConfig):
    """A linear probe: ridge or logistic regression on frozen pooled features; every seed gives the same."""

    packable: list[str] = opt([], science=False)

    TRAINS: ClassVar[bool] = False
    OWN_HEAD: ClassVar[bool] = True


@method("zero_shot")
@dataclass
class ZeroShotConfig(MethodConfig):
    """The cosine of two sentences' pooled vectors as their similarity; every seed gives the same."""

    packable: list[str] = opt([], science=False)

    TRAINS: ClassVar[bool] = False
    OWN_HEAD: ClassVar[bool] = True


@method("svd_cut")
@dataclass
class SvdCutConfig(MethodConfig):
    """A finished LoRA run cut by SVD, after its training, to a given number of weights.

    ``live`` is ``size``, or the size of the run that ``size`` names (sora/runs/sources.py fills it in).
    """

    packable: list[str] = opt([], science=False)
    source: str = opt("")  # run id or record of a finished LoRA run
    size: str = opt("", science=False)  # weights that may stay, or a finished run that has as many
    live: int | None = opt(None, minimum=0)  # weights that may stay; null = what size says

    TRAINS: ClassVar[bool] = False


PEFT_VARIANTS: dict[str, dict[str, Any]] = {  # known by a name of their own; in PEFT a setting of LORA
    "DORA": {"use_dora": True},
    "OLORA": {"init_lora_weights": "olora"},
    "PISSA": {"init_lora_weights": "pissa"},
    "RSLORA": {"use_rslora": True},
}


@method("peft")
@dataclass
class PeftConfig(MethodConfig):
    """A tuner of PEFT, by its name and its own options; they are checked against PEFT when it is attached."""

    packable: list[str] = opt([], science=False)
    peft_type: str = opt("LORA")  # PEFT's name of a tuner, or DORA, OLORA, PISSA, RSLORA
    options: Any = opt(None)  # a group of keys; null = PEFT's defaults (Hydra lets no new key into an empty mapping)
    targets: list[str] | None = opt(None)  # patterns of module names; null = the six matrices of each layer

    def resolved(self) -> PeftConfig:
        """With one spelling for one tuner: upper case, and a variant of LORA by its own name."""
        if not isinstance(self.options, dict | None):
            raise UserError(f"method.options: got {self.options!r}, must be a group of PEFT's keys, or null")
        name, options = self.peft_type.upper(), self.options or {}
        for variant, preset in PEFT_VARIANTS.items() if name == "LORA" else ():
            if preset.items() <= options.items():
                rest = {key: value for key, value in options.items() if key not in preset}
                return replace(self, peft_type=variant, options=rest or None)
        return replace(self, peft_type=name, options=options or None)


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
    version: int = opt(1, minimum=1)  # raised whenever the same data would give other numbers
    benchmark: str = opt("own", choices=("glue", "superglue", "synthetic", "own"), science=False)
    # tsv, jsonl: official files; own: any files, and what is not given is found in them
    reader: str = opt("own", choices=("own", "tsv", "jsonl", "synthetic"), science=False)
    # jsonl: what a row holds
    layout: str = opt("flat", choices=("flat", "copa", "multirc", "record", "wic", "wsc"), science=False)
    scoring: str = opt("classes", choices=("classes", "choices", "answers", "candidates"))
    # marked words: their vectors join the pooled one, or signs in the text
    spans: str = opt("", choices=("", "vectors", "marks"))
    truncate: str = opt("", choices=("", "text_a"))  # what gives way to max_length; "" = the longer text first
    folder: str = opt("", science=False)  # folder inside the official download, such as "SST-2"
    generator: str = opt("", choices=("", "pair", "single", "graded"), science=False)  # of a synthetic task
    files: dict[str, Any] = opt({}, science=False)  # split -> file name; own: any source of rows
    text: list[str] = opt([], science=False)  # own: the text column, or two
    label: str = opt("", science=False)  # own: the column of the labels
    quoting: str = opt("auto", choices=("auto", "csv", "none"), science=False)  # own: as data.quoting
    hub: str = opt("", science=False)  # data set on the Hugging Face hub with the same examples as parquet
    revision: str = opt("", science=False)  # pinned commit of that data set
    hub_config: str = opt("", science=False)  # its folder there
    hub_splits: dict[str, str] = opt({}, science=False)  # split -> name there, where that differs
    hub_columns: dict[str, str] = opt({}, science=False)  # text_a, text_b, label, id -> column there
    columns: dict[str, str] = opt({}, science=False)  # text_a, text_b, label -> header or 0-based index
    test_columns: dict[str, str] = opt({}, science=False)  # what the test file names differently
    mismatched: dict[str, list[int]] = opt({}, science=False)  # jsonl: split -> rows with officially wrong spans
    headerless: list[str] = opt([], science=False)  # splits whose file has no header line
    # a row with fewer columns than the header
    short_rows: str = opt("refuse", choices=("refuse", "skip"), science=False)
    empty_text: str = opt("refuse", choices=("refuse", "keep"), science=False)  # a row without text in a text column
    labels: list[str] = opt([])
    score_range: list[float] = opt([], science=False)  # regression: lowest and highest valid target
    standardize: bool = opt(False)  # regression: learn targets less the training split's mean, in units of its SD
    metrics: list[str] = opt(["accuracy"])  # reported, first one leads
    select_metric: str = opt("accuracy")  # the checkpoint is chosen by it
    sizes: dict[str, int] = opt({}, minimum=1, science=False)  # official number of rows of each split
    items: dict[str, int] = opt({}, minimum=1, science=False)  # predictions asked for, where a row asks for several
    trained_on: list[str] = opt([], science=False)  # a diagnostic set: the tasks whose model it examines
    submission: dict[str, str] = opt({}, science=False)  # split -> name of the leaderboard's file
    submission_labels: list[str] = opt([], science=False)  # its words, where they are not those of labels
    train_rows: int = opt(0, minimum=0, science=False)  # a fixed slice of so many training rows stands for all; 0 = all
    # protocol=paper: halve validation, or 1,000 of train
    paper_split: str = opt("halve", choices=("halve", "heldout"), science=False)
    max_length: int = opt(128, minimum=4, science=False)  # tokens; what trainer.max_length=null stands for
    source: str = opt("", science=False)  # where the data comes from, for people

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


@dataclass
class ProtocolConfig:
    """Which examples are trained on, selected on and reported on."""

    name: str = opt("paper", choices=("paper", "dev", "holdout"))
    version: int = opt(1, minimum=1)


@dataclass
class TrainerConfig:
    """The loop. Steps are optimiser steps."""

    epochs: float = opt(20.0, above=0.0, maximum=MAX_STEPS)  # passes over the training examples
    max_steps: int | None = opt(None, minimum=1, maximum=MAX_STEPS)  # in place of epochs; null = what the epochs are
    batch_size: int = opt(8, minimum=1)  # examples per replica
    learning_rate: float | None = opt(None, above=0.0)  # peak; null = the method's
    # adamw is torch's; adamw_hf transformers' old one, which puts eps before the bias correction and decays last
    optimizer: str | None = opt(None, choices=("adamw", "adamw_hf"), unnamed="adamw")  # null = the method's
    weight_decay: float = opt(0.1, minimum=0.0)  # on matrices; none on biases and SoRA's gates
    warmup_ratio: float = opt(0.06, minimum=0.0, below=1.0)  # of the total steps
    clip: float = opt(0.1, minimum=0.0)  # per-replica gradient norm; 0 = off
    max_length: int | None = opt(None, minimum=4)  # tokens; null = the task's
    bucketing: bool = opt(True)  # batches of like length
    eval_every: int = opt(1000, minimum=1)  # steps; the last step is always evaluated
    train_subset: str = opt("both", choices=("both", "selected", "never"))  # weights measured on it at the end
    checkpoint_every: int = opt(500, minimum=1, science=False)  # steps
    cuda_graphs: bool = opt(False, science=False)  # give a GPU a step's forward and backward pass as a whole
    log_every: int = opt(10, minimum=1, science=False)  # steps


MEASURING = ("max_length", "train_subset", "checkpoint_every", "log_every")  # of TrainerConfig: how it is measured


@dataclass
class ScheduleConfig:
    """What follows the ordinary training: levels of sparsity, each measured (sora/schedules.py).

    ``levels`` are thresholds xi (``sparsify``) or the shares of all gates that are zeroed (``one_shot``). An empty list
    means those that ``spacing`` lays from ``start`` to ``stop``; they are filled in before the run is named.
    """

    kind: str = opt("none", choices=("none", "sparsify", "one_shot"))
    version: int = opt(1, minimum=1)
    levels: list[float] = opt([], minimum=0.0)
    # linear: equal differences (Algorithm 1); exp_linear: equal factors; log_linear: the authors' third, all but linear
    spacing: str = opt("linear", choices=("linear", "log_linear", "exp_linear"))
    start: float = opt(1e-4, minimum=0.0)  # first level; the paper starts there and does not say where it ends
    stop: float = opt(1e-3, above=0.0)  # last level
    count: int = opt(10, minimum=2)  # of levels
    epochs: float = opt(5.0, above=0.0, maximum=MAX_STEPS)  # per level (paper; released code: 15)
    steps: int | None = opt(None, minimum=1, maximum=MAX_STEPS)  # per level; null = what the epochs are
    # in each level: warm-up and decay anew | the peak | 0, as in the released code
    lr: str = opt("rewarm", choices=("rewarm", "constant", "authors_zero"))

    def resolved(self) -> ScheduleConfig:
        """With its levels filled in. Raises UserError for levels that cannot be."""
        if self.kind == "none":
            if self.levels:
                raise UserError("schedule.levels: given, but schedule.kind=none has no levels; choose another schedule")
            return self
        levels = self.levels or spaced(self.spacing, self.start, self.stop, self.count)
        if any(later <= earlier for earlier, later in pairwise(levels)):
            raise UserError(f"schedule.levels: got {levels}, must rise from level to level")
        if self.kind == "one_shot" and levels[-1] > 1:
            raise UserError(
                f"schedule.levels: got {levels[-1]:g}, must be at most 1: with schedule.kind=one_shot they are "
                "the shares of the gates that are zeroed"
            )
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

    dir: str | None = opt(None, science=False)  # folder of the task folders, or its parent
    allow_partial: bool = opt(False, science=False)  # accept other numbers of examples than the official ones
    limit: int | None = opt(None, minimum=1, science=False)  # first examples of each split, for a trial; null = all
    files: Any = opt(None, science=False)  # task=own: split -> source, or one source that holds all splits
    text: Any = opt(None, science=False)  # task=own: the text column, or two
    label: str | None = opt(None, science=False)  # task=own: the column of the labels
    quoting: str = opt("auto", choices=("auto", "csv", "none"), science=False)  # task=own: what quotes are


@dataclass
class SeedsConfig:
    """Seeds set apart from ``seed``; dropout always goes by ``seed``."""

    init: int | None = opt(None, minimum=0, maximum=MAX_SEED)  # of trainable weights; null = seed
    data: int | None = opt(None, minimum=0, maximum=MAX_SEED)  # order of the training examples; null = seed


@dataclass
class PathsConfig:
    """Folders that are written to; relative ones start at the current folder."""

    results: str = opt("results", science=False)  # records
    runs: str = opt("runs", science=False)  # checkpoints, logs, adapters
    cache: str | None = opt(None, science=False)  # tokens, converted weights; null = beside the hub's cache


@dataclass
class TrackerConfig:
    """Where metrics.jsonl is mirrored."""

    name: str = opt("none", choices=("none", "wandb"), science=False)
    project: str = opt("sora-bench", science=False)
    entity: str | None = opt(None, science=False)  # user or team; null = the account's own
    mode: str = opt("offline", choices=("offline", "online"), science=False)


@dataclass
class StudyConfig:
    """Of a sweep: what results/studies/ calls it, and what a study's file sweeps over."""

    name: str | None = opt("sweep", science=False)  # null = sweep
    # where the settings of a study are sweeps of their own: the name of this one; tables join all arms of a study
    arm: str = opt("", science=False)
    tasks: Any = opt([], science=False)  # names of tasks
    seeds: Any = opt([], science=False)


@dataclass
class RunConfig:
    """One run, fully resolved: what ``build_runs`` in sora/runs/resolve.py returns for each replica."""

    backbone: BackboneConfig
    method: MethodConfig
    task: TaskConfig
    protocol: ProtocolConfig
    trainer: TrainerConfig
    schedule: ScheduleConfig
    seed: int = opt(0, minimum=0, maximum=MAX_SEED)
    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    precision: str = opt("fp32", choices=PRECISIONS)  # bf16: the frozen backbone alone; what trains stays fp32
    head: str = opt("classifier+pooler", choices=HEADS)  # what trains above the encoder; frozen: the released code
    # forbid kernels whose sums depend on timing (what that costs on a GPU has not been measured)
    deterministic: bool = opt(False, science=False)
    device: str = opt("auto", choices=("auto", "cuda", "cpu"), science=False)  # auto = the first GPU, else the CPU
    data: DataConfig = field(default_factory=DataConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig, metadata={"science": False})
    recipe: str = opt("", science=False)  # file of conf/recipe whose values are in use
    budget: str = opt("", science=False)  # file of conf/budget, likewise
    unpublished: list[str] = opt([], science=False)  # keys of the recipe whose values are nobody's publication; * = all
    tuned: str = opt("", science=False)  # how values of the recipe were chosen, where trials of ours chose them
    resume: str = opt("auto", choices=("auto", "never"), science=False)  # auto: from the newest checkpoint
    predict: bool = opt(False, science=False)  # also write predictions for the official test set
    dry_run: bool = opt(False, science=False)  # only print run ids, sizes and parameter counts
