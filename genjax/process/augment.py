"""Non-leaking augmentation of training data: `sample(key, x0) -> (x0', labels)`.

The network is told what was done to its data, and is sampled with labels of zero (none given), so
that it learns from changed images without making them (Karras et al., arXiv 2206.00364, app. F.2).
"""

import abc
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core import keys
from genjax.core.arrays import Array, bcast
from genjax.core.registry import Registry, option

# Scaling filter of the symlet with 6 vanishing moments (Daubechies, Ten Lectures on Wavelets,
# table 6.3), norm 1. A test checks the 6 moments and the orthogonality to even shifts.
SYM6 = np.array(
    [0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
     0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
     -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148]
)  # fmt: skip
# Where a pixel's centre lies among the filter's taps. By the vanishing moments, polynomials are
# upsampled exactly about this point, not about the middle: ramps keep their place.
_CENTRE = float(np.arange(12) @ SYM6 / SYM6.sum())


class Augment(abc.ABC):
    """How training data are changed; subclasses are frozen dataclasses.

    `labels`: how many numbers describe a change, all 0 for none; 0 if nothing is ever changed.
    """

    labels: int = 0

    @abc.abstractmethod
    def sample(self, key: Array, x0: Array) -> tuple[Array, Array]:
        """Returns data like `x0` [b, h, w, c] and the labels [b, `labels`], both float32."""


@dataclasses.dataclass(frozen=True)
class NoAugment(Augment):
    """The data as they are."""

    def sample(self, key, x0):
        return x0, jnp.zeros((x0.shape[0], 0), jnp.float32)


class Change(NamedTuple):
    """What is done to each image [b], in this order; every entry 0: nothing.

    flips (0 or 1); log2 of a zoom over `scale`; counter-clockwise angle in radians; log2 of a
    stretch over `stretch`, along the axis at angle `axis` (and shrinking across it); shifts to the
    right and down, in `translate` image sides.
    """

    x_flip: Array
    y_flip: Array
    zoom: Array
    angle: Array
    stretch: Array
    axis: Array
    right: Array
    down: Array

    def labels(self) -> Array:
        """Returns [b, 9], 0 for what is not changed."""
        turn = jnp.cos(self.angle) - 1, jnp.sin(self.angle)
        pull = self.stretch * jnp.cos(self.axis), self.stretch * jnp.sin(self.axis)
        columns = (self.x_flip, self.y_flip, self.zoom, *turn, *pull, self.right, self.down)
        return jnp.stack(columns, axis=-1).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class EDMAugment(Augment):
    """Flips, zoom, rotation, stretch and shift, each with probability `p`; the x-flip always.

    For p > 0 half of all images are flipped, so the data loader need not; p = 0 changes nothing.
    The nine labels: x-flip, y-flip, zoom w, cos - 1 and sin of the rotation, w cos r and w sin r of
    the stretch, shifts x and y. They determine all but one thing, as published: the stretches
    (w, r) and (-w, r + pi), one along r and one across it, share their two labels.

    Flips move pixels. The rest is one affine map: the image, reflected at its borders without end,
    is upsampled 2x by sym6, sampled bilinearly, and brought down by sym6. Shapes are static: the
    reflected signal is periodic, so one period is upsampled (by a matrix) and read modulo its
    length, instead of being padded as far as the batch requires. Upsampling and downsampling invert
    each other, and images that only flips touch skip them: they come out bit for bit.
    Any size from 2 x 2, any number of channels.
    """

    p: float = option(0.12, "probability of each transform (CIFAR-10 0.12, FFHQ and AFHQv2 0.15)")
    x_flip: bool = option(True, "mirror left and right, half of the images whatever p > 0 is")
    y_flip: bool = option(True, "mirror top and bottom")
    scale: float = option(0.2, "deviation of log2 of the zoom (0: none)")
    rotate: float = option(1.0, "largest angle in half turns, uniform (0: none)")
    stretch: float = option(0.2, "deviation of log2 of the stretch in one direction (0: none)")
    stretch_rotate: float = option(0.5, "probability that the direction is random, not the x axis")
    translate: float = option(0.125, "deviation of the shifts in image sides (0: none)")

    labels = 9

    def __post_init__(self):
        for name in ("p", "stretch_rotate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        for name in ("scale", "rotate", "stretch", "translate"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")

    def sample(self, key, x0):
        change = self.draw(key, x0.shape[0])
        return self.apply(x0, change), change.labels()

    def draw(self, key: Array, b: int) -> Change:
        """Returns the changes of b images."""

        def uniform(name, on, width):
            k = keys.fold(key, name)
            return _if(k, on, self.p, jax.random.uniform(k, (b,), minval=-width, maxval=width))

        def normal(name, on):
            k = keys.fold(key, name)
            return _if(k, on, self.p, jax.random.normal(k, (b,)))

        def flip(name, on, p):
            k = keys.fold(key, name)
            return _if(k, on, p, jax.random.bernoulli(k, 0.5, (b,)).astype(jnp.float32))

        stretch, turned = normal("stretch", self.stretch > 0), keys.fold(key, "axis")
        axis = jax.random.uniform(turned, (b,), minval=-np.pi, maxval=np.pi)
        axis = _if(turned, True, self.stretch_rotate, axis)
        return Change(
            x_flip=flip("x_flip", self.x_flip, float(self.p > 0)),
            y_flip=flip("y_flip", self.y_flip, self.p),
            zoom=normal("zoom", self.scale > 0),
            angle=uniform("rotate", self.rotate > 0, np.pi * self.rotate),
            stretch=stretch,
            axis=jnp.where(stretch == 0, 0.0, axis),
            right=normal("right", self.translate > 0),
            down=normal("down", self.translate > 0),
        )

    def apply(self, x: Array, change: Change) -> Array:
        """Returns the images [b, h, w, c], changed; float32."""
        x = x.astype(jnp.float32)
        x = jnp.where(bcast(change.x_flip, x) > 0, x[:, :, ::-1], x)
        x = jnp.where(bcast(change.y_flip, x) > 0, x[:, ::-1], x)
        if not (self.scale or self.rotate or self.stretch or self.translate) or not self.p:
            return x
        sides = x.shape[2], x.shape[1]
        shift = self.translate * jnp.stack(
            [change.right * sides[0], change.down * sides[1]], axis=-1
        )
        warped = warp(x, self.linear(change), shift)
        still = jnp.stack([change.zoom, change.angle, change.stretch, *shift.T]) == 0
        return jnp.where(bcast(jnp.all(still, axis=0), x), x, warped)

    def linear(self, change: Change) -> Array:
        """Returns the zoom, rotation and stretch as matrices [b, 2, 2] on (right, down)."""
        pull = self.stretch * change.stretch
        zero = jnp.zeros_like(pull)
        diagonal = jnp.stack([jnp.exp2(pull), zero, zero, jnp.exp2(-pull)], -1).reshape(-1, 2, 2)
        zoom = jnp.exp2(self.scale * change.zoom)[:, None, None]
        along = _rotation(change.axis)
        stretch = _product(_product(along, diagonal), along.swapaxes(1, 2))
        return _product(stretch, zoom * _rotation(change.angle))


