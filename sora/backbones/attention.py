"""Attention of every encoder but DeBERTa: one function behind transformers' attention interface, replicas side by side.

Attention has no trainable tensor of its own, so the replica axis is just more examples here. In fp32 without
attention dropout it is torch's fused kernel; otherwise explicit products around an fp32 softmax, because the CPU's
fused backward is several times slower in bf16 and no fused kernel takes a mask from :mod:`sora.backbones.dropout`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, bidirectional_mask_function, sdpa_mask

from sora.backbones.dropout import CounterDropout, DropoutContext

IMPLEMENTATION = "sora"  # transformers' name of this attention: config._attn_implementation
LOW_PRECISION = (torch.bfloat16, torch.float16)
SEEN: dict[int, tuple[Any, float]] = {}  # modules without a site, with the dropout that they asked for when they ran


def key_mask(attention_mask: Tensor | None = None, mask_function: Any = None, **how: Any) -> Tensor | None:
    """Mask of the keys, bool [B, 1, 1, t], True where valid, from the padding mask [B, t]; [B, 1, t, t] for a window.

    transformers' own masks ask the device whether any padding is there, which would wait for it every step. In a window
    every token sees itself, so that no row of padding is without a key: its softmax would be NaN and spread.
    """
    if mask_function in (None, bidirectional_mask_function):
        return None if attention_mask is None else attention_mask.bool()[:, None, None, :]
    how["allow_is_causal_skip"] = how["allow_is_bidirectional_skip"] = False
    window = sdpa_mask(attention_mask=attention_mask, mask_function=mask_function, **how)
    assert window is not None
    return window | torch.eye(window.shape[-1], dtype=torch.bool, device=window.device)


def additive(mask: Tensor | None, like: Tensor) -> Tensor:
    """``mask`` bool [B, 1, 1 or t, t] as a term of the scores in the dtype of ``like``: 0 or its lowest number.

    A mask of numbers is such a term already. The layers of a forward pass share one mask, and the term made from it.
    """
    if mask is None:
        return like.new_zeros((1, 1, 1, 1))
    if mask.is_floating_point():
        return mask.to(like.dtype)
    return _once(mask, (like.dtype,), lambda: _additive(mask, like.dtype))


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def _once(mask: Tensor, kind: tuple[Any, ...], build: Callable[[], Tensor]) -> Tensor:
    """What ``build`` makes of a mask, made by the first layer that asks for that kind and kept on the mask."""
    made: dict[tuple[Any, ...], Tensor] = mask.__dict__.setdefault("_sora_terms", {})
    if kind not in made:
        made[kind] = build()
    return made[kind]


class _Scores(torch.autograd.Function):
    """beta bias + alpha q k^T, whose backward pass has the factors in its products instead of behind them."""

    @staticmethod
    def forward(ctx: Any, bias: Tensor, query: Tensor, key: Tensor, beta: float, alpha: float) -> Tensor:
        ctx.save_for_backward(query, key)
        ctx.factors = (beta, alpha)
        return torch.baddbmm(bias, query, key.mT, beta=beta, alpha=alpha)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key = ctx.saved_tensors
        beta, alpha = ctx.factors

        def product(a: Tensor, b: Tensor) -> Tensor:
            return torch.baddbmm(a.new_empty(()), a, b, beta=0.0, alpha=alpha)

        return (
            grad * beta if ctx.needs_input_grad[0] else None,
            product(grad, key) if ctx.needs_input_grad[1] else None,
            product(grad.mT, query) if ctx.needs_input_grad[2] else None,
            None,
            None,
        )


def score_matrix(bias: Tensor, query: Tensor, key: Tensor, beta: float, alpha: float) -> Tensor:
    """beta bias + alpha q k^T: bias [N, t or 1, t], query and key [N, t, dh] -> [N, t, t]."""
    if query.is_cuda:  # fewer launches; on a CPU the factors round as they always did
        scores: Tensor = _Scores.apply(bias, query, key, beta, alpha)
        return scores
    return torch.baddbmm(bias, query, key.mT, beta=beta, alpha=alpha)


def weigh(scores: Tensor, value: Tensor, dropout: CounterDropout, heads: int, head_major: bool = False) -> Tensor:
    """softmax(scores [N, t, t]) value [N, t, dh] -> [N, t, dh]; softmax and dropout in fp32 when scores are bf16."""
    # a GPU's kernel computes in fp32 inside and rounds once, where the CPU's way rounds behind it
    dtype = torch.float32 if scores.dtype in LOW_PRECISION and not scores.is_cuda else scores.dtype
    probs = dropout.probabilities(torch.softmax(scores, dim=-1, dtype=dtype), heads, head_major, value.dtype)
    if (scale := dropout.late_scale(value.device)) != 1.0:
        value = value * scale
    return torch.bmm(probs, value)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention: [B, H, t, dh] three times -> ([B, t, H, dh], None).

    Args:
        module: its ``attention_site`` is the CounterDropout of the attention probabilities.
        dropout: transformers' own probability, which follows module.training; nothing is dropped by it.
        attention_mask: bool, or a term of the scores, [B or 1, H or 1, t or 1, t].
    """
    site = getattr(module, "attention_site", None)
    if site is None:  # a family that is not listed, looked at by :mod:`sora.backbones.encoder_checks`
        SEEN[id(module)] = (module, dropout)
        site = _NONE
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.dtype not in LOW_PRECISION and not site.active:
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scale)
        return out.transpose(1, 2), None
    batch, heads, length, size = query.shape
    flat = (batch * heads, length, size)
    bias = additive(attention_mask, query)

    def per_head() -> Tensor:
        return bias.expand(batch, heads, *bias.shape[2:]).reshape(batch * heads, *bias.shape[2:])

    if attention_mask is None or attention_mask.is_floating_point():
        rows = per_head()
    else:
        rows = _once(attention_mask, (query.dtype, heads), per_head)
    scores = score_matrix(rows, query.reshape(flat), key.reshape(flat), 1.0, scale)
    out = weigh(scores, value.reshape(flat), site, heads)
    return out.view(batch, heads, length, size).transpose(1, 2), None


_NONE = CounterDropout(0.0, DropoutContext(), "none")


def register() -> str:
    """Make this attention known to transformers; returns its name. Safe to call again."""
    AttentionInterface.register(IMPLEMENTATION, attention)
    AttentionMaskInterface.register(IMPLEMENTATION, key_mask)
    return IMPLEMENTATION
