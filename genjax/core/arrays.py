"""Small array helpers shared by every numerical room."""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Tree = Any  # any pytree; static types end where pytrees begin


def namespace(*arrays) -> ModuleType:
    """Returns `jax.numpy` if any argument is a JAX array or tracer, else `numpy`.

    The same schedule formulas serve the host in float64 (coefficient tables) and the graph in
    float32 (training, per-image times).
    """
    return jnp if any(isinstance(a, jax.Array) for a in arrays) else np


def times(x: Array, factor) -> Array:
    """Returns x times `factor` in float32, in x's dtype: bfloat16 itself has no 0.97."""
    return (x.astype(jnp.float32) * factor).astype(x.dtype)


def bcast(t, x):
    """Returns `t` (scalar or [b]) with trailing unit axes, so that it multiplies `x` [b, ...]."""
    t = namespace(t, x).asarray(t)
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim)) if t.ndim else t


def per_sample_mean(x: Array) -> Array:
    """Returns the mean over all axes but the first: [b, ...] -> [b], in float32."""
    return jnp.mean(x.astype(jnp.float32).reshape(x.shape[0], -1), axis=1)
