"""Looks at an encoder that :mod:`sora.backbones.families` does not list, before it is taken.

A listed family is known to be bidirectional, to keep examples and padding apart, and to drop where masks are counted.
Of any other this is seen by running it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sora.backbones import attention
from sora.backbones.dropout import CounterDropout
from sora.backbones.families import ENCODERS
from sora.errors import UserError

if TYPE_CHECKING:
    from sora.backbones.load import Backbone

TOLERANCE = 1e-4  # of the largest output, in fp32


@torch.no_grad()
def check(backbone: Backbone) -> None:
    """Run an encoder of a family that is not listed, and give its attention sites for dropout.

    Its ``unpacked`` says why two runs cannot share it, where they cannot.

    Raises:
        UserError: it cannot be run on token ids alone, reads from left to right, lets padding or other examples reach a
            token, or drops where no masks can be counted.
    """
    encoder, kind = backbone.encoder, backbone.config.family
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, int(backbone.hf_config.vocab_size), (2, 9), generator=generator)
    mask = torch.ones_like(ids)
    padded = mask.clone()
    padded[0, 6:] = 0
    attention.SEEN.clear()
    try:
        with _inputs(encoder) as of_both:
            whole = _hidden(encoder, ids, mask)
        with _inputs(encoder) as of_one:
            _hidden(encoder, ids[:1], mask[:1])
        alone, together = _hidden(encoder, ids[:1, :6], mask[:1, :6]), _hidden(encoder, ids, padded)
    except Exception as error:  # each class fails in its own way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"backbone: {kind} does not run on token ids alone ({reason}); {ENCODERS}") from error
    changed = ids.clone()
    changed[:, -1] = (ids[:, -1] + 1) % int(backbone.hf_config.vocab_size)
    wrong = ""
    if torch.equal(_hidden(encoder, changed, mask)[:, 0], whole[:, 0]):
        wrong = "a token does not see those behind it, as in a decoder"
    elif not _close(together[:1, :6], alone):
        wrong = "the padding or another example of the batch reaches a token, so that runs cannot be packed"
    if wrong:
        raise UserError(f"backbone: in {kind} {wrong}; {ENCODERS}")
    strange = next((name for name, both in of_both.items() if not _of_examples(both, of_one.get(name, []))), None)
    if strange is not None:
        backbone.unpacked = f"{strange} of {kind} reads other rows than those of the examples"
    _place_attention_sites(backbone, ids, mask, whole)


def _place_attention_sites(backbone: Backbone, ids: Tensor, mask: Tensor, quiet: Tensor) -> None:
    """Sites for the dropout of attention; refuse an encoder that in training drops anywhere else."""
    encoder = backbone.encoder
    names = {id(module): name for name, module in encoder.named_modules()}
    encoder.train()
    attention.SEEN.clear()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            dropped = _hidden(encoder, ids, mask)
    finally:
        encoder.eval()
    for module, p in attention.SEEN.values():
        module.attention_site = backbone.dropout_site(p, f"{names[id(module)]}.attention_probabilities")
    attention.SEEN.clear()
    if not _close(dropped, quiet):
        raise UserError(
            f"backbone: {backbone.config.family} drops where masks cannot be counted, so that a run would depend on "
            "its neighbours in a pack; set backbone.dropout=0"
        )


@contextmanager
def _inputs(encoder: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """What goes, in each of its calls, into a module that has weights or masks of its own for each replica."""
    seen: dict[str, list[Tensor]] = {}

    def note(name: str) -> Any:
        return lambda _, given: seen.setdefault(name, []).append(given[0].detach()) if given else None

    hooks = [
        module.register_forward_pre_hook(note(name))
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear | nn.LayerNorm | CounterDropout)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _of_examples(both: list[Tensor], one: list[Tensor]) -> bool:
    """Whether the inputs of a batch of two are, row by row, those of its examples."""
    return len(both) == len(one) and all(
        len(x) == 2 and x[:1].shape == y.shape and _close(x[:1], y) for x, y in zip(both, one, strict=True)
    )


def _hidden(encoder: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    hidden: Tensor = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    if hidden.shape[:2] != ids.shape:
        raise ValueError(f"{list(hidden.shape)} from {list(ids.shape)} tokens")
    return hidden


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() <= TOLERANCE * other.abs().max())
