"""Adafactor's second moments, kept as row and column means (Shazeer and Stern 2018).

What counts as a matrix is the last two dimensions, and every matrix of a stack has its own
statistics and its own clipping: a scanned stack of layers trains as the single layers would. Which
vectors are stacks of vectors no shape tells: a predicate on paths says so.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from genjax.core.arrays import Array, Tree
from genjax.core.tree import path_string

Stacked = Callable[[str], bool]  # a parameter's path -> whether its first axis counts layers


def nowhere(path: str) -> bool:
    """Says of no parameter that it is a stack of layers."""
    del path
    return False


class FactoredState(NamedTuple):
    """`row`, `col`: means over the last and the last but one axis; `full`: where not factored.

    What a parameter does not use is an array of shape [1].
    """

    count: Array
    row: Tree
    col: Tree
    full: Tree


def _factored(shape, least: int, stacked: bool) -> bool:
    return len(shape) >= 2 + stacked and min(shape[-2:]) >= least


def _rms(x: Array, stacked: bool = False) -> Array:
    """Returns the root mean square of every matrix of a stack [..., r, c], or of the whole."""
    axes = (-2, -1) if x.ndim > 2 else (-1,) if stacked and x.ndim == 2 else None
    if stacked and x.ndim == 1:  # one number a layer
        return jnp.abs(x)
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=axes, keepdims=True))


def scale_by_factored_moments(
    b2: float,
    eps: float,
    rms_clip: float | None,
    min_factored: int,
    stacked: Stacked = nowhere,
) -> optax.GradientTransformation:
    """Returns g -> g / sqrt(v), its root mean square clipped to `rms_clip`, in float32.

    v = r c / mean(r) from the averages r, c of the row and column means of g^2 + eps, with the
    decay b2 (1 - b2^{t-1}) / (1 - b2^t) in update t = 1, 2, ... (Adam's bias correction folded
    in, so that v = g^2 at t = 1).
    """

    def init(params):
        def zeros(keep):
            def one(path, p):
                layers = stacked(path_string(path))
                shape = keep(p.shape, _factored(p.shape, min_factored, layers))
                return jnp.zeros(shape, jnp.float32)

            return jax.tree_util.tree_map_with_path(one, params)

        return FactoredState(
            count=jnp.zeros((), jnp.int32),
            row=zeros(lambda s, factored: s[:-1] if factored else (1,)),
            col=zeros(lambda s, factored: (*s[:-2], s[-1]) if factored else (1,)),
            full=zeros(lambda s, factored: (1,) if factored else s),
        )

    def update(updates, state, params=None):
        count = jnp.asarray(optax.safe_increment(state.count))
        t = count.astype(jnp.float32)
        decay = b2 * (1.0 - b2 ** (t - 1.0)) / (1.0 - b2**t)

        def one(path, g, row, col, full):
            layers = stacked(path_string(path))
            g = g.astype(jnp.float32)
            square = jnp.square(g) + eps
            if _factored(g.shape, min_factored, layers):
                row = decay * row + (1.0 - decay) * square.mean(-1)
                col = decay * col + (1.0 - decay) * square.mean(-2)
                r = row / row.mean(-1, keepdims=True)
                u = g * jax.lax.rsqrt(r)[..., None] * jax.lax.rsqrt(col)[..., None, :]
            else:
                full = decay * full + (1.0 - decay) * square
                u = g * jax.lax.rsqrt(full)
            if rms_clip is not None:
                u = u / jnp.maximum(1.0, _rms(u, layers) / rms_clip)
            return u, row, col, full

        leaves, treedef = jax.tree_util.tree_flatten_with_path(updates)
        parts = [treedef.flatten_up_to(tree) for tree in (state.row, state.col, state.full)]
        results = [one(path, g, *rest) for (path, g), *rest in zip(leaves, *parts)]
        u, row, col, full = (treedef.unflatten(part) for part in zip(*results))
        return u, FactoredState(count, row, col, full)

    return optax.GradientTransformation(init, update)


class QuantisedState(NamedTuple):
    """`moment` (int8) x `scale` by column is the average; a scalar's `moment` is float32."""

    moment: Tree
    scale: Tree


def quantised_ema(b1: float, stacked: Stacked = nowhere) -> optax.GradientTransformation:
    """Returns u -> m = b1 m + (1 - b1) u, m kept as int8 between updates (the update is exact).

    Every column of a matrix (the last two axes) and every vector has its own scale; scalars stay
    float32.
    """

    def is_scalar(path, p) -> bool:
        return p.ndim == stacked(path_string(path))

    def quantise(path, m: Array) -> tuple[Array, Array]:
        if is_scalar(path, m):
            return m, jnp.ones(m.shape, jnp.float32)
        vector = m.ndim == 1 + stacked(path_string(path))
        largest = jnp.max(jnp.abs(m), axis=-1 if vector else -2, keepdims=True)
        scale = largest / 127.0
        parts = jnp.round(m / jnp.where(scale > 0, scale, 1.0))
        return parts.astype(jnp.int8), scale

    def init(params):
        def zeros(which):
            one = lambda path, p: quantise(path, jnp.zeros(p.shape, jnp.float32))[which]  # noqa: E731
            return jax.tree_util.tree_map_with_path(one, params)

        return QuantisedState(zeros(0), zeros(1))

    def update(updates, state, params=None):
        del params
        leaves, treedef = jax.tree_util.tree_flatten_with_path(updates)
        parts = [treedef.flatten_up_to(tree) for tree in state]
        m = [
            b1 * (moment.astype(jnp.float32) * scale) + (1.0 - b1) * u
            for (_, u), moment, scale in zip(leaves, *parts)
        ]
        kept = [quantise(path, x) for (path, _), x in zip(leaves, m)]
        moment, scale = (treedef.unflatten([pair[i] for pair in kept]) for i in (0, 1))
        return treedef.unflatten(m), QuantisedState(moment, scale)

    return optax.GradientTransformation(init, update)


def scale_by_parameter_rms(
    least: float = 1e-3, stacked: Stacked = nowhere
) -> optax.GradientTransformation:
    """Returns u -> u max(rms(parameter), least): relative step sizes."""

    def update(updates, params):
        def one(path, u, p):
            return u * jnp.maximum(_rms(p, stacked(path_string(path))), least)

        return jax.tree_util.tree_map_with_path(one, updates, params)

    return optax.stateless(update)
