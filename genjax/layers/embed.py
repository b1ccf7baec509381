"""Fixed and learned embeddings of positions, times and labels; patches."""

import functools
import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array
from genjax.layers.linear import Linear, named, normal
from genjax.parallel.rules import gather


@functools.lru_cache(maxsize=16)
def sincos_2d(width: int, rows: int, cols: int) -> np.ndarray:
    """Returns the fixed 2-D sine-cosine table, float32 [rows * cols, width], tokens row-major.

    A token holds [sin(col w), cos(col w), sin(row w), cos(row w)], w_i = 10000^(-i / (width/4)):
    the column comes first. Non-square grids are legal. Raises `ValueError` unless 4 | width.
    """
    if width % 4:
        raise ValueError(
            f"width must be a multiple of 4 for 2-D sine-cosine positions, not {width}"
        )
    omega = 1.0 / 10000 ** (np.arange(width // 4, dtype=np.float64) / (width / 4.0))
    row, col = np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij")
    angles = [np.outer(index.reshape(-1), omega) for index in (col, row)]
    table = np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1)
    table = table.astype(np.float32)
    table.setflags(write=False)
    return table


def timestep_embedding(
    t: Array,
    width: int = 256,
    *,
    order: Literal["cos_sin", "sin_cos"] = "cos_sin",
    denominator: Literal["half", "half_minus_one"] = "half",
    max_period: float = 10000.0,
) -> Array:
    """Returns float32 [b, width] sinusoids of the times t [b] at geometric frequencies.

    f_i = max_period^(-i / n) for i < width/2, where n is width/2 ("half") or width/2 - 1; `order`
    says which half comes first. DiT: cosines first, "half". Raises `ValueError` for an odd width.
    """
    if width % 2:
        raise ValueError(f"the width of a time embedding must be even, not {width}")
    half = width // 2
    n = half if denominator == "half" else half - 1
    # Float32 throughout, as the published networks were trained: at t = 999 the rounding of the
    # exponent is visible in the sixth digit of the output.
    exponent = np.float32(-math.log(max_period)) * np.arange(half, dtype=np.float32)
    frequencies = np.exp(exponent / np.float32(n))
    angles = t.astype(jnp.float32)[:, None] * frequencies
    parts = [jnp.cos(angles), jnp.sin(angles)]
    return jnp.concatenate(parts if order == "cos_sin" else parts[::-1], axis=-1)


class FourierFeatures(nn.Module):
    """t [b] -> float32 [b, width]: [sin(2 pi f t), cos(2 pi f t)] at fixed random frequencies.

    f ~ N(0, scale^2), width/2 of them, are drawn once: a parameter without a gradient, so that it
    is saved and averaged with the others and never moves.
    """

    width: int
    scale: float = 16.0

    @nn.compact
    def __call__(self, t: Array) -> Array:
        f = self.param(
            "frequencies",
            named(normal(self.scale), (None,)),
            (self.width // 2,),
            jnp.float32,
        )
        angles = t.astype(jnp.float32)[:, None] * (2 * math.pi * jax.lax.stop_gradient(f))
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class TimeEmbedding(nn.Module):
    """t [b] -> float32 [b, width]: sinusoids, Linear, SiLU, Linear; always in float32.

    Times never pass through bfloat16, where 997 becomes 996.
    """

    width: int
    frequencies: int = 256

    @nn.compact
    def __call__(self, t: Array) -> Array:
        h = timestep_embedding(t, self.frequencies)
        h = Linear((self.width,), (None, "embed"), kernel_init=normal(0.02), name="in")(h)
        return Linear((self.width,), (None, "embed"), kernel_init=normal(0.02), name="out")(
            nn.silu(h)
        )


class LabelEmbedding(nn.Module):
    """Integer labels [b] in [0, rows) -> float32 [b, width]; the table starts as N(0, 0.02^2)."""

    rows: int
    width: int

    @nn.compact
    def __call__(self, label: Array) -> Array:
        table = self.param(
            "table",
            named(normal(0.02), ("classes", "embed")),
            (self.rows, self.width),
            jnp.float32,
        )
        return jnp.take(gather(table, ("classes", "embed")), label, axis=0)


def patchify(x: Array, patch: int) -> Array:
    """Returns [b, h/p * w/p, p * p * c]: row-major patches, each flattened as (p, p, c).

    Raises `ValueError` if the patch does not divide height and width.
    """
    b, h, w, c = x.shape
    if h % patch or w % patch:
        raise ValueError(f"patch {patch} does not divide an image of {h} x {w}")
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).swapaxes(2, 3)
    return x.reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(x: Array, patch: int, rows: int, cols: int) -> Array:
    """Returns [b, rows * p, cols * p, c] from tokens [b, rows * cols, p * p * c]."""
    b, c = x.shape[0], x.shape[-1] // patch**2
    x = x.reshape(b, rows, cols, patch, patch, c).swapaxes(2, 3)
    return x.reshape(b, rows * patch, cols * patch, c)
