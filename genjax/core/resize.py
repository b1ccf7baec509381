"""Resizing of images as two matrices, one a side, for each convention that tools follow.

    tf1                TensorFlow 1: pixel i of the output reads at i in/out, no antialiasing
    bilinear           half-pixel centres, no antialiasing (PyTorch, align_corners=False)
    bilinear-antialias the triangle filter widened by the factor of reduction (Pillow)
    bicubic            Keys' kernel, a = -0.75, edge repeated, no antialiasing (PyTorch)
    bicubic-antialias  Keys' kernel, a = -0.5, widened, renormalised at the edge (Pillow)

All are separable linear maps, so a resize is two matrix products: the same on every device.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array

_BITS = 22  # of the fractions of Pillow's fixed-point coefficients for 8-bit images


@functools.lru_cache(maxsize=64)
def matrix(size: int, out: int, kind: str, scale: float | None = None) -> np.ndarray:
    """Returns the float64 matrix [out, size] of one side; rows sum to 1.

    `scale` is the input's step per output pixel (None: size / out). Raises `ValueError` for an
    unknown kind and for empty sides.
    """
    if size < 1 or out < 1:
        raise ValueError(f"cannot resize {size} pixels to {out}")
    scale = size / out if scale is None else scale
    if kind in ("tf1", "bilinear"):
        at = np.arange(out) * scale
        at = at if kind == "tf1" else np.maximum((np.arange(out) + 0.5) * scale - 0.5, 0)
        weights = _interpolate(size, np.minimum(at, size - 1))
    elif kind == "bicubic":
        weights = _clamped_cubic(size, (np.arange(out) + 0.5) * scale - 0.5)
    elif kind in ("bilinear-antialias", "bicubic-antialias"):
        kernel, reach = (_triangle, 1.0) if kind.startswith("bilinear") else (_keys, 2.0)
        weights = _antialiased(size, out, scale, kernel, reach)
    else:
        raise ValueError(f"{kind!r} is no way of resizing")
    weights.setflags(write=False)
    return weights


def resize(images: Array, height: int, width: int, kind: str) -> Array:
    """Returns float32 [b, height, width, c] of images [b, h, w, c]; nothing is rounded or clipped.

    Bicubic kinds may overshoot the range of the pixels.
    """
    x = jnp.asarray(images, jnp.float32)
    for axis, out in ((2, width), (1, height)):
        if x.shape[axis] != out:
            x = _apply(x, jnp.asarray(matrix(x.shape[axis], out, kind), jnp.float32), axis)
    return x


def resize_uint8(images: Array, height: int, width: int, kind: str) -> Array:
    """Returns uint8 [b, height, width, c] as Pillow resizes 8-bit images, bit for bit.

    Columns first, then rows; after each pass values are rounded and clipped to 0..255, with
    coefficients of 22 fractional bits. `kind`: one of the antialiased ones. (Pillow 13 takes rows
    first where they become fewer and that is cheaper, which no square does: numbers published
    before it are columns first.)
    """
    x = jnp.asarray(images)
    for axis, out in ((2, width), (1, height)):
        if x.shape[axis] == out:
            continue
        weights = matrix(x.shape[axis], out, kind) * 2.0**_BITS
        fixed = np.trunc(weights + np.copysign(0.5, weights)).astype(np.int32)
        total = _apply(x.astype(jnp.int32), jnp.asarray(fixed), axis) + (1 << (_BITS - 1))
        x = jnp.clip(total >> _BITS, 0, 255).astype(jnp.uint8)
    return x


def to_uint8(x: Array) -> Array:
    """Returns grey values in [-1, 1] as uint8: clip(floor(127.5 x + 128), 0, 255).

    That is (x + 1) 127.5 rounded, halves upwards. floor((x + 1) / 2 255) would be another level
    for half of all values.
    """
    return jnp.clip(jnp.floor(jnp.asarray(x, jnp.float32) * 127.5 + 128), 0, 255).astype(jnp.uint8)


def centre_crop(images: Array, height: int, width: int) -> Array:
    """Returns the middle [b, height, width, c]; a half pixel is rounded as torchvision does."""
    if height > images.shape[1] or width > images.shape[2]:
        raise ValueError(f"cannot crop {height}x{width} out of {images.shape[1:3]}")
    top, left = (round((s - n) / 2) for s, n in zip(images.shape[1:3], (height, width)))
    return images[:, top : top + height, left : left + width]


def short_side(height: int, width: int, size: int) -> tuple[int, int]:
    """Returns (height, width) with the shorter side at `size`, the other one rounded down."""
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def _apply(x: Array, weights: Array, axis: int) -> Array:
    rule = "oh,bhwc->bowc" if axis == 1 else "ow,bhwc->bhoc"
    return jnp.einsum(rule, weights, x, precision=jax.lax.Precision.HIGHEST)


def _interpolate(size: int, at: np.ndarray) -> np.ndarray:
    low = np.floor(at).astype(int)
    out, rows = np.zeros((len(at), size)), np.arange(len(at))
    np.add.at(out, (rows, low), 1 - (at - low))
    np.add.at(out, (rows, np.minimum(low + 1, size - 1)), at - low)
    return out


def _clamped_cubic(size: int, at: np.ndarray) -> np.ndarray:
    low = np.floor(at).astype(int)
    out, rows = np.zeros((len(at), size)), np.arange(len(at))
    for tap in range(-1, 3):
        weight = _keys(at - low - tap, a=-0.75)
        np.add.at(out, (rows, np.clip(low + tap, 0, size - 1)), weight)
    return out


def _antialiased(size: int, out: int, scale: float, kernel, reach: float) -> np.ndarray:
    wide = max(scale, 1.0)
    weights = np.zeros((out, size))
    for i in range(out):
        centre = (i + 0.5) * scale
        # The window's ends are truncated as Pillow does: it cuts a kernel's outermost, tiny taps.
        first = max(int(centre - reach * wide + 0.5), 0)
        last = min(int(centre + reach * wide + 0.5), size)
        w = kernel((np.arange(first, last) - centre + 0.5) / wide)
        weights[i, first:last] = w / w.sum()
    return weights


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _keys(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
