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
    return _filter(x, _one(taps), (pad, pad), strides=2)


def upsample(x: Array, taps: tuple[int, ...] = BOX) -> Array:
    """Returns x [b, h, w, c] with zeros between its pixels, filtered: [b, 2h, 2w, c]."""
    if tuple(taps) == BOX:
        return repeat(x)
    for axis in (-3, -2):
        x = _between(x, 2 * _one(taps), axis)
    return x


def filter_then_conv(x: Array, weight: Array, taps: tuple[int, ...]) -> Array:
    """Returns the strided convolution of the filtered x: [b, h, w, c] -> [b, h/2, w/2, o].

    weight: [k, k, c, o], k odd. The filter sees the image's zero surroundings, so that this equals
    a convolution first and every second pixel of its filtered output after (`conv_downsample_2d`).
    """
    k, n = weight.shape[0], len(taps)
    total = n - 2 + k - 1
    x = _filter(x, _one(taps), ((total + 1) // 2, total // 2))
    return convolve(x, weight, strides=2, padding=((0, 0), (0, 0)))


def conv_then_filter(x: Array, weight: Array, taps: tuple[int, ...]) -> Array:
    """Returns x with zeros between its pixels, convolved and filtered: [b, 2h, 2w, o].

    weight: [k, k, c, o], k odd (`upsample_conv_2d`, whose kernel is not flipped here).
    """
    k, n = weight.shape[0], len(taps)
    full = (k - 1, k - 1)
    y = convolve(x, weight, padding=(full, full), dilation=2)
    total = n - 1 - k  # what the filter pads, with k - 1 on either side already there
    return _filter(y, 2 * _one(taps), ((total + 1) // 2 + 1, total // 2 + 1))


def _one(taps: tuple[int, ...]) -> np.ndarray:
    """Returns the filter along one side, float64 with sum 1; in two dimensions it is a product."""
    one = np.asarray(taps, np.float64)
    return one / one.sum()


def _filter(x: Array, one: np.ndarray, pad: tuple[int, int], strides: int = 1) -> Array:
    """Returns x [b, h, w, c], padded with zeros and filtered along both sides, in x's dtype.

    Shifted copies are added, which a compiler fuses into one pass over the memory. As a depthwise
    convolution it would be fifty times slower on a CPU (XLA has only a plain loop for it), and no
    unit of an accelerator is made for it.
    """
    for axis in (-3, -2):
        padding = [(0, 0)] * x.ndim
        padding[axis] = pad
        wide = jnp.pad(x.astype(jnp.float32), padding)
        last = wide.shape[axis] - len(one) + 1
        cuts = (
            jax.lax.slice_in_dim(wide, k, k + last - (last - 1) % strides, strides, axis)
            for k in range(len(one))
        )
        x = jnp.asarray(sum(np.float32(w) * cut for w, cut in zip(one, cuts)), x.dtype)
    return x


def _between(x: Array, one: np.ndarray, axis: int) -> Array:
    """Returns x with zeros between its entries along `axis`, filtered: twice as long.

    Every second tap meets a zero: the entries 2i + r are sums of x alone, interleaved.
    """
    n, pad = x.shape[axis], len(one) // 2
    padding = [(0, 0)] * x.ndim
    padding[axis] = (pad, pad)
    wide = jnp.pad(x.astype(jnp.float32), padding)
    phases = []
    for r in (0, 1):
        first = [(k, (r + k - pad) // 2 + pad) for k in range(len(one)) if (r + k - pad) % 2 == 0]
        cuts = ((one[k], jax.lax.slice_in_dim(wide, i, i + n, axis=axis)) for k, i in first)
        phases.append(sum(np.float32(w) * cut for w, cut in cuts))
    at = x.ndim + axis + 1
    shape = [*x.shape[: at - 1], 2 * n, *x.shape[at:]]
    return jnp.stack(phases, axis=at).reshape(shape).astype(x.dtype)
