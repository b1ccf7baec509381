"""Quantisers: vectors to integers and back, each with the same interface.

    quantizer(z [..., dim]) -> Quantized        lookup(index [...]) -> codes [..., dim]

`size` is the number of codes, `dim` the width of the vectors. All is float32, whatever the networks
around compute in: a lookup in bfloat16 flips near-ties, and then codes differ between chips.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array
from genjax.core.registry import Registry, option
from genjax.core.types import pytree
from genjax.layers.linear import named, normal

_ROWS = 2048  # codes that are compared at once: [..., size] similarities would not fit
_HIGHEST = jax.lax.Precision.HIGHEST


@pytree
class Quantized:
    """What a quantiser makes of z [..., dim].

    `z_q` [..., dim]: the codes, with z's gradient straight through; `index` [...] int32;
    `losses`: name -> [...], weights included, to be added to the loss; `point` [..., dim]: what was
    compared with the codes (z, or z/|z|), from which a dead code can be revived.
    """

    z_q: Array
    index: Array
    losses: dict[str, Array]
    point: Array


class VectorQuantizer(nn.Module):
    """A learned table; the nearest row, by default of both normalised (ViT-VQGAN, section 3.2).

    Losses, means over the `dim` channels: "codebook" |sg[u] - e|^2 and "commitment" beta |u -
    sg[e]|^2 with u = z/|z| and e the normalised row (under `l2`), as they are otherwise.
    """

    size: int = option(8192, "number of codes")
    dim: int = option(32, "width of a code")
    l2: bool = option(True, "compare, and hand on, normalised vectors")
    beta: float = option(0.25, "weight of the commitment term")
    straight_through: str = option(
        "normalized", "what the decoder's gradient goes to: normalized (z/|z|) or raw (z itself)"
    )

    def __post_init__(self):
        if min(self.size, self.dim) < 1 or self.beta < 0:
            raise ValueError("size and dim are at least 1, beta at least 0")
        if self.straight_through not in ("normalized", "raw"):
            raise ValueError(
                f"straight_through: {self.straight_through!r} is neither normalized nor raw"
            )
        super().__post_init__()

    def setup(self):
        shape = (self.size, self.dim)
        self.table = self.param("table", named(normal(1.0), (None, None)), shape, jnp.float32)

    def __call__(self, z: Array) -> Quantized:
        z = z.astype(jnp.float32)
        u, codes = self._unit(z), self._unit(self.table)
        index = nearest(jax.lax.stop_gradient(u), jax.lax.stop_gradient(codes))
        q = jnp.take(codes, index, axis=0)
        fixed = jax.lax.stop_gradient(q)
        losses = {
            "codebook": jnp.mean(jnp.square(jax.lax.stop_gradient(u) - q), axis=-1),
            "commitment": self.beta * jnp.mean(jnp.square(u - fixed), axis=-1),
        }
        base = z if self.straight_through == "raw" else u
        return Quantized(_straight(base, fixed), index, losses, u)

    def lookup(self, index: Array) -> Array:
        """Returns the codes [..., dim] that `__call__` hands on, normalised under `l2`."""
        return jnp.take(self._unit(self.table), index, axis=0)

    def revived(self, params: Any, dead: Array, points: Array) -> dict[str, Array]:
        """Returns `params` with the `dead` [size] rows of the table replaced by `points`.

        `points` [size, dim]: what `Quantized.point` held of some vectors. A normalised point gets
        the length of the row that it replaces, so that it moves as fast as that.
        """
        table = params["table"]
        if self.l2:
            points = self._unit(points) * jnp.linalg.norm(table, axis=-1, keepdims=True)
        return {**params, "table": jnp.where(dead[:, None], points, table)}

    def _unit(self, x: Array) -> Array:
        return l2_normalize(x) if self.l2 else x


class FSQ(nn.Module):
    """Finite scalar quantisation (Mentzer et al. 2023): every channel is rounded to a few levels.

    Channel i becomes one of `levels[i]` integers around 0, divided by levels[i] // 2; an even
    number has one more below 0. No table, no losses, and every code can be reached.
    """

    levels: tuple[int, ...] = option((8, 8, 8, 5, 5), "levels of every channel, each at least 3")

    def __post_init__(self):
        if not self.levels or min(self.levels) < 3:
            raise ValueError(f"levels: {tuple(self.levels)} must be integers of at least 3")
        if math.prod(self.levels) >= 2**31:
            raise ValueError("levels: their product, the number of codes, must be below 2^31")
        super().__post_init__()

    @property
    def size(self) -> int:
        return math.prod(self.levels)

    @property
    def dim(self) -> int:
        return len(self.levels)

    def __call__(self, z: Array) -> Quantized:
        z = z.astype(jnp.float32)
        levels = np.asarray(self.levels)
        # A little beyond the outermost integers, so that they too are the middle of something.
        reach = (levels - 1) / 2 * (1 + 1e-3)
        offset = np.where(levels % 2, 0.0, 0.5)  # even: the integers lie at -L/2 ... L/2 - 1
        shift = np.arctanh(offset / reach)  # z = 0 is the code 0
        bounded = jnp.tanh(z + _f32(shift)) * _f32(reach) - _f32(offset)
        digits = jnp.round(bounded).astype(jnp.int32) + levels // 2
        index = jnp.sum(digits * np.asarray(_radix(self.levels), np.int32), axis=-1)
        half = _f32(levels // 2)
        return Quantized(_straight(bounded / half, self.lookup(index)), index, {}, z)

    def lookup(self, index: Array) -> Array:
        """Returns the codes [..., len(levels)], each channel in [-1, 1]."""
        levels = np.asarray(self.levels)
        basis = np.asarray(_radix(self.levels), np.int32)
        digits = (jnp.asarray(index)[..., None] // basis) % levels
        return (digits - levels // 2) / _f32(levels // 2)


class LFQ(nn.Module):
    """Lookup-free quantisation (MAGVIT-v2, Yu et al. 2023): the signs of `bits` channels.

    Losses: "commitment" beta mean |z - sign z|^2 and "entropy", `entropy` times H(code of a vector)
    minus H(code of the batch), in nats. Bits count as independent of each other, p(bit) = sigmoid(4
    z / temperature), so the second entropy is an upper bound of the codes' own.
    """

    bits: int = option(13, "channels; there are 2^bits codes")
    beta: float = option(0.25, "weight of the commitment term")
    entropy: float = option(0.1, "weight of the entropy term")
    temperature: float = option(1.0, "softness of the bits in the entropy term")

    def __post_init__(self):
        if not 1 <= self.bits <= 30:
            raise ValueError(f"bits must lie in 1..30, not {self.bits}")
        if min(self.beta, self.entropy) < 0 or self.temperature <= 0:
            raise ValueError("beta and entropy are at least 0, temperature above 0")
        super().__post_init__()

    @property
    def size(self) -> int:
        return 2**self.bits

    @property
    def dim(self) -> int:
        return self.bits

    def __call__(self, z: Array) -> Quantized:
        z = z.astype(jnp.float32)
        index = jnp.sum((z > 0) * (1 << np.arange(self.bits, dtype=np.int32)), axis=-1)
        index = index.astype(jnp.int32)
        q = self.lookup(index)
        # p(+1) of a softmax over -(z - 1)^2 / T and -(z + 1)^2 / T
        logit = 4 * z / self.temperature
        own = jnp.sum(_bit_entropy(logit), axis=-1)
        p = jnp.mean(jax.nn.sigmoid(logit), axis=tuple(range(z.ndim - 1)))
        p = jnp.clip(p, 1e-6, 1 - 1e-6)
        whole = -jnp.sum(p * jnp.log(p) + (1 - p) * jnp.log(1 - p))
        losses = {
            "commitment": self.beta * jnp.mean(jnp.square(z - q), axis=-1),
            "entropy": self.entropy * (own - whole),
        }
        return Quantized(_straight(z, q), index, losses, z)

    def lookup(self, index: Array) -> Array:
        """Returns the codes [..., bits] of -1 and 1, the lowest bit first."""
        bits = (jnp.asarray(index)[..., None] >> np.arange(self.bits, dtype=np.int32)) & 1
        return (2 * bits - 1).astype(jnp.float32)


QUANTIZERS = Registry("quantiser", {"vq": VectorQuantizer, "fsq": FSQ, "lfq": LFQ})


def l2_normalize(x: Array) -> Array:
    """Returns x / |x| over the last axis, with a gradient of 0 instead of NaN at x = 0."""
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)


def nearest(z: Array, table: Array) -> Array:
    """Returns int32 [...]: the row of `table` [k, c] nearest to each z [..., c], the first of many.

    By z e - |e|^2 / 2 in float32 at highest precision; a few rows of the table at a time, so that
    the similarities of all tokens with all codes never exist at once.
    """
    k, c = table.shape
    pieces = -(-k // _ROWS)
    half = 0.5 * jnp.sum(jnp.square(table), axis=-1)
    if pieces == 1:
        return jnp.argmax(_similar(z, table) - half, axis=-1).astype(jnp.int32)
    spare = pieces * _ROWS - k
    table = jnp.pad(table, ((0, spare), (0, 0))).reshape(pieces, _ROWS, c)
    half = jnp.pad(half, (0, spare), constant_values=jnp.inf).reshape(pieces, _ROWS)

    def better(best, piece):
        rows, half, first = piece
        score = _similar(z, rows) - half
        found, at = jnp.max(score, axis=-1), jnp.argmax(score, axis=-1).astype(jnp.int32) + first
        return (jnp.maximum(best[0], found), jnp.where(found > best[0], at, best[1])), None

    start = jnp.full(z.shape[:-1], -jnp.inf), jnp.zeros(z.shape[:-1], jnp.int32)
    firsts = jnp.arange(pieces, dtype=jnp.int32) * _ROWS
    return jax.lax.scan(better, start, (table, half, firsts))[0][1]


def _similar(z: Array, rows: Array) -> Array:
    return jnp.einsum("...c,kc->...k", z, rows, precision=_HIGHEST)


def _straight(z: Array, q: Array) -> Array:
    """Returns exactly q, with the gradient of z."""
    return jax.lax.stop_gradient(q) + (z - jax.lax.stop_gradient(z))


def _bit_entropy(logit: Array) -> Array:
    """Returns the entropy in nats of a bit with this log-odds, without overflow."""
    return jax.nn.softplus(logit) - logit * jax.nn.sigmoid(logit)


def _radix(levels: tuple[int, ...]) -> list[int]:
    return [math.prod(levels[:i]) for i in range(len(levels))]


def _f32(x: Any) -> np.ndarray:
    return np.asarray(x, np.float32)
