"""Decoding with a cache: what Parti keeps of the codes so far, and one step.

Keys and values of all layers are one array, changed in place inside a loop over layers; handing
per-layer caches through a scan would copy all of them for every code. Where a code sees no further
back than the conv pattern's span (166 positions for 11 x 11 on 32 x 32) the cache is a ring.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array, Tree
from genjax.core.types import pytree
from genjax.layers.attention import attention
from genjax.layers.linear import Linear
from genjax.layers.norm import LayerNorm
from genjax.models.parti import PAD, Parti, TextEncoder
from genjax.models.parti_blocks import DecoderBlock
from genjax.parallel.rules import constrain

_CACHE = (None, "batch", None, "heads", None)
# Logical axes of `Cache`'s fields.
AXES_OF = {
    **dict.fromkeys(("k", "v", "text_k", "text_v"), _CACHE),
    **dict.fromkeys(("start", "visible"), ("batch", None)),
}


@pytree
class Cache:
    """`k`, `v` [depth, b, slots, heads, head dim]: slot j holds the position p with p % slots = j.

    `text_k`, `text_v` [depth, b, s, heads, head dim] and `visible` bool [b, s]: the
    text's, or None. `start` [b, d]: what stands before the first code.
    """

    k: Array
    v: Array
    start: Array
    text_k: Array | None = None
    text_v: Array | None = None
    visible: Array | None = None


def begin(
    model: Parti,
    params: Tree,
    cond: Mapping[str, Array] | None,
    batch: int,
    *,
    given: Array | None = None,
    ring: bool = True,
    dtype: str = "bfloat16",
) -> Cache:
    """Returns the cache before the first code, or after `given` codes int32 [b, n] in one pass.

    `ring`: keep only positions that can still be seen; `dtype`: of keys and values.
    """
    cond = model.null(batch) if cond is None else cond
    slots = min(len(model.seen), model.length) if ring else model.length
    shape = (model.depth, batch, slots, model.heads, model.width // model.heads)
    k = v = jnp.zeros(shape, dtype)
    if given is not None:
        kept: Any = model.apply({"params": params}, given, cond, keep=True)[1]
        last = np.arange(max(given.shape[1] - slots, 0), given.shape[1])
        k, v = (
            x.at[:, :, last % slots].set(y[:, :, last].astype(dtype)) for x, y in zip((k, v), kept)
        )
    text: dict[str, Array] = {}
    if model.vocab:
        tokens = cond["tokens"]
        encoded = TextEncoder(**model.encoder_fields()).apply({"params": params["encoder"]}, tokens)
        block = DecoderBlock(**model.block_fields())

        def read(layer: Tree):
            return block.apply({"params": layer}, encoded, method=DecoderBlock.read)

        text_k, text_v = jax.lax.map(read, params["blocks"])
        text = {
            "text_k": constrain(text_k.astype(dtype), _CACHE),
            "text_v": constrain(text_v.astype(dtype), _CACHE),
            "visible": tokens > PAD,
        }
    start = params["label"]["table"][cond["label"]] if model.num_classes else params["bos"]
    start = jnp.broadcast_to(start, (batch, model.width))
    return Cache(constrain(k, _CACHE), constrain(v, _CACHE), start, **text)


def step(
    model: Parti, params: Tree, cache: Cache, previous: Array, position: Array
) -> tuple[Array, Cache]:
    """Returns float32 logits [b, K] of the code at `position` (scalar), and the cache with it.

    `previous` int32 [b]: the code before it (any, at position 0).
    """
    slots = cache.k.shape[2]
    x = jnp.where(position > 0, params["table"][previous], cache.start)
    x = constrain((x + _place(model, params, position))[:, None], ("batch", None, None))
    slot = position % slots
    distance = (position - jnp.arange(slots)) % slots
    seen = np.zeros(slots, bool)
    seen[: len(model.seen)] = model.seen[:slots]
    mask = (jnp.asarray(seen)[distance] & (distance <= position))[None, None, None]
    block = DecoderBlock(**model.block_fields())

    def one(i: Array, carry: tuple[Array, Array, Array]):
        x, keys, values = carry
        layer = {"params": jax.tree.map(lambda p: _at(p, i), params["blocks"])}
        q, k, v = block.apply(layer, x, method=DecoderBlock.project)  # pyright: ignore[reportAssignmentType]
        index = (i, 0, slot, 0, 0)
        keys = jax.lax.dynamic_update_slice(keys, k[None].astype(keys.dtype), index)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
        values = jax.lax.dynamic_update_slice(values, v[None].astype(values.dtype), index)
        past = _at(keys, i).astype(q.dtype), _at(values, i).astype(q.dtype)
        y = attention(q, *past, mask=mask, implementation="plain")
        text: Any = None
        if cache.text_k is not None:
            text = tuple(_at(t, i).astype(q.dtype) for t in (cache.text_k, cache.text_v))  # pyright: ignore[reportArgumentType]
        x = block.apply(layer, x, y, text, cache.visible, method=DecoderBlock.finish)
        return x, keys, values

    x, k, v = jax.lax.fori_loop(0, model.depth, one, (x, cache.k, cache.v))
    h = LayerNorm().apply({"params": params["norm"]}, x[:, 0])
    softmax = Linear((model.codes,), ("embed", "vocab"), use_bias=False)
    logits = jnp.asarray(softmax.apply({"params": params["softmax"]}, h), jnp.float32)
    return logits, Cache(k, v, cache.start, cache.text_k, cache.text_v, cache.visible)


def _at(x: Array, i: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(x, i, keepdims=False)


def _place(model: Parti, params: Tree, position: Array) -> Array:
    if model.positions == "full":
        return params["places"][position]
    columns = model.grid[1]
    return params["rows"][position // columns] + params["columns"][position % columns]
