"""Normalisation with float32 statistics.

The variance is the mean of squared deviations. The one-pass form E[x^2] - E[x]^2, Flax's default,
cancels where the mean is large against the spread.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.layers.linear import named, ones, zeros


def layer_norm(x: Array, eps: float = 1e-6) -> Array:
    """Returns (x - mean) / sqrt(var + eps) over the last axis, float32, without scale or shift."""
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps)


@functools.partial(jax.checkpoint, prevent_cse=False)
def adaptive_layer_norm(x: Array, shift: Array, scale: Array) -> Array:
    """Returns float32 layer_norm(x) (1 + scale) + shift: x [b, l, d], shift and scale [b, d].

    Its backward pass keeps the arguments and computes the statistics again.
    """
    return layer_norm(x) * (1 + scale[:, None]) + shift[:, None]


class LayerNorm(nn.Module):
    """LayerNorm over the last axis with learned scale and shift; returns x's dtype."""

    eps: float = 1e-6
    axis: str | None = "embed"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", named(ones, (self.axis,)), x.shape[-1:], jnp.float32)
        shift = self.param(
            "bias",
            named(zeros, (self.axis,)),
            x.shape[-1:],
            jnp.float32,
        )
        return (layer_norm(x, self.eps) * scale + shift).astype(x.dtype)


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2 + eps) times a learned scale over the last axis; returns x's dtype."""

    eps: float = 1e-6
    axis: str | None = "embed"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", named(ones, (self.axis,)), x.shape[-1:], jnp.float32)
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        return (y * scale).astype(x.dtype)


class GroupNorm(nn.Module):
    """Group normalisation of x [b, ..., c] over each image and group, float32 whatever x's dtype.

    Learned scale and shift per channel; `groups` must divide the channels. Sums are taken over
    pixels first and over a group's channels after, which every compiler does in whole rows; the
    reshape to groups that libraries begin with is three times slower on a CPU.
    """

    groups: int
    eps: float = 1e-6
    axis: str | None = "channels"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = x.shape[-1]
        if c % self.groups:
            raise ValueError(f"{self.groups} groups do not divide {c} channels")
        scale = self.param("scale", named(ones, (self.axis,)), (c,), jnp.float32)
        shift = self.param("bias", named(zeros, (self.axis,)), (c,), jnp.float32)
        pixels = tuple(range(1, x.ndim - 1))

        def mean(x: Array) -> Array:
            """Returns [b, ..., c], the same for all channels of a group."""
            each = jnp.mean(x, axis=pixels, keepdims=True)
            groups = each.reshape(*each.shape[:-1], self.groups, c // self.groups)
            whole = jnp.broadcast_to(jnp.mean(groups, axis=-1, keepdims=True), groups.shape)
            return whole.reshape(each.shape)

        x = x.astype(jnp.float32)
        centred = x - mean(x)
        return centred * (jax.lax.rsqrt(mean(jnp.square(centred)) + self.eps) * scale) + shift
