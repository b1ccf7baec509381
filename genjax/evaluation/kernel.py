"""Kernel distances of two sets of features: KID and CMMD. They assume no Gaussian."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array
from genjax.core.errors import UserError

CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0


def polynomial_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the unbiased squared MMD of features [m, d], [n, d] by k(a, b) = (a b / d + 1)^3.

    Diagonals are left out, so it may be slightly negative. Float64.
    """
    x, y = (np.asarray(v, np.float64) for v in (x, y))
    d, m, n = x.shape[1], len(x), len(y)
    xx, yy, xy = ((a @ b.T / d + 1.0) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - np.trace(xx)) / (m * (m - 1)) + (yy.sum() - np.trace(yy)) / (n * (n - 1))
    return float(within - 2.0 * xy.mean())


def kid(
    x: np.ndarray, y: np.ndarray, *, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """Returns (mean, standard deviation) of the unbiased MMD^2 over random subsets of both sets.

    Subsets are drawn without replacement in torch-fidelity's order, so that one seed gives one
    number there and here. Raises `UserError` where a set holds fewer than `size` or `size` < 2.
    """
    least = min(len(x), len(y))
    if not 2 <= size <= least:
        raise UserError(
            f"kid: subsets of {size} images need at least as many on both sides (there are "
            f"{least}), and at least 2; draw more images"
        )
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        a = x[rng.choice(len(x), size, replace=False)]
        b = y[rng.choice(len(y), size, replace=False)]
        values.append(polynomial_mmd(a, b))
    return float(np.mean(values)), float(np.std(values))


@partial(jax.jit, static_argnames="gamma")
def _expm1_rows(x: Array, y: Array, mask: Array, gamma: float) -> Array:
    """Returns sum_j mask_j (exp(-gamma |x_i - y_j|^2) - 1), [len(x)]."""
    product = jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.sum(x * x, 1)[:, None] + jnp.sum(y * y, 1)[None, :] - 2.0 * product
    # The constant 1 of every kernel value cancels in the distance; left out, it costs no digits.
    values = jnp.expm1(-gamma * jnp.maximum(squares, 0.0))
    return jnp.sum(values * mask[None, :], axis=1)


def gaussian_mmd(x: np.ndarray, y: np.ndarray, sigma: float, rows: int = 1024) -> float:
    """Returns the biased squared MMD (diagonals kept) by exp(-|a - b|^2 / (2 sigma^2)).

    Kernel values are float32 in blocks of at most rows x rows, summed in float64.
    """
    gamma = 0.5 / sigma**2

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        total = 0.0
        for p, real in _padded(a, rows):
            for q, mask in _padded(b, rows):
                part = np.asarray(_expm1_rows(p, q, mask, gamma), np.float64)
                total += float(part[real].sum())
        return total / (len(a) * len(b))

    x, y = (np.asarray(v, np.float32) for v in (x, y))
    return mean(x, x) + mean(y, y) - 2.0 * mean(x, y)


def cmmd(x: np.ndarray, y: np.ndarray) -> float:
    """Returns CMMD of CLIP embeddings [m, d], [n, d]: 1000 MMD^2 of unit vectors at sigma 10."""
    x, y = (v / np.linalg.norm(np.asarray(v, np.float64), axis=1, keepdims=True) for v in (x, y))
    return CMMD_SCALE * gaussian_mmd(x, y, CMMD_SIGMA)


def _padded(x: np.ndarray, rows: int):
    """Yields (block, mask); the last block is padded, so that one program does for all."""
    for start in range(0, len(x), rows):
        block = x[start : start + rows]
        short = min(rows, len(x)) - len(block)
        yield np.pad(block, ((0, short), (0, 0))), np.arange(len(block) + short) < len(block)
