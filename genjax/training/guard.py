"""Finding the first non-finite tensor, inside the step and at next to no cost while all is well."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from genjax.core.arrays import Array, Tree
from genjax.core.tree import flatten

FINE = -1


def _floats(tree: Tree) -> dict:
    return {k: v for k, v in flatten(tree).items() if jnp.issubdtype(v.dtype, jnp.inexact)}


def squares(tree: Tree) -> dict[str, Array]:
    """Returns path -> sum of squares in float32: for norms, and to see what is not finite."""
    return {k: jnp.sum(jnp.square(v.astype(jnp.float32))) for k, v in flatten(tree).items()}


def names(batch: Tree, params: Mapping, mutable: Mapping, trained: Mapping) -> list[str]:
    """Returns the names of what `first_bad` counts; the arguments are arrays or shapes."""
    return [
        *(f"batch/{k}" for k in _floats(batch)),
        *(f"params/{k}" for k in _floats(params)),
        *(f"mutable/{k}" for k in _floats(mutable)),
        "loss",
        *(f"gradient of params/{k}" for k in flatten(trained)),
    ]


def first_bad(
    batch: Tree, params: Mapping, mutable: Mapping, loss: Array, grads: Mapping[str, Array]
) -> Array:
    """Returns the index in `names` of the first non-finite tensor, or `FINE` (int32 scalar).

    The order is that of cause and effect: the batch, the parameters and collections before the
    update, the loss, the gradients (given as their `squares`). Parameters are looked at only where
    the loss is not finite: they are many, and bad ones do not stay unnoticed.
    """
    rows = [jnp.isfinite(v).all() for v in _floats(batch).values()]
    weights = [*_floats(params).values(), *_floats(mutable).values()]
    fine = jnp.isfinite(loss)
    after = len(rows) + len(weights)
    return _earliest(
        _index(rows, 0),
        jax.lax.cond(
            fine,
            lambda: jnp.int32(FINE),
            lambda: _index([jnp.isfinite(v).all() for v in weights], len(rows)),
        ),
        jnp.where(fine, jnp.int32(FINE), after),
        _index([jnp.isfinite(v) for v in grads.values()], after + 1),
    )


def _index(finite: list[Array], start: int) -> Array:
    if not finite:
        return jnp.int32(FINE)
    bad = ~jnp.stack(finite)
    return jnp.where(bad.any(), start + jnp.argmax(bad).astype(jnp.int32), FINE)


def _earliest(*found: Array) -> Array:
    first = jnp.int32(FINE)
    for index in reversed(found):
        first = jnp.where(index == FINE, first, index)
    return first


@jax.jit
def _all_finite(floats: dict[str, Array]) -> dict[str, Array]:
    return {k: jnp.isfinite(v).all() for k, v in floats.items()}


def bad_parameter(params: Tree) -> str | None:
    """Returns the path of the first parameter that is not finite, or None (reads the device)."""
    found = jax.device_get(_all_finite(_floats(params)))
    return next((path for path in _floats(params) if not found[path]), None)
