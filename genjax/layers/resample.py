"""Resampling of image grids by 2 with a small symmetric filter, and convolutions fused with it.

A filter is its one-dimensional taps, an even number: (1, 1) repeats and averages pixels,
(1, 3, 3, 1) is the FIR filter of StyleGAN2 and NCSN++. Outside the image everything is zero, so
that longer filters darken the border (Score SDE's and EDM's networks are trained with that).
"""

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array
from genjax.layers.conv import convolve
from genjax.layers.conv import upsample as repeat

BOX = (1, 1)


def check(taps: tuple[int, ...]) -> None:
    """Raises `ValueError` unless the taps are symmetric and of even number."""
    if not taps or len(taps) % 2 or tuple(taps) != tuple(taps)[::-1] or sum(taps) <= 0:
        raise ValueError(
            f"resample_filter: {tuple(taps)} is no symmetric filter of an even number of taps"
        )


def kernel(taps: tuple[int, ...]) -> np.ndarray:
    """Returns the two-dimensional filter, float32 [n, n], with sum 1."""
    one = np.asarray(taps, np.float64)
    return (np.outer(one, one) / one.sum() ** 2).astype(np.float32)


def downsample(x: Array, taps: tuple[int, ...] = BOX) -> Array:
    """Returns x [b, h, w, c] filtered, every second pixel of it: [b, h/2, w/2, c]."""
    if tuple(taps) == BOX:
        b, h, w, c = x.shape
        whole = x.astype(jnp.float32).reshape(b, h // 2, 2, w // 2, 2, c)
        return whole.mean((2, 4)).astype(x.dtype)
    pad = len(taps) // 2 - 1
    return _filter(x, kernel(taps), (pad, pad), strides=2)


def upsample(x: Array, taps: tuple[int, ...] = BOX) -> Array:
    """Returns x [b, h, w, c] with zeros between its pixels, filtered: [b, 2h, 2w, c]."""
    if tuple(taps) == BOX:
        return repeat(x)
    pad = len(taps) // 2
    return _filter(x, 4 * kernel(taps), (pad, pad), dilation=2)


def filter_then_conv(x: Array, weight: Array, taps: tuple[int, ...]) -> Array:
    """Returns the strided convolution of the filtered x: [b, h, w, c] -> [b, h/2, w/2, o].

    weight: [k, k, c, o], k odd. The filter sees the image's zero surroundings, so that this equals
    a convolution first and every second pixel of its filtered output after (`conv_downsample_2d`).
    """
    k, n = weight.shape[0], len(taps)
    total = n - 2 + k - 1
    x = _filter(x, kernel(taps), ((total + 1) // 2, total // 2))
    return convolve(x, weight, strides=2, padding=((0, 0), (0, 0)))


def conv_then_filter(x: Array, weight: Array, taps: tuple[int, ...]) -> Array:
    """Returns x with zeros between its pixels, convolved and filtered: [b, 2h, 2w, o].

    weight: [k, k, c, o], k odd (`upsample_conv_2d`, whose kernel is not flipped here).
    """
    k, n = weight.shape[0], len(taps)
    full = (k - 1, k - 1)
    y = convolve(x, weight, padding=(full, full), dilation=2)
    total = n - 1 - k  # what the filter pads, with k - 1 on either side already there
    return _filter(y, 4 * kernel(taps), ((total + 1) // 2 + 1, total // 2 + 1))


def _filter(x: Array, taps: np.ndarray, pad: tuple[int, int], strides: int = 1, dilation: int = 1):
    """Applies one filter [n, n] to every channel, a depthwise convolution in x's dtype."""
    channels = x.shape[-1]
    weight = jnp.broadcast_to(
        jnp.asarray(taps, x.dtype)[:, :, None, None], (*taps.shape, 1, channels)
    )
    return jax.lax.conv_general_dilated(
        x,
        weight,
        (strides, strides),
        (pad, pad),
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )
