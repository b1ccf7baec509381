"""Nearest images in pixel space, block by block: never a full table of distances."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array
from genjax.evaluation.images import ImageSet


@partial(jax.jit, donate_argnums=(0,))
def _merge(best, queries: Array, own: Array, block: Array, start, count) -> tuple[Array, Array]:
    """Returns the running (squared distance, index) of each query's nearest reference image.

    queries [q, D] and block [r, D] are grey levels 0..255; `own` [q] is the reference index that
    is the query itself (-1: none), `count` how many rows of the block are images.
    """
    distance, index = best
    a, b = queries.astype(jnp.float32), block.astype(jnp.float32)
    product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(a * a, axis=1)[:, None] + jnp.sum(b * b, axis=1)[None, :] - 2.0 * product
    column = jnp.arange(b.shape[0])
    skip = (column[None, :] >= count) | (column[None, :] + start == own[:, None])
    squares = jnp.where(skip, jnp.inf, squares)
    nearest = jnp.argmin(squares, axis=1)
    least = jnp.take_along_axis(squares, nearest[:, None], axis=1)[:, 0]
    closer = least < distance
    return jnp.where(closer, least, distance), jnp.where(closer, nearest + start, index)


def nearest(
    queries: np.ndarray, reference: ImageSet, own: np.ndarray | None = None, rows: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (Euclidean distance [q] in float64, index [q]) of the nearest reference image.

    `queries`: uint8 [q, h, w, c]; pixels count as 0..1. `own` [q] holds the reference index that a
    query is not compared with, itself (None: no query is of the reference). The search is in
    float32; the distance to the image found is exact, so a copy has the distance 0.
    """
    own = np.full(len(queries), -1) if own is None else np.asarray(own)
    blocks = [slice(i, i + rows) for i in range(0, len(queries), rows)]
    flat = queries.reshape(len(queries), -1)
    best = [
        (jnp.full(len(flat[b]), jnp.inf), jnp.full(len(flat[b]), -1, jnp.int32)) for b in blocks
    ]
    for start, images in reference.blocks(rows):
        count = len(images)
        block = np.pad(images.reshape(count, -1), ((0, min(rows, reference.size) - count), (0, 0)))
        for i, b in enumerate(blocks):
            best[i] = _merge(best[i], flat[b], own[b], block, np.int32(start), np.int32(count))
    index = np.concatenate([np.asarray(i) for _, i in best])
    distance = np.concatenate(
        [
            np.linalg.norm(
                (flat[b].astype(np.float64) - _flat(reference, index[b])) / 255.0, axis=1
            )
            for b in blocks
        ]
    )
    return distance, index


def _flat(reference: ImageSet, index: np.ndarray) -> np.ndarray:
    return reference.read(index).reshape(len(index), -1).astype(np.float64)
