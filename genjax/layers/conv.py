"""Convolutions, group normalisation and resampling of image grids [..., h, w, c]."""

import flax.linen as nn
import jax.numpy as jnp

from genjax.core.arrays import Array

# PyTorch's default for convolutions and linear maps: uniform with variance 1 / (3 fan_in).
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

SAME = ((1, 1), (1, 1))
DOWN = ((0, 1), (0, 1))  # bottom and right only: what a 3x3 convolution of stride 2 pads here
NONE = ((0, 0), (0, 0))


def conv(
    features: int,
    *,
    dtype: str,
    size: int = 3,
    stride: int = 1,
    padding=SAME,
    axis: str | None = "channels",
    name: str | None = None,
) -> nn.Conv:
    """Returns a `size` x `size` convolution whose output channels have the logical name `axis`.

    `axis=None` is for a handful of channels (pixels, latents), which no mesh axis divides.
    """
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=padding,
        dtype=jnp.dtype(dtype),
        kernel_init=nn.with_logical_partitioning(kernel_init, (None, None, None, axis)),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, (axis,)),
        name=name,
    )


def group_norm(groups: int, *, epsilon: float, name: str | None = None) -> nn.GroupNorm:
    """Returns a group normalisation that computes and answers in float32.

    The variance is that of the centred values; E[x^2] - E[x]^2 loses digits to a large mean.
    """
    return nn.GroupNorm(
        groups,
        epsilon=epsilon,
        dtype=jnp.float32,
        use_fast_variance=False,
        scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("channels",)),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("channels",)),
        name=name,
    )


def upsample(x: Array) -> Array:
    """Returns [..., 2h, 2w, c]: every pixel twice along both sides (nearest neighbour)."""
    return jnp.repeat(jnp.repeat(x, 2, axis=-3), 2, axis=-2)
