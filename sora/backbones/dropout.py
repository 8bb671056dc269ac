"""Counter-based dropout: a mask is a pure function of (seed, site, step, place), not of a generator's state.

Three properties follow, and the tests hold them:

* a replica of a pack draws bit for bit the masks of its solo run, whoever its neighbours are;
* masks do not depend on how far a batch is padded, nor on the device (integers only);
* resuming needs no generator state: the step number is enough.

The hash is SplitMix64 (Steele, Lea and Flood, 2014) used three times in a row: on the host for the key of each
(replica, site, step); on the device for the key of each *row* (example slot, head, position); and along the row,
one 64-bit value giving four 16-bit lanes. An element is dropped when its lane is below ``round(p * 65536)``.

On a CPU a mask is made in passes that stay in the cache, and kept for the backward pass. On a GPU a site is one
operation (:mod:`sora.backbones.dropout_op`) that draws the same bits in both directions.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sora.backbones import dropout_op

GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
LANES = 4  # 16-bit lanes of one 64-bit hash
STEPS = 1 << 16  # resolution of the drop probability
HEAD_BITS, POSITION_BITS = 12, 20  # a row's counter is slot << 32 | head << 20 | position
TABLE = 1 << (POSITION_BITS - 1)  # the position of a table's first row, above that of any token
CHUNK = 1 << 16  # hashes computed at a time on a CPU: 512 KiB, so that the passes stay in the second-level cache
CACHED_SHAPES = 256


def _signed(value: int) -> int:
    """The int64 with the bits of ``value`` modulo 2^64 (torch has no unsigned arithmetic)."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def splitmix64(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser on the host: uint64 [...] -> uint64 [...], a bijection."""
    z = values.astype(np.uint64, copy=True)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_2)
    return z ^ (z >> np.uint64(31))


def mix_(z: Tensor, scratch: Tensor) -> Tensor:
    """SplitMix64's finaliser in place on int64 ``z``; ``scratch`` has its shape and is overwritten."""
    for shift, factor in ((30, MIX_1), (27, MIX_2), (31, None)):
        torch.bitwise_right_shift(z, shift, out=scratch)
        # torch shifts int64 arithmetically: clear the copies of the sign bit
        scratch.bitwise_and_((1 << (64 - shift)) - 1)
        z.bitwise_xor_(scratch)
        if factor is not None:
            z.mul_(_signed(factor))
    return z


