"""Adafactor's second moments, kept as row and column means (Shazeer and Stern 2018).

What counts as a matrix is the last two dimensions, and every matrix of a stack has its own
statistics and its own clipping: a scanned stack of layers trains as the single layers would.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from genjax.core.arrays import Array, Tree


class FactoredState(NamedTuple):
    """`row`, `col`: means over the last and the last but one axis; `full`: where not factored.

    What a parameter does not use is an array of shape [1].
    """

    count: Array
    row: Tree
    col: Tree
    full: Tree


def _factored(shape, least: int) -> bool:
    return len(shape) >= 2 and min(shape[-2:]) >= least


def _rms(x: Array) -> Array:
    """Returns the root mean square of every matrix of a stack [..., r, c], or of the whole."""
    axes = (-2, -1) if x.ndim > 2 else None
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True))


def scale_by_factored_moments(
    b2: float, eps: float, rms_clip: float | None, min_factored: int
) -> optax.GradientTransformation:
    """Returns g -> g / sqrt(v), its root mean square clipped to `rms_clip`, in float32.

    v = r c / mean(r) from the averages r, c of the row and column means of g^2 + eps, with the
    decay b2 (1 - b2^{t-1}) / (1 - b2^t) in update t = 1, 2, ... (Adam's bias correction folded
    in, so that v = g^2 at t = 1).
    """

    def init(params):
        def zeros(keep):
            return jax.tree.map(lambda p: jnp.zeros(keep(p.shape), jnp.float32), params)

        is_factored = lambda s: _factored(s, min_factored)  # noqa: E731
        return FactoredState(
            count=jnp.zeros((), jnp.int32),
            row=zeros(lambda s: s[:-1] if is_factored(s) else (1,)),
            col=zeros(lambda s: (*s[:-2], s[-1]) if is_factored(s) else (1,)),
            full=zeros(lambda s: (1,) if is_factored(s) else s),
        )

    def update(updates, state, params=None):
        count = jnp.asarray(optax.safe_increment(state.count))
        t = count.astype(jnp.float32)
        decay = b2 * (1.0 - b2 ** (t - 1.0)) / (1.0 - b2**t)

        def one(g, row, col, full):
            g = g.astype(jnp.float32)
            square = jnp.square(g) + eps
            if _factored(g.shape, min_factored):
                row = decay * row + (1.0 - decay) * square.mean(-1)
                col = decay * col + (1.0 - decay) * square.mean(-2)
                r = row / row.mean(-1, keepdims=True)
                u = g * jax.lax.rsqrt(r)[..., None] * jax.lax.rsqrt(col)[..., None, :]
            else:
                full = decay * full + (1.0 - decay) * square
                u = g * jax.lax.rsqrt(full)
            if rms_clip is not None:
                u = u / jnp.maximum(1.0, _rms(u) / rms_clip)
            return u, row, col, full

        leaves, treedef = jax.tree.flatten(updates)
        parts = [treedef.flatten_up_to(tree) for tree in (state.row, state.col, state.full)]
        results = [one(*args) for args in zip(leaves, *parts)]
        u, row, col, full = (treedef.unflatten(part) for part in zip(*results))
        return u, FactoredState(count, row, col, full)

    return optax.GradientTransformation(init, update)


def scale_by_parameter_rms(least: float = 1e-3) -> optax.GradientTransformation:
    """Returns u -> u max(rms(parameter), least): relative step sizes."""

    def update(updates, params):
        return jax.tree.map(lambda u, p: u * jnp.maximum(_rms(p), least), updates, params)

    return optax.stateless(update)
