"""The classifier of every replica, in the form and under the names of transformers' sequence-classification classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from sora.backbones.families import FAMILIES, uses
from sora.backbones.load import Backbone


@dataclass(frozen=True)
class Form:
    """How one architecture's head is built: dropout, dense, activation, norm, dropout, output layer."""

    dense: str  # name of the dense layer in transformers' class
    output: str  # and of the output layer
    modules: tuple[str, ...]  # PEFT's modules_to_save
    activation: str  # of transformers.activations.ACT2FN
    before: float  # dropout on the pooled vector
    after: float  # dropout before the output layer
    cls: str  # transformers' class; "" where the family has none with this head
    pooling: str = "cls"  # of that class
    bias: bool = True  # of the dense layer
    norm: str = ""  # name of a LayerNorm after the activation
    norm_bias: bool = False
    norm_eps: float = 1e-5


INSIDE = {  # family -> class, activation
    "roberta": ("RobertaForSequenceClassification", "tanh"),
    "xlm-roberta": ("XLMRobertaForSequenceClassification", "tanh"),
    "camembert": ("CamembertForSequenceClassification", "tanh"),
    "electra": ("ElectraForSequenceClassification", "gelu"),
}


def form_of(family: str, config: Any) -> Form:
    """The head of transformers' class for ``family``, with the dropout that ``config`` gives it.

    A family that is not listed gets a dense layer with tanh and an output layer of our own.
    """

    def own(name: str, default: str = "hidden_dropout_prob") -> float:
        value = getattr(config, name, None)
        return float(getattr(config, default, 0.0) if value is None else value)

    def inside(cls: str, activation: str, p: float) -> Form:  # both layers in one module, dropout before both
        return Form("classifier.dense", "classifier.out_proj", ("classifier",), activation, p, p, cls)

    if family == "bert":
        after = own("classifier_dropout")
        modules = ("classifier", "bert.pooler")
        return Form("bert.pooler.dense", "classifier", modules, "tanh", 0.0, after, "BertForSequenceClassification")
    if family == "albert":
        after, modules = own("classifier_dropout_prob"), ("classifier", "albert.pooler")
        return Form("albert.pooler", "classifier", modules, "tanh", 0.0, after, "AlbertForSequenceClassification")
    if family in INSIDE:
        cls, activation = INSIDE[family]
        return inside(cls, activation, own("classifier_dropout"))
    if family == "mpnet":
        return inside("MPNetForSequenceClassification", "tanh", float(config.hidden_dropout_prob))
    if family == "distilbert":
        after, modules = float(config.seq_classif_dropout), ("pre_classifier", "classifier")
        name = "DistilBertForSequenceClassification"
        return Form("pre_classifier", "classifier", modules, "relu", 0.0, after, name)
    if family == "modernbert":
        return Form(
            *("head.dense", "classifier", ("head", "classifier"), config.classifier_activation, 0.0),
            *(float(config.classifier_dropout), "ModernBertForSequenceClassification", config.classifier_pooling),
            bias=config.classifier_bias,
            norm="head.norm",
            norm_bias=config.norm_bias,
            norm_eps=config.norm_eps,
        )
    if family == "deberta-v2":
        before, after = float(config.pooler_dropout), own("cls_dropout")
        modules = ("classifier", "pooler")
        name = "DebertaV2ForSequenceClassification"
        return Form("pooler.dense", "classifier", modules, config.pooler_hidden_act, before, after, name)
    return Form("dense", "out_proj", (), "tanh", 0.0, own("classifier_dropout"), "")


