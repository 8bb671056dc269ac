"""The options of every method, one dataclass a method (torch-free). See sora/config.py."""
# ruff: noqa: RUF009  (opt() returns a dataclass field, so no default is shared)

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sora.coercion import MAX_SEED, opt
from sora.errors import UserError

RATE = "trainer.learning_rate"
PACKABLE = ("seed", "seeds.init", "seeds.data", RATE)  # whatever the method
TARGETS = "patterns of module names; null = the six matrices of each layer"


@dataclass
class MethodConfig:
    """What every method has."""

    name: str
    version: int = opt(1, "raised whenever the same options would give other numbers", minimum=1)
    learning_rate: float = opt(8e-4, "peak, where trainer.learning_rate is null", above=0.0, science=False)

    PACKABLE: ClassVar[tuple[str, ...]] = PACKABLE  # keys in which the runs of one pack may differ
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

    def drops(self) -> bool:
        """Whether its own modules drop a part of their input."""
        return getattr(self, "dropout", 0.0) > 0


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

    learning_rate: float = opt(5e-5, "peak, where trainer.learning_rate is null", above=0.0, science=False)

    PACKABLE: ClassVar[tuple[str, ...]] = ()


@method("lora")
@dataclass
class LoraConfig(MethodConfig):
    """LoRA: h = W0 x + (alpha / r) B A x."""

    r: int = opt(8, "rank of every adapted matrix", minimum=1)
    alpha: float = opt(16.0, "numerator of the scale alpha / r", above=0.0)
    dropout: float = opt(0.0, "probability, on the adapter's input", minimum=0.0, below=1.0)
    targets: list[str] | None = opt(None, TARGETS)
    rslora: bool = opt(False, "scale by alpha / sqrt(r) instead (Kalajdzievski, arXiv 2312.03732)")

    @property
    def scaling(self) -> float:
        """s in W0 + s B A."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)


@method("sora")
@dataclass
class SoraConfig(LoraConfig):
    """SoRA: h = W0 x + (alpha / r) B (g * A x), with the two readings of its training rule.

    A switch left null means "as ``fidelity`` says" and is resolved before the run is named, and so is
    ``trainer.optimizer``; ``fidelity`` itself decides nothing else.
    """

    fidelity: str = opt(
        "authors", "sets what is null below: released code, or Eq. 10-14", choices=("authors", "paper"), science=False
    )
    threshold: float = opt(1e-4, "xi at the peak learning rate; the paper tries 1e-5, 5e-5 and 1e-4", minimum=0.0)
    rho: float | None = opt(
        None, "sets threshold to rho * peak rate; above 0.5 the initial draw decides", minimum=0.0, science=False
    )
    threshold_rule: str | None = opt(
        None, "lr_scaled: xi times the rate, in units of its peak", choices=("constant", "lr_scaled")
    )
    prox: str | None = opt(None, "soft: Eq. 11; authors: below 2 xi becomes zero", choices=("soft", "authors"))
    gate_update: str | None = opt(None, "the gates' step before the proximal one", choices=("adam", "gradient"))
    penalty: float = opt(0.1, "lambda of the L1 term in the loss", minimum=0.0)
    penalty_rule: str | None = opt(None, "how gates enter the L1 term", choices=("off", "mean", "sum"))
    clip: str = opt("joint", "gates' gradients: with all others, or by their own norm", choices=("joint", "own"))

    PACKABLE: ClassVar[tuple[str, ...]] = (
        *PACKABLE[:3],
        "method.threshold",
        "method.rho",
        "method.penalty",
        RATE,
    )
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

    source: str = opt("", "run id or record of a finished run", science=False)
    ranks: Any = opt(None, "rank of every adapted matrix by its full name; null = the source's")  # no dict over a null
    pattern: str = opt("own", "what becomes of the ranks", choices=("own", "permuted", "uniform"))
    permutation: int | None = opt(None, "seed of the permutation; null = seed", minimum=0, maximum=MAX_SEED)

    PACKABLE: ClassVar[tuple[str, ...]] = (
        *PACKABLE[:3],
        "method.source",
        "method.pattern",
        "method.permutation",
        RATE,
    )

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

    init_r: int = opt(12, "rank of every matrix at the start; 1.5 r in the paper", minimum=1)
    warmup: float = opt(0.1, "t_i: before it nothing is taken away", minimum=0.0)
    final: float = opt(0.3, "t_f: at the end the chosen ranks train on, undisturbed", minimum=0.0)
    interval: int = opt(10, "steps between allocations, Delta T", minimum=1)
    beta1: float = opt(0.85, "decay of the running sensitivity", minimum=0.0, below=1.0)
    beta2: float = opt(0.85, "decay of its uncertainty", minimum=0.0, below=1.0)
    orthogonality: float = opt(0.1, "gamma of the orthogonality term in the loss", minimum=0.0)

    @property
    def scaling(self) -> float:
        return self.alpha / self.init_r  # whatever ranks remain

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

    bottleneck: int = opt(8, "width of the adapters", minimum=1)
    targets: list[str] | None = opt(None, TARGETS)


@dataclass
class Untrained(MethodConfig):
    """A method that takes no optimiser steps."""

    PACKABLE: ClassVar[tuple[str, ...]] = ()
    TRAINS: ClassVar[bool] = False


@method("probe")
@dataclass
class ProbeConfig(Untrained):
    """A linear probe: ridge or logistic regression on frozen pooled features; every seed gives the same."""

    OWN_HEAD: ClassVar[bool] = True


@method("zero_shot")
@dataclass
class ZeroShotConfig(Untrained):
    """The cosine of two sentences' pooled vectors as their similarity; every seed gives the same."""

    OWN_HEAD: ClassVar[bool] = True


@method("svd_cut")
@dataclass
class SvdCutConfig(Untrained):
    """A finished LoRA run cut by SVD, after its training, to a given number of weights.

    ``live`` is ``size``, or the size of the run that ``size`` names (sora/runs/sources.py fills it in).
    """

    source: str = opt("", "run id or record of a finished LoRA run")
    size: str = opt("", "weights that may stay, or a finished run that has as many", science=False)
    live: int | None = opt(None, "weights that may stay; null = what size says", minimum=0)


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

    peft_type: str = opt("LORA", "PEFT's name of a tuner, or DORA, OLORA, PISSA, RSLORA")
    options: Any = opt(None, "a group of PEFT's keys; null = its defaults")  # Hydra adds no key to an empty mapping
    targets: list[str] | None = opt(None, TARGETS)

    PACKABLE: ClassVar[tuple[str, ...]] = ()

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

    def drops(self) -> bool:
        return any("dropout" in key and bool(value) for key, value in (self.options or {}).items())
