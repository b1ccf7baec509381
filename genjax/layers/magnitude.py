"""Magnitude-preserving layers (Karras et al. 2024, EDM2, arXiv 2312.02696, section 2 and B).

Every operation keeps activations of unit variance at unit variance, in expectation, so that a
network needs neither biases nor learned norms. Learned weights are stored raw, start as N(0, 1)
and are normalised per output unit wherever they are used:

    w_used = w / (rms(w) + 1e-4) gain / sqrt(fan_in).

Adding noise to the direction of w would let its length, and with it the effective learning rate,
drift; `project` brings raw weights back to unit length after each update (forced normalisation).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array, Tree
from genjax.core.tree import map_with_path
from genjax.layers.conv import convolve
from genjax.layers.linear import Initializer, named, normal
from genjax.parallel.rules import gather

EPSILON = 1e-4  # added to the root mean square, not to the norm
SILU_GAIN = 0.596  # root of the second moment of silu(n), n ~ N(0, 1), as published (0.59647)
_RAW = ("kernel", "table")  # what the weights are called that `project` normalises


def normalize(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """Returns x / (rms(x) + 1e-4) in x's dtype; the root mean square over `axis` is float32."""
    y = x.astype(jnp.float32)
    rms = jnp.sqrt(jnp.mean(jnp.square(y), axis=axis, keepdims=True))
    return (y / (rms + EPSILON)).astype(x.dtype)


def mp_silu(x: Array) -> Array:
    """Returns silu(x) / 0.596: of unit second moment for x ~ N(0, 1)."""
    return nn.silu(x) / jnp.asarray(SILU_GAIN, x.dtype)


def mp_sum(a: Array, b: Array, t: float = 0.5) -> Array:
    """Returns ((1 - t) a + t b) / sqrt((1 - t)^2 + t^2), for independent a and b."""
    scale = 1 / math.hypot(1 - t, t)
    return (a * ((1 - t) * scale) + b * (t * scale)).astype(a.dtype)


def mp_cat(a: Array, b: Array, t: float = 0.5) -> Array:
    """Returns a and b side by side in the last axis, scaled so that b contributes as `t` says.

    With N_a and N_b channels the factors are C (1 - t)/sqrt(N_a) and C t/sqrt(N_b), where
    C = sqrt((N_a + N_b)/((1 - t)^2 + t^2)) : the contribution does not depend on the
    number of channels, and the mean square of the whole is 1.
    """
    na, nb = a.shape[-1], b.shape[-1]
    c = math.sqrt(na + nb) / math.hypot(1 - t, t)
    scaled = a * (c * (1 - t) / math.sqrt(na)), b * (c * t / math.sqrt(nb))
    return jnp.concatenate(scaled, axis=-1).astype(a.dtype)


def used_weight(raw: Array, gain: Array | float = 1.0) -> Array:
    """Returns the weight [*fan_in, out] that a layer multiplies with, float32."""
    fan_in = math.prod(raw.shape[:-1])
    whole = normalize(raw.astype(jnp.float32), axis=tuple(range(raw.ndim - 1)))
    return whole * (gain / math.sqrt(fan_in))


def project(params: Tree) -> Tree:
    """Returns the parameters with every raw weight at unit root mean square per output unit.

    Raw weights are the leaves called `kernel` or `table`, [in, out] or [h, w, in, out]; an odd
    number of axes means that a scan stacked them along the first. All others (gains, Fourier
    constants) are untouched. What the layers compute does not change, up to `EPSILON`.
    """

    def one(path: str, leaf: Array) -> Array:
        if path.rsplit("/", 1)[-1] not in _RAW:
            return leaf
        return normalize(leaf, axis=tuple(range(leaf.ndim % 2, leaf.ndim - 1)))

    return map_with_path(one, params)


class MPLinear(nn.Module):
    """[..., n] -> [..., features] by a weight that is normalised per output unit; no bias.

    The raw kernel [n, features] carries the logical axis names `names`. `gain` multiplies the
    weight: a number, or a learned scalar. A sum over at most n inputs of unit variance has unit
    variance.
    """

    features: int
    names: tuple[str | None, str | None] = (None, "embed")
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, gain: Array | float = 1.0) -> Array:
        kernel = self.param(
            "kernel", named(normal(1.0), self.names), (x.shape[-1], self.features), jnp.float32
        )

        # As in `Linear`: the backward pass keeps x and the raw kernel and nothing between.
        def product(x: Array, kernel: Array, gain) -> Array:
            weight = gather(used_weight(kernel, gain).astype(self.dtype), self.names)
            return x.astype(self.dtype) @ weight

        return jax.checkpoint(product, prevent_cse=False)(x, kernel, gain)


class MPConv(nn.Module):
    """[..., h, w, n] -> [..., h, w, features]: a convolution, zero-padded, without bias.

    The raw kernel is [size, size, n, features], size odd; its output channels carry the logical
    name `axis` (None: a handful of channels that no mesh axis divides). `gain` as in `MPLinear`.
    """

    features: int
    size: int = 3
    axis: str | None = "channels"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, gain: Array | float = 1.0) -> Array:
        names = (None, None, None, self.axis)
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", named(normal(1.0), names), shape, jnp.float32)

        def product(x: Array, kernel: Array, gain) -> Array:
            weight = gather(used_weight(kernel, gain).astype(self.dtype), names)
            rows = x.astype(self.dtype).reshape(-1, *x.shape[-3:])
            y = convolve(rows, weight, padding=((self.size // 2,) * 2,) * 2)
            return y.reshape(*x.shape[:-1], self.features)

        return jax.checkpoint(product, prevent_cse=False)(x, kernel, gain)


class MPFourier(nn.Module):
    """a [b] -> float32 [b, width]: sqrt(2) cos(f a + phi), f = 2 pi N(0, 1), phi = 2 pi U(0, 1).

    Frequencies and phases are constants: they stand among the parameters (they belong to the
    weights, and files hold them), but no gradient reaches them.
    """

    width: int

    @nn.compact
    def __call__(self, a: Array) -> Array:
        names = (None,)
        freqs = self.param("freqs", named(normal(2 * math.pi), names), (self.width,), jnp.float32)
        phases = self.param("phases", named(_phase, names), (self.width,), jnp.float32)
        freqs, phases = jax.lax.stop_gradient((freqs, phases))
        angles = a.astype(jnp.float32)[:, None] * freqs + phases
        return jnp.cos(angles) * np.float32(math.sqrt(2))


class MPLabelEmbedding(nn.Module):
    """Integer labels [b] in [0, classes] -> float32 [b, width], of unit variance.

    One normalised linear map of sqrt(classes) times the one-hot row; the row of `classes`, the
    null label, is zero.
    """

    classes: int
    width: int

    @nn.compact
    def __call__(self, label: Array) -> Array:
        names = ("classes", "embed")
        raw = self.param("table", named(normal(1.0), names), (self.classes, self.width))
        rows = gather(used_weight(raw, math.sqrt(self.classes)), names)
        known = (label >= 0) & (label < self.classes)
        picked = jnp.take(rows, jnp.where(known, label, 0), axis=0)
        return jnp.where(known[:, None], picked, 0.0)


_phase: Initializer = lambda key, shape, dtype=jnp.float32: jax.random.uniform(  # noqa: E731
    key, shape, dtype, 0.0, 2 * math.pi
)