class Head(nn.Module):
    """Pooled vector -> logits for R replicas: W2 drop(act(W1 drop(x) + b1)) + b2.

    Parameters, fp32: ``dense`` [R, d, d], ``dense_bias`` [R, d], ``out`` [R, C, d], ``out_bias`` [R, C]; with the
    LayerNorm that ModernBERT has after the activation ``norm`` and ``norm_bias`` [R, d]. ``policy`` says which train:
    ``classifier+pooler`` all, ``classifier`` the output layer, ``frozen`` none (the authors' released code). The dense
    layer starts from the checkpoint's pooler where it has one; everything else from N(0, s), biases 0, norms 1, s the
    architecture's initializer_range. One CPU generator per replica.

    ``backbone.pooling``: the first token's vector (cls), or the mean over the tokens that are no padding.

    With S ``spans`` the mean vector of the tokens of each marked span joins the features: ``out`` is
    [R, C, (1 + S) d] and the logits are W2 drop([act(W1 drop(x) + b1), s_1, ..., s_S]) + b2.

    ``scale``: mean and SD of a regression's targets where those are standardized. What comes out is the above times
    the SD plus the mean, so that everything behind the head is on the targets' own scale.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        outputs: int,
        policy: str,
        generators: Sequence[torch.Generator],
        spans: int = 0,
        scale: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        size, std = backbone.hidden, float(getattr(backbone.hf_config, "initializer_range", 0.02))
        self.policy, self.pooling = policy, backbone.config.pooling
        self.spans, self.scale = spans, scale
        self.form = form_of(backbone.config.family, backbone.hf_config)
        self.replicas = len(generators)
        dense, out = [], []
        for generator in generators:  # both are drawn whatever is used, so that no option moves the other's draw
            dense.append(torch.randn(size, size, generator=generator) * std)
            out.append(torch.randn(outputs, size * (1 + spans), generator=generator) * std)
        bias = torch.zeros(self.replicas, size)
        if backbone.pooler:
            dense = [backbone.pooler["weight"]] * self.replicas
            bias = backbone.pooler.get("bias", torch.zeros(size)).repeat(self.replicas, 1)
        trains_dense, trains_out = policy == "classifier+pooler", policy != "frozen"
        self.dense = nn.Parameter(torch.stack(dense), requires_grad=trains_dense)
        self.dense_bias = nn.Parameter(bias.clone(), requires_grad=trains_dense and self.form.bias)
        self.norm = self.norm_bias = None
        if self.form.norm:
            gain = backbone.pooler.get("norm.weight", torch.ones(size)).repeat(self.replicas, 1)
            shift = backbone.pooler.get("norm.bias", torch.zeros(size)).repeat(self.replicas, 1)
            self.norm = nn.Parameter(gain, requires_grad=trains_dense)
            self.norm_bias = nn.Parameter(shift, requires_grad=trains_dense) if self.form.norm_bias else None
        self.out = nn.Parameter(torch.stack(out), requires_grad=trains_out)
        self.out_bias = nn.Parameter(torch.zeros(self.replicas, outputs), requires_grad=trains_out)
        self.before = backbone.dropout_site(self.form.before, "head.pooled")
        self.after = backbone.dropout_site(self.form.after, "head.features")

    def forward(self, hidden: Tensor, attention_mask: Tensor, spans: Tensor | None = None) -> Tensor:
        """hidden [R*b, t, d], mask [R*b, t] and spans [R*b, S, 2], replica-major -> logits [R*b, C]."""
        hidden = hidden.to(self.dense.dtype)
        x = self.before(pooled(hidden, attention_mask, self.pooling))
        x = torch.baddbmm(self.dense_bias.unsqueeze(1), self._split(x), self.dense.transpose(1, 2))
        x = torch.tanh(x) if self.form.activation == "tanh" else ACT2FN[self.form.activation](x)
        if self.norm is not None:
            x = F.layer_norm(x, x.shape[-1:], eps=self.form.norm_eps) * self.norm.unsqueeze(1)
            x = x if self.norm_bias is None else x + self.norm_bias.unsqueeze(1)
        x = x.flatten(0, 1)
        if spans is not None:
            x = torch.cat([x, span_means(hidden, spans)], dim=1)
        x = self._split(self.after(x))
        out = torch.baddbmm(self.out_bias.unsqueeze(1), x, self.out.transpose(1, 2)).flatten(0, 1)
        mean, sd = self.scale
        return out if self.scale == (0.0, 1.0) else out * sd + mean

    def _split(self, x: Tensor) -> Tensor:
        return x.view(self.replicas, -1, x.shape[-1])

    # -- for exports -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def export_state(self, replica: int) -> dict[str, Tensor]:
        """The head of one replica under the names of transformers' class; ``scale`` is folded into its last layer."""
        mean, sd = self.scale
        state = {name: tensor[replica] for name, tensor in self._exported().items()}
        weight, bias = (f"{self.form.output}.{kind}" for kind in ("weight", "bias"))
        return state | {weight: state[weight] * sd, bias: state[bias] * sd + mean}

    @torch.no_grad()
    def load_exported(self, replica: int, state: dict[str, Tensor]) -> None:
        """Take what :meth:`export_state` gave. Raises ValueError where ``state`` is of another head."""
        for name, tensor in self._exported().items():
            if name in state and state[name].shape == tensor.shape[1:]:
                tensor[replica].copy_(state[name])
        found = self.export_state(replica)
        if unlike := [name for name, x in found.items() if name not in state or not torch.equal(x, state[name])]:
            raise ValueError(f"{', '.join(unlike)} cannot be taken from another head")

    def _exported(self) -> dict[str, Tensor]:
        """Its tensors [R, ...] under the names of transformers' class."""
        tensors = {
            f"{self.form.dense}.weight": self.dense,
            f"{self.form.dense}.bias": self.dense_bias if self.form.bias else None,
            f"{self.form.norm}.weight": self.norm,
            f"{self.form.norm}.bias": self.norm_bias,
            f"{self.form.output}.weight": self.out,
            f"{self.form.output}.bias": self.out_bias,
        }
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    @property
    def fits_class(self) -> bool:
        """:func:`fits_class` of this head."""
        return fits_class(self.form, self.pooling, self.spans)

    def module_names(self) -> list[str]:
        """PEFT's ``modules_to_save``."""
        return list(self.form.modules)


