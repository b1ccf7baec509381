"""Precision, recall, density and coverage: are samples where data are, and the other way round?

Each set's manifold is the union of balls around its points up to their k-th nearest neighbour of
the same set. Distances are computed in blocks; no table of all pairs exists at any time.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array
from genjax.core.errors import UserError


def _squares(a: Array, b: Array) -> Array:
    product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(a * a, 1)[:, None] + jnp.sum(b * b, 1)[None, :] - 2.0 * product
    return jnp.maximum(squares, 0.0)


@partial(jax.jit, static_argnames="k")
def _merge(best: Array, queries: Array, first, block: Array, start, count, k: int) -> Array:
    """Returns the k smallest squared distances so far, [q, k] ascending, without the point itself.

    `first` and `start` are the places of the first query and the first row of the block in their
    set, `count` how many rows of the block are points.
    """
    squares = _squares(queries, block)
    rows = jnp.arange(len(queries))[:, None] + first
    columns = jnp.arange(len(block))[None, :]
    skip = (columns >= count) | (columns + start == rows)
    squares = jnp.where(skip, jnp.inf, squares)
    return -jax.lax.top_k(-jnp.concatenate([best, squares], axis=1), k)[0]


@jax.jit
def _covering(points: Array, centres: Array, radii: Array) -> tuple[Array, Array]:
    """Returns how many balls hold each point: with their surface, and without, [len(points)]."""
    squares = _squares(points, centres)
    return jnp.sum(squares <= radii, 1), jnp.sum(squares < radii, 1)


@jax.jit
def _nearest(centres: Array, points: Array, count) -> Array:
    squares = _squares(centres, points)
    return jnp.min(jnp.where(jnp.arange(len(points))[None] < count, squares, jnp.inf), axis=1)


@dataclasses.dataclass(frozen=True)
class Manifold:
    """Points [n, d] float32 and the squared radii [n] of their balls."""

    points: np.ndarray
    radii: np.ndarray
    k: int

    def holding(self, points: np.ndarray, rows: int = 1024) -> tuple[np.ndarray, np.ndarray]:
        """Returns of each point the number of balls with (<=) and without (<) surface."""
        closed, opened = [], []
        for p, count in _blocks(points, rows):
            inside = np.zeros(len(p), int), np.zeros(len(p), int)
            for start in range(0, len(self.points), rows):
                # A ball of negative radius holds nothing: that is the padding.
                centres = _pad(self.points[start : start + rows], rows, len(self.points))
                radii = np.full(len(centres), -1.0, np.float32)
                part = self.radii[start : start + rows]
                radii[: len(part)] = part
                both = _covering(p, centres, radii)
                inside = tuple(i + np.asarray(b) for i, b in zip(inside, both))
            closed.append(inside[0][:count])
            opened.append(inside[1][:count])
        return np.concatenate(closed), np.concatenate(opened)

    def covered(self, points: np.ndarray, rows: int = 1024) -> np.ndarray:
        """Returns of each ball whether its nearest one of `points` lies inside, boolean [n]."""
        found = []
        for p, count in _blocks(self.points, rows):
            least = np.full(len(p), np.inf)
            for q, number in _blocks(points, rows):
                least = np.minimum(least, np.asarray(_nearest(p, q, np.int32(number))))
            found.append(least[:count])
        return np.concatenate(found) < self.radii


def manifold(features: np.ndarray, k: int, rows: int = 1024) -> Manifold:
    """Returns the balls around features [n, d]; raises `UserError` for n <= k."""
    x = np.asarray(features, np.float32)
    if len(x) <= k:
        raise UserError(f"the {k}-th nearest neighbour needs more than {k} images, not {len(x)}")
    radii = []
    for i, (p, count) in enumerate(_blocks(x, rows)):
        best = jnp.full((len(p), k), jnp.inf)
        for j, (q, number) in enumerate(_blocks(x, rows)):
            at = (np.int32(i * rows), q, np.int32(j * rows), np.int32(number))
            best = _merge(best, p, *at, k)
        radii.append(np.asarray(best)[:count, -1])
    return Manifold(x, np.concatenate(radii), k)


def centred(*sets: np.ndarray) -> list[np.ndarray]:
    """Returns the sets less the mean of the first, which leaves distances their digits."""
    mean = np.mean(sets[0], axis=0, dtype=np.float64)
    return [(np.asarray(s, np.float64) - mean).astype(np.float32) for s in sets]


def precision(real: Manifold, fake: np.ndarray) -> float:
    """Returns the share of samples inside (<=) some real ball (Kynkaanniemi et al. 2019)."""
    return float(np.mean(real.holding(fake)[0] > 0))


def recall(fake: Manifold, real: np.ndarray) -> float:
    """Returns the share of real points inside (<=) some ball of samples."""
    return float(np.mean(fake.holding(real)[0] > 0))


def density(real: Manifold, fake: np.ndarray) -> float:
    """Returns the mean number of real balls (<) that hold a sample, over k (Naeem et al. 2020)."""
    return float(np.mean(real.holding(fake)[1]) / real.k)


def coverage(real: Manifold, fake: np.ndarray) -> float:
    """Returns the share of real balls (<) that hold a sample."""
    return float(np.mean(real.covered(fake)))


def _blocks(x: np.ndarray, rows: int):
    for start in range(0, len(x), rows):
        block = x[start : start + rows]
        yield _pad(block, rows, len(x)), len(block)


def _pad(block: np.ndarray, rows: int, total: int) -> np.ndarray:
    return np.pad(block, ((0, min(rows, total) - len(block)), (0, 0)))
