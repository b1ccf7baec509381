"""A checksum of an array's bits that does not depend on how it is spread over devices.

The storage library notices files that are missing or cut short, not bits that changed inside
them; and "resumed equals uninterrupted, bit for bit" is worth a proof at every restore.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from genjax.core.arrays import Array


def _weighted_sum(x: Array) -> Array:
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    width = min(x.dtype.itemsize, 4)
    bits = lax.bitcast_convert_type(x, np.dtype(f"uint{8 * width}")).astype(jnp.uint32)
    index, stride = jnp.zeros((), jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        index += lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * np.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    # odd weights are invertible modulo 2^32: a change of any one element changes the sum
    return jnp.sum(bits * (index * np.uint32(2654435761) | np.uint32(1)), dtype=jnp.uint32)


@jax.jit
def _weighted_sums(flat: dict[str, Array]) -> dict[str, Array]:
    # One program for all: separate ones, each with a sum over all devices, may wait for each other
    # where virtual devices share few threads.
    return {k: _weighted_sum(v) for k, v in flat.items()}


def fingerprints(flat: dict[str, Array]) -> dict[str, int]:
    """Returns a 32-bit checksum for every array (each of real numbers, integers or booleans)."""
    return {k: int(v) for k, v in jax.device_get(_weighted_sums(flat)).items()}