AUGMENTS = Registry("augmentation", {"none": NoAugment, "edm": EDMAugment})


def warp(x: Array, linear: Array, shift: Array) -> Array:
    """Returns the images [b, h, w, c] whose point q, from the centre, came to linear q + shift.

    `linear` [b, 2, 2] and `shift` [b, 2] act on (right, down) in pixels.
    """
    b, h, w, c = x.shape
    fine = _along(_up(h), _up(w), x)
    period = fine.shape[2], fine.shape[1]
    # output points of the fine grid, in pixels from the centre
    centre = np.array([w - 1, h - 1]) / 2
    across, below = (np.arange(2 * n + 10) for n in (w, h))
    points = np.stack(np.meshgrid(across, below), axis=-1).reshape(-1, 2)
    points = jnp.asarray((points - _CENTRE) / 2 - centre, jnp.float32)
    moved = points[None] - shift[:, None]
    source = jnp.einsum("bij,bnj->bni", _inverse(linear), moved, precision="highest")
    source = 2 * (source + centre) + _CENTRE
    low = jnp.floor(source)
    right, down = jnp.moveaxis(source - low, -1, 0)[..., None]
    column, line = jnp.moveaxis(low.astype(jnp.int32), -1, 0)
    flat = fine.reshape(b, -1, c)

    def at(i: int, j: int) -> Array:
        index = (line + i) % period[1] * period[0] + (column + j) % period[0]
        return jnp.take_along_axis(flat, index[..., None], axis=1)

    top = (1 - right) * at(0, 0) + right * at(0, 1)
    bottom = (1 - right) * at(1, 0) + right * at(1, 1)
    sampled = ((1 - down) * top + down * bottom).reshape(b, len(below), len(across), c)
    return _along(_down(h), _down(w), sampled)


@functools.lru_cache(maxsize=16)
def _up(n: int) -> np.ndarray:
    """Returns one period of the reflected, upsampled signal of n pixels: float32 [4 (n - 1), n]."""
    if n < 2:
        raise ValueError(f"augmentation needs images of at least 2 x 2, got a side of {n}")
    matrix = np.zeros((4 * (n - 1), n))
    for fine in range(4 * (n - 1)):
        for tap in range(fine % 2, 12, 2):
            pixel = (fine - tap) // 2 % (2 * (n - 1))
            matrix[fine, min(pixel, 2 * (n - 1) - pixel)] += np.sqrt(2) * SYM6[tap]
    return matrix.astype(np.float32)


@functools.lru_cache(maxsize=16)
def _down(n: int) -> np.ndarray:
    """Returns the matrix from 2 n + 10 fine points to n pixels: float32 [n, 2 n + 10]."""
    matrix = np.zeros((n, 2 * n + 10))
    for pixel in range(n):
        matrix[pixel, 2 * pixel : 2 * pixel + 12] = SYM6 / np.sqrt(2)
    return matrix.astype(np.float32)


def _along(rows: np.ndarray, columns: np.ndarray, x: Array) -> Array:
    """Returns the images with `rows` applied to their height and `columns` to their width."""
    x = jnp.einsum("ih,bhwc->biwc", rows, x, precision="highest")
    return jnp.einsum("jw,bhwc->bhjc", columns, x, precision="highest")


def _if(key: Array, on: bool, p: float, value: Array) -> Array:
    """Returns `value` [b] with probability p, else 0."""
    hit = jax.random.bernoulli(keys.fold(key, "on"), p, value.shape)
    return jnp.where(hit & on, value, 0.0)


def _rotation(angle: Array) -> Array:
    """Returns counter-clockwise rotations [b, 2, 2] of (right, down)."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([cos, sin, -sin, cos], axis=-1).reshape(-1, 2, 2)


def _product(a: Array, b: Array) -> Array:
    return jnp.einsum("bij,bjk->bik", a, b, precision="highest")


def _inverse(matrix: Array) -> Array:
    """Returns the inverses of [b, 2, 2]."""
    (a, b), (c, d) = jnp.moveaxis(matrix, 0, -1)
    adjoint = jnp.stack([d, -b, -c, a], axis=-1).reshape(-1, 2, 2)
    return adjoint / (a * d - b * c)[:, None, None]