def site_hash(name: str) -> int:
    """64-bit identity of a dropout site, from its module name: adding sites leaves the others' masks alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def site_keys(seeds: Sequence[int], sites: Sequence[int], step: int) -> np.ndarray:
    """Keys int64 [sites, replicas] of one step. ``seeds``: one per replica; ``sites``: :func:`site_hash` of each."""
    golden = np.uint64(GOLDEN)
    seed = np.array([s & (2**64 - 1) for s in seeds], dtype=np.uint64)
    site = np.array(sites, dtype=np.uint64)
    key = splitmix64(splitmix64(seed + golden)[None, :] ^ site[:, None])
    moment = np.array([(step * GOLDEN + GOLDEN) & (2**64 - 1)], dtype=np.uint64)
    return splitmix64(key + moment).view(np.int64)


@dataclass(frozen=True)
class DropoutKey:
    """What decides every mask of one training step: one seed per replica, and the step number."""

    seeds: tuple[int, ...]
    step: int


class DropoutContext:
    """The state that all dropout sites of a model share during one forward pass. Off until :meth:`begin`."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sites: list[int] = []
        self._host_keys: Tensor | None = None
        self._device_keys: dict[torch.device, Tensor] = {}
        self._held: Tensor | None = None
        self._tables: dict[tuple[Any, ...], Tensor] = {}
        self.replicas = 1
        self.begun = 0  # forward passes so far
        self._rows: Tensor | None = None

    def register(self, name: str) -> int:
        """Index of a new site. Raises ValueError when the name is taken: two sites would share masks."""
        if name in self._names:
            raise ValueError(f"dropout site {name!r} exists already")
        self._names.append(name)
        self._sites.append(site_hash(name))
        return len(self._names) - 1

    @property
    def active(self) -> bool:
        """Whether a training step is under way."""
        return self._host_keys is not None

    def begin(self, key: DropoutKey | None) -> None:
        """Set the masks of the coming forward pass; None switches dropout off."""
        self.begun += 1
        self._device_keys.clear()
        if key is None:
            self._host_keys = None
            return
        self.replicas = len(key.seeds)
        self._host_keys = torch.from_numpy(site_keys(key.seeds, self._sites, key.step))
        if self._held is not None:
            self._held.copy_(self._host_keys.pin_memory(), non_blocking=True)
            self._device_keys[self._held.device] = self._held

    @contextmanager
    def rows_of_table(self, rows: Tensor) -> Iterator[None]:
        """Let every site take its input for the ``rows`` int64 [n] of a table that all examples share."""
        self._rows = rows
        try:
            yield
        finally:
            self._rows = None

    @property
    def table_places(self) -> Tensor | None:
        """Places int64 [n] of the rows in :meth:`rows_of_table`; None outside it."""
        return None if self._rows is None else self._rows + TABLE

    def hold(self, device: torch.device, replicas: int) -> None:
        """Keep the keys of every step to come at one place of ``device``, for a graph that reads them there."""
        self._held = torch.zeros(len(self._sites), replicas, dtype=torch.int64, device=device)

    def release(self) -> None:
        """Undo :meth:`hold`."""
        self._held = None

    def end(self) -> None:
        """Switch dropout off (the backward pass needs only what the forward pass saved)."""
        self._device_keys.clear()
        self._host_keys = None

    def keep(self, site: int, threshold: int, counters: Tensor, lanes: int) -> Tensor:
        """Mask bool [R * n, lanes] on a CPU: True where kept. ``counters``: int64 [n], from :meth:`counters`."""
        keys = self.keys(site, counters.device)
        rows = (keys[:, None] + counters).view(-1, 1)
        mix_(rows, torch.empty_like(rows))
        groups = -(-lanes // LANES)
        columns = self._columns(groups, counters.device)
        bound = threshold - STEPS // 2  # lanes are read as signed 16-bit integers
        total = rows.shape[0]
        kept = torch.empty((total, groups * LANES), dtype=torch.bool)
        size = max(1, min(CHUNK // groups, total))
        buffer = torch.empty((size, groups), dtype=torch.int64)
        scratch = torch.empty_like(buffer)
        for start in range(0, total, size):
            part = rows[start : start + size]
            hashes, spare = buffer[: part.shape[0]], scratch[: part.shape[0]]
            torch.add(part, columns, out=hashes)
            mix_(hashes, spare)
            torch.ge(hashes.view(torch.int16), bound, out=kept[start : start + part.shape[0]])
        return kept[:, :lanes]

    def counters(
        self, slots: int, heads: int, positions: int, device: torch.device, head_major: bool = False
    ) -> Tensor:
        """Stream offsets int64 [n] of the rows (slot, head, position), or (head, slot, position) when head-major."""

        def build() -> Tensor:
            return self.offsets(row_places(slots, heads, positions, head_major, device))

        return self._table(("rows", slots, heads, positions, head_major), device, build)

    @staticmethod
    def offsets(places: Tensor) -> Tensor:
        """Stream offsets int64 [n] of any non-negative int64 ``places``: place + 1 steps of the golden ratio."""
        return (places.reshape(-1) + 1) * _signed(GOLDEN)

    def _columns(self, groups: int, device: torch.device) -> Tensor:
        return self._table(("columns", groups), device, lambda: self.offsets(torch.arange(groups, device=device)))

    def _table(self, name: tuple[Any, ...], device: torch.device, build: Any) -> Tensor:
        key = (*name, device)
        if key not in self._tables:
            if len(self._tables) >= CACHED_SHAPES:
                self._tables.clear()
            self._tables[key] = build()
        return self._tables[key]

    def keys(self, site: int, device: torch.device) -> Tensor:
        """Keys int64 [R] of a site at the present step. Raises RuntimeError outside a training step."""
        if self._host_keys is None:
            raise RuntimeError("DropoutContext.begin was not called for this forward pass")
        if device not in self._device_keys:
            host = self._host_keys
            # pinned memory: the one transfer of a step does not wait for the work queued on the device
            self._device_keys[device] = (
                host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host
            )
        return self._device_keys[device][site]


def row_places(slots: int, heads: int, positions: int, head_major: bool, device: torch.device) -> Tensor:
    """Places int64 [n] of the rows (slot, head, position), or (head, slot, position) when head-major."""
    slot, head, position = (torch.arange(size, device=device) for size in (slots, heads, positions))
    place = (slot[:, None, None] << (HEAD_BITS + POSITION_BITS)) + (head[None, :, None] << POSITION_BITS) + position
    return (place.transpose(0, 1) if head_major else place).reshape(-1)


class _Drop(torch.autograd.Function):
    """x * keep * scale, remembering one byte an element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return _masked(x, keep, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return _masked(grad, keep, ctx.scale), None, None


def _masked(x: Tensor, keep: Tensor, scale: float) -> Tensor:
    out = torch.mul(x, keep.view(torch.uint8))  # the same product as with bool, in about half the time on a CPU
    # the scalar comes second so that bf16 rounds the product, not the scale
    return out if scale == 1.0 else out.mul_(scale)


class CounterDropout(nn.Module):
    """Drop-in for nn.Dropout inside a backbone: on while its context is, whatever ``training`` says.

    Args:
        p: probability of dropping, in [0, 1); used as ``round(p * 65536) / 65536``, with the scale that makes
            the expectation exact for that value.
        context: shared state. name: unique name of the site, which decides its masks.
    """

    def __init__(self, p: float, context: DropoutContext, name: str) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout probability {p} of {name} is outside [0, 1)")
        if sys.byteorder != "little":  # the lanes are a view of the hash's bytes
            raise RuntimeError("counter-based dropout needs a little-endian machine")
        self.p = p
        self.threshold = round(p * STEPS)
        self.scale = STEPS / (STEPS - self.threshold) if self.threshold < STEPS else 0.0
        self.context = context
        self.site = context.register(name)

    @property
    def active(self) -> bool:
        """Whether a forward pass would drop anything."""
        return self.threshold > 0 and self.context.active

    def forward(self, x: Tensor) -> Tensor:
        """[R*b, d] or [R*b, t, d], replica-major -> the same shape; a row is (slot, position).

        [R*b, H, t, t] are attention probabilities, of an attention that is not written for this class. In
        :meth:`DropoutContext.rows_of_table` it is [R, n, d], and a row is the table's, however many are looked up.
        """
        if not self.active:
            return x
        if (places := self.context.table_places) is not None:
            return self._drop(x, (1, 1, 1, False), places)
        if x.dim() == 4:
            dropped = self.probabilities(x.flatten(0, 1), x.shape[1]).view(x.shape)
            return dropped * self.late_scale(x.device)
        slots, positions = self._slots(x.shape[0]), x.shape[1] if x.dim() == 3 else 1
        return self._drop(x, (slots, 1, positions, False))

    def probabilities(
        self, probs: Tensor, heads: int, head_major: bool = False, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Attention probabilities [R*b*H, t, t] (or [R*H*b, t, t] when head-major); a row is (slot, head, query).

        They come back in ``dtype`` and without the factor :meth:`late_scale`.
        """
        if not self.active:
            return probs if dtype is None else probs.to(dtype)
        shape = (self._slots(probs.shape[0] // heads), heads, probs.shape[1], head_major)
        return self._drop(probs, shape, late=True, dtype=dtype)

    def late_scale(self, device: torch.device) -> float:
        """The factor that :meth:`probabilities` leaves to the values: on a CPU it costs less there."""
        return self.scale if self.active and device.type == "cpu" else 1.0

    def shared_rows(self, x: Tensor, places: Tensor) -> Tensor:
        """Rows [n, d] that all examples share -> [R, n, d], dropped per replica; equal places drop alike."""
        if not self.active:
            return x.unsqueeze(0)
        return self._drop(x.expand(self.context.replicas, *x.shape), (1, 1, 1, False), places)

    def take_site(self) -> int:
        """Return the index in the context of the masks that come next."""
        return self.site

    def _slots(self, examples: int) -> int:
        if examples % self.context.replicas:
            raise ValueError(f"a batch of {examples} examples cannot hold {self.context.replicas} replicas alike")
        return examples // self.context.replicas

    def _drop(
        self,
        x: Tensor,
        shape: dropout_op.Shape,
        places: Tensor | None = None,
        *,
        late: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Drop [..., lanes], whose rows are those of ``shape`` or lie, the same for every replica, at ``places`` [n].

        ``late``: without the factor :meth:`late_scale`. ``dtype`` of the result: that of ``x`` unless given.
        """
        if x.is_cuda:
            keys, rows = self.context.keys(self.take_site(), x.device), x.reshape(-1, x.shape[-1])
            bound = self.threshold - STEPS // 2
            return dropout_op.drop(rows, keys, places, shape, bound, self.scale, dtype).view(x.shape)
        slots, heads, positions, head_major = shape
        if places is None:
            counters = self.context.counters(slots, heads, positions, x.device, head_major)
        else:
            counters = self.context.offsets(places)
        keep = self.context.keep(self.take_site(), self.threshold, counters, x.shape[-1]).view(x.shape)
        dropped: Tensor = _Drop.apply(x, keep, 1.0 if late else self.scale)
        return dropped if dtype is None else dropped.to(dtype)

    def extra_repr(self) -> str:
        """For print(model)."""
        return f"p={self.p}"


class RepeatedDropout(CounterDropout):
    """A site that one forward pass runs ``uses`` times, as in layers with shared weights, each with its own masks."""

    def __init__(self, p: float, context: DropoutContext, name: str, uses: int) -> None:
        super().__init__(p, context, name)
        self.sites = [self.site, *(context.register(f"{name}@{use}") for use in range(1, uses))]
        self._begun = self._used = 0

    def take_site(self) -> int:
        if self._begun != self.context.begun:
            self._begun, self._used = self.context.begun, 0
        self._used += 1
        return self.sites[(self._used - 1) % len(self.sites)]


def new_site(p: float, context: DropoutContext, name: str, uses: int = 1) -> CounterDropout:
    """A site that one forward pass runs ``uses`` times."""
    return CounterDropout(p, context, name) if uses == 1 else RepeatedDropout(p, context, name, uses)


def replace_dropouts(model: nn.Module, context: DropoutContext, uses: Callable[[str], int] = lambda name: 1) -> None:
    """Replace every nn.Dropout below ``model`` by a CounterDropout named after its module.

    ``uses``: how often one forward pass runs the module of a name.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Dropout):
            model.set_submodule(name, new_site(module.p, context, name, uses(name)))
