"""JAX's Pallas splash attention (TPU), wrapped so that a mesh splits it over batch and heads."""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention as splash

from genjax.core.arrays import Array
from genjax.parallel.rules import active

_LANES = 128
_BLOCK = 512


def splash_supports(q: Array, k: Array) -> bool:
    """Says whether the kernel can run on lengths l and m of q [b, l, h, d] and k [b, m, h, d]."""
    return q.shape[1] % _LANES == 0 and k.shape[1] % _LANES == 0


def splash_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    scale: float,
    mask: np.ndarray | None = None,
    interpret: bool = False,
) -> Array:
    """Returns [b, l, h, d]; under a mesh every device computes its own rows and heads.

    `mask`: bool [l, m], what a query sees; blocks of it that are empty cost nothing. Where the mesh
    splits sequences, a device keeps its part of q and sees all of k and v, unless there is a mask.
    Lengths must be multiples of 128; the head dimension is padded to one with zeros, which adds
    nothing to the products. `interpret` runs the kernel without a TPU, slowly (tests).
    """

    seen = mask
    if causal:
        below = np.tri(q.shape[1], k.shape[1], dtype=bool)
        seen = below if seen is None else seen & below

    def local(q, k, v):
        dim = q.shape[-1]
        pad = [(0, 0)] * 3 + [(0, -dim % _LANES)]
        q, k, v = (jnp.pad(a, pad).swapaxes(1, 2) for a in (q * jnp.asarray(scale, q.dtype), k, v))
        kernel = _kernel(q.shape[1], q.shape[2], k.shape[2], seen, interpret)
        out = cast(Array, jax.vmap(kernel)(q, k, v))
        return out.swapaxes(1, 2)[..., :dim]

    current = active()
    if current is None:
        return local(q, k, v)
    mesh, rules = current
    whole = rules.activation(("batch", None, "heads", None), k.shape, mesh).spec
    rows = rules.activation(("batch", "seq", "heads", None), q.shape, mesh)
    splittable = seen is None and rows.shard_shape(q.shape)[1] % _LANES == 0
    of_q = rows.spec if splittable else whole
    return jax.shard_map(local, in_specs=(of_q, whole, whole), out_specs=of_q, check_vma=False)(
        q, k, v
    )


def _kernel(heads: int, l: int, m: int, seen: np.ndarray | None, interpret: bool):
    one = splash.FullMask((l, m)) if seen is None else splash.NumpyMask(seen)
    bq, bkv = _block(l), _block(m)
    sizes = splash.BlockSizes(
        block_q=bq,
        block_kv=bkv,
        block_kv_compute=bkv,
        block_q_dkv=bq,
        block_kv_dkv=bkv,
        block_kv_dkv_compute=bkv,
        block_q_dq=bq,
        block_kv_dq=bkv,
    )
    return splash.make_splash_mha_single_device(
        splash.MultiHeadMask([one] * heads), block_sizes=sizes, interpret=interpret
    )


def _block(length: int) -> int:
    """Returns the largest multiple of 128 up to `_BLOCK` that divides the length."""
    return max(b for b in range(_LANES, _BLOCK + 1, _LANES) if length % b == 0)
