"""Named, stateless random keys.

A key depends on the run's seed, on what it is for and on counters, never on what was drawn
before. So resuming needs no random state, and neither the batch size, the devices nor the
processes change what image i gets.
"""

import zlib

import jax
import jax.numpy as jnp

from genjax.core.arrays import Array


def key(seed: int, purpose: str, *counters) -> Array:
    """Returns the key of `purpose`, folded with every counter (host or traced integers)."""
    k = jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))
    for counter in counters:
        k = jax.random.fold_in(k, counter)
    return k


def fold(k: Array, name: str) -> Array:
    """Returns a key for the part `name` of what `k` is for."""
    return jax.random.fold_in(k, zlib.crc32(name.encode()))


def per_sample(k: Array, indices: Array) -> Array:
    """Returns one key per global sample index: [b] integers -> [b] keys."""
    return jax.vmap(lambda i: jax.random.fold_in(k, i))(jnp.asarray(indices, jnp.uint32))


def fold_each(keys: Array, counter) -> Array:
    """Returns the [b] keys, each folded with the same counter (a step, say)."""
    return jax.vmap(lambda k: jax.random.fold_in(k, counter))(keys)


def normal(keys: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Returns standard normal [b, *shape] whose row i depends on `keys[i]` alone."""
    return jax.vmap(lambda k: jax.random.normal(k, shape, dtype))(keys)
