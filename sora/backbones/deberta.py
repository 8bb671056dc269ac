"""Replica-aware disentangled attention of DeBERTa-v2/v3 (He et al., 2021, Eq. 4), equal to transformers' eager one.

With a shared key (v3), the query and key projections also see the relative embeddings, so each replica has
position vectors of its own. Here the 2t-1 relative distances are looked up *before* the projections (not 512 rows
after them), every replica's are multiplied by its own examples only, and "row i, distance i-j" becomes "row i,
column j" by a change of strides instead of a gather.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from sora.backbones.attention import additive, score_matrix, weigh
from sora.backbones.dropout import CounterDropout
from sora.errors import UserError

MOST_TOKENS = 512  # of a table of distances that is made ahead; a longer text makes it anew


def bucket_rows(length: int, buckets: int, max_position: int) -> Tensor:
    """Rows of the relative-embedding table for the distances -(t-1) .. t-1, int64 [2t-1].

    Always computed on the CPU: the logarithm may round differently elsewhere, and a bucket must not.
    """
    distance = torch.arange(1 - length, length)
    if buckets > 0 and max_position > 0:
        distance = make_log_bucket_position(distance, buckets, max_position).to(torch.int64)
    span = buckets if buckets > 0 else max_position
    return torch.clamp(distance + span, 0, 2 * span - 1)


class Distances:
    """The rows of :func:`bucket_rows` for every layer of a model: one table a device, of which a length is a slice.

    A table is copied once, from pinned memory, so that a new length neither waits for a GPU nor costs it anything.
    """

    def __init__(self, buckets: int, max_position: int) -> None:
        self.buckets, self.max_position = buckets, max_position
        self._longest: dict[torch.device, Tensor] = {}

    def __call__(self, length: int, device: torch.device) -> Tensor:
        """int64 [2t-1] for ``length`` t."""
        table = self._longest.get(device)
        if table is None or table.shape[0] < 2 * length - 1:
            reach = max(MOST_TOKENS, length)
            table = bucket_rows(reach, self.buckets, self.max_position)
            if device.type == "cuda":
                table = table.pin_memory().to(device, non_blocking=True)
            self._longest[device] = table
        middle = table.shape[0] // 2
        return table[middle - length + 1 : middle + length]


def _skewed(scores: Tensor) -> Tensor:
    """View [N, t, t] of contiguous [N, t, 2t-1] whose element (i, j) is column t-1-i+j of row i."""
    count, length, width = scores.shape
    return scores.as_strided(
        (count, length, length), (length * width, width - 1, 1), scores.storage_offset() + length - 1
    )


def _unskewed(grad: Tensor) -> Tensor:
    count, length, _ = grad.shape
    out = grad.new_zeros((count, length, 2 * length - 1))
    _skewed(out).copy_(grad)
    return out


class _RelativeBias(torch.autograd.Function):
    """c2p [N, t, 2t-1] over distances t-1 .. -(t-1) and p2c [N, t, 2t-1] over -(t-1) .. t-1 -> bias [N, t, t]."""

    @staticmethod
    def forward(ctx: Any, c2p: Tensor | None, p2c: Tensor | None) -> Tensor:
        ctx.kinds = (c2p is not None, p2c is not None)
        if c2p is None or p2c is None:
            return _skewed(c2p).clone() if p2c is None else _skewed(p2c).mT.contiguous()  # type: ignore[arg-type]
        return _skewed(c2p) + _skewed(p2c).mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return (
            _unskewed(grad) if ctx.kinds[0] and ctx.needs_input_grad[0] else None,
            _unskewed(grad.mT) if ctx.kinds[1] and ctx.needs_input_grad[1] else None,
        )


class DisentangledAttention(nn.Module):
    """Takes the place of transformers' DisentangledSelfAttention and keeps its children under their names.

    A projection maps [B, t, in] -> [B, t, out] with replica-major B, and rows shared by all replicas
    [1, P, in] -> [1 or R, P, out].
    """

    query_proj: nn.Module
    key_proj: nn.Module
    value_proj: nn.Module

    def __init__(self, original: nn.Module, distances: Distances | None = None) -> None:
        super().__init__()
        source: Any = original
        for name, child in source.named_children():
            self.add_module(name, child)
        self.heads: int = source.num_attention_heads
        self.head_size: int = source.attention_head_size
        self.relative: bool = source.relative_attention
        self.share_att_key: bool = source.share_att_key
        self.kinds = [k for k in ("c2p", "p2c") if k in source.pos_att_type] if self.relative else []
        self.scale = math.sqrt(self.head_size * (1 + sum(k in source.pos_att_type for k in ("c2p", "p2c"))))
        self.buckets: int = source.position_buckets if self.relative else -1
        self.max_position: int = source.max_relative_positions if self.relative else -1
        self.distances = distances or Distances(self.buckets, self.max_position)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        output_attentions: bool = False,
        query_states: Tensor | None = None,
        relative_pos: Tensor | None = None,
        rel_embeddings: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Hidden [R*b, t, d], mask of the keys bool [R*b, 1, 1, t] -> ([R*b, t, d], None).

        Rows of padding come out different from transformers' (which lets them attend to everything); nothing
        reads them.
        """
        if query_states is not None:
            raise ValueError("a second query stream (enhanced mask decoder) is not part of an encoder")
        batch, length, _ = hidden_states.shape
        dropout: CounterDropout = self.dropout  # type: ignore[assignment]
        c2p = p2c = None
        groups = dropout.context.replicas if dropout.context.active else 1
        if self.kinds and rel_embeddings is not None:
            c2p, p2c = self._positions(rel_embeddings, length)
            groups = max(groups, *(p.shape[0] for p in (c2p, p2c) if p is not None))
        if batch % groups:
            raise ValueError(f"a batch of {batch} examples cannot hold {groups} replicas alike")
        shape = (groups, batch // groups, length, self.heads, self.head_size)

        def split(x: Tensor) -> Tensor:  # -> [R, H, b, t, dh]: the examples of one replica and head side by side
            return x.view(shape).permute(0, 3, 1, 2, 4).contiguous()

        query = split(self.query_proj(hidden_states))
        key = split(self.key_proj(hidden_states))
        value = split(self.value_proj(hidden_states))
        flat = (batch * self.heads, length, self.head_size)
        padding = additive(attention_mask, query)
        padding = padding.view(groups, 1, -1, 1, length)
        if c2p is None and p2c is None:
            bias = padding.expand(groups, self.heads, -1, 1, length).reshape(-1, 1, length)
        else:
            bias = _RelativeBias.apply(self._against(query, c2p, flat), self._against(key, p2c, flat))
            bias.view(*shape[:1], self.heads, -1, length, length).add_(padding)
        inverse = 1.0 / self.scale  # of all three terms; the padding's is as good as minus infinity still
        scores = score_matrix(bias, query.view(flat), key.view(flat), inverse, inverse)
        out = weigh(scores, value.view(flat), dropout, self.heads, head_major=True)
        out = out.view(groups, self.heads, -1, length, self.head_size).permute(0, 2, 3, 1, 4)
        return out.reshape(batch, length, -1), None

    def _positions(self, table: Tensor, length: int) -> tuple[Tensor | None, Tensor | None]:
        """Projected relative embeddings [1 or R, 2t-1, d] for c2p (distances falling) and p2c (rising)."""
        rows = self.distances(length, table.device)
        pos_dropout: CounterDropout = self.pos_dropout  # type: ignore[assignment]
        # transformers drops whole table entries: distances that share a bucket share their mask
        rel = pos_dropout.shared_rows(table.index_select(0, rows), rows)
        to_key = self.key_proj if self.share_att_key else getattr(self, "pos_key_proj", None)
        to_query = self.query_proj if self.share_att_key else getattr(self, "pos_query_proj", None)
        with pos_dropout.context.rows_of_table(rows):  # and so it is with an adapter's dropout
            c2p = to_key(rel).flip(1) if "c2p" in self.kinds else None  # type: ignore[misc]
            p2c = to_query(rel) if "p2c" in self.kinds else None  # type: ignore[misc]
        return c2p, p2c

    def _against(self, content: Tensor, position: Tensor | None, flat: tuple[int, int, int]) -> Tensor | None:
        """Content [R, H, b, t, dh] times position vectors [1 or R, P, d] of the same replica -> [R*H*b, t, P]."""
        if position is None:
            return None
        groups, width = content.shape[0], position.shape[1]
        heads = position.expand(groups, -1, -1).reshape(groups, width, self.heads, self.head_size)
        heads = heads.permute(0, 2, 3, 1).reshape(groups * self.heads, self.head_size, width)
        product = torch.bmm(content.view(groups * self.heads, -1, self.head_size), heads)
        return product.view(flat[0], flat[1], width)


def _key_mask(attention_mask: Tensor) -> Tensor:
    return attention_mask.bool()[:, None, None, :]


def _no_relative_positions(*_: Any, **__: Any) -> None:
    return None


def replace_attention(model: nn.Module) -> None:
    """Replace every ``attention.self`` of a DebertaV2Model.

    Raises:
        UserError: for a model with a convolution layer, whose rows of padding would reach valid rows.
    """
    encoder: Any = model.encoder
    if getattr(encoder, "conv", None) is not None:
        raise UserError(
            "backbone: a DeBERTa with a convolution layer (conv_kernel_size > 0, as v2-xlarge) is not supported; "
            "use one of the DeBERTaV3 backbones"
        )
    shared: Distances | None = None  # the layers of a model have one table
    for layer in encoder.layer:
        layer.attention.self = DisentangledAttention(layer.attention.self, shared)
        shared = layer.attention.self.distances
    # the outer-product mask [B, 1, t, t] and the table of distances [1, t, t] are not needed
    encoder.get_attention_mask = _key_mask
    encoder.get_rel_pos = _no_relative_positions
