"""Attention of MPNet (Song et al., 2020): a bias for each head and distance, shared by all layers and replicas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sora.backbones.attention import additive, attention


class BiasedAttention(nn.Module):
    """Takes the place of transformers' MPNetSelfAttention and keeps its children under their names."""

    o: nn.Module

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        source: Any = original
        for name, child in source.named_children():
            self.add_module(name, child)
        self.head_size: int = source.attention_head_size
        self.attention_site = source.dropout

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None, position_bias: Tensor, **_: Any
    ) -> tuple[Tensor]:
        """Hidden [R*b, t, d], mask of the keys bool [R*b, 1, 1, t], bias [1, H, t, t] -> ([R*b, t, d],)."""
        shape = (*hidden_states.shape[:-1], -1, self.head_size)
        query, key, value = (getattr(self, name)(hidden_states).view(shape).transpose(1, 2) for name in ("q", "k", "v"))
        scores = additive(attention_mask, query) + position_bias.to(query.dtype)
        context, _weights = attention(self, query, key, value, scores)
        return (self.o(context.reshape(*hidden_states.shape[:-1], -1)),)


class PositionBias:
    """The bias of every distance, [1, H, t, t]: transformers copies it for each example."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder: Any = encoder
        self._buckets: dict[tuple[int, torch.device], Tensor] = {}

    def __call__(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        length = hidden.shape[1]
        place = (length, hidden.device)
        if place not in self._buckets:  # on the CPU: the logarithm may round differently elsewhere
            distance = torch.arange(length)[None, :] - torch.arange(length)[:, None]
            self._buckets[place] = self.encoder.relative_position_bucket(distance).to(hidden.device)
        values: Tensor = self.encoder.relative_attention_bias(self._buckets[place])
        return values.permute(2, 0, 1).unsqueeze(0)


def replace_attention(model: nn.Module) -> None:
    """Replace every ``attention.attn`` of an MPNetModel."""
    encoder: Any = model.encoder
    for layer in encoder.layer:
        layer.attention.attn = BiasedAttention(layer.attention.attn)
    encoder.compute_position_bias = PositionBias(encoder)