def fits_class(form: Form, pooling: str, spans: int) -> bool:
    """Whether transformers' class computes what a head does: it pools in one way, and has no span vectors."""
    return bool(form.cls) and pooling == form.pooling and not spans


def describe(backbone: Backbone, pooling: str) -> str:
    """One line on what is built where a family's name alone does not say it; empty for BERT, RoBERTa and DeBERTa."""
    family = backbone.config.family
    if family in ("bert", "roberta", "deberta-v2"):
        return ""
    form, arch = form_of(family, backbone.hf_config), backbone.hf_config.to_dict()
    where = "the first token" if pooling == "cls" else "the mean over tokens"
    own = "" if form.cls else "of our own "
    parts = [f"{family}: a head {own}on {where}: {form.dense}, {form.activation}, {form.output}"]
    if backbone.pooler:
        parts.append(f"{form.dense} starts from the checkpoint")
    shared = {uses(name, arch) for name, _ in backbone.encoder.named_modules()} - {1}
    if shared:
        parts.append(f"layers share their weights, and so their adapters: each is used {max(shared)} times")
    if family not in FAMILIES:
        parts.append("by default adapters on every linear layer of its blocks")
    return "; ".join(parts)


def span_means(hidden: Tensor, spans: Tensor) -> Tensor:
    """Mean vector of each span's tokens: hidden [n, t, d] and spans [n, S, 2] (first token, end) -> [n, S * d]."""
    place = torch.arange(hidden.shape[1], device=hidden.device)
    inside = ((place >= spans[..., :1]) & (place < spans[..., 1:])).to(hidden.dtype)  # [n, S, t]
    return torch.bmm(inside / inside.sum(-1, keepdim=True), hidden).flatten(1)


def pooled(hidden: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """One vector a sequence: hidden [n, t, d] and mask [n, t] -> [n, d], the first token's (cls) or the mean."""
    if pooling == "cls":
        return hidden[:, 0]
    weights = attention_mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weights).sum(1) / weights.sum(1)
