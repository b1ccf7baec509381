"""The one attention function of the library, and self-attention on top of it.

`attention` chooses the implementation by the platform it is traced for: cuDNN's fused kernel on
GPUs, Pallas splash attention on TPUs, plain products with a float32 softmax elsewhere.
"""

from typing import Literal, TypeGuard

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array
from genjax.layers.linear import Initializer, Linear, zeros
from genjax.layers.norm import RMSNorm
from genjax.layers.splash import splash_attention, splash_supports
from genjax.parallel.rules import platform

Implementation = Literal["auto", "plain", "cudnn", "splash"]
IMPLEMENTATIONS = ("auto", "plain", "cudnn", "splash")
_SPLASH_FROM = 512  # tokens; below, one dense product beats the kernel's blocks


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Array | np.ndarray | None = None,
    bias: Array | None = None,
    causal: bool = False,
    scale: float | None = None,
    implementation: Implementation = "auto",
) -> Array:
    """Returns softmax(scale q k^T + bias) v, [b, l, h, d] in q's dtype; the softmax is float32.

    q: [b, l, h, d]; k, v: [b, m, h, d]. mask: boolean, broadcastable to [b, h, l, m], False means
    "must not see"; a NumPy array [l, m] is known to kernels when they are compiled. bias: [b, h, l,
    m] likewise, added to the logits. causal: token i sees tokens j <= i. scale: d^-1/2 unless
    given. A token that sees nothing gets an average of v.
    `implementation`: "plain", "cudnn" (GPU; float16 or bfloat16, d <= 128 and 8 | d), "splash"
    (TPU; no bias, no mask but a NumPy one, 128 | l and m) or "auto": the kernel of this platform
    where it can.
    Raises `ValueError` if the chosen kernel cannot do what is asked.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"attention: {implementation!r} is none of {', '.join(IMPLEMENTATIONS)}")
    scale = float(q.shape[-1] ** -0.5 if scale is None else scale)
    if implementation == "auto":
        implementation = _choose(q, k, mask, bias, causal)
    if implementation == "cudnn":
        if not _cudnn_supports(q):
            raise ValueError(
                "attention: cudnn needs float16 or bfloat16 and a head dimension of at most 128 "
                f"that 8 divides, not {q.dtype} and {q.shape[-1]}"
            )
        return jax.nn.dot_product_attention(
            q, k, v, bias, mask, scale=scale, is_causal=causal, implementation="cudnn"
        )
    if implementation == "splash":
        if not _known(mask) or bias is not None or not splash_supports(q, k):
            raise ValueError(
                "attention: splash takes no bias, no mask but a NumPy array [l, m], and lengths "
                f"that 128 divides, not {q.shape[1]} and {k.shape[1]}"
            )
        return splash_attention(q, k, v, mask=mask, causal=causal, scale=scale)
    return _plain(q, k, v, mask, bias, causal, scale)


def _choose(q, k, mask, bias, causal) -> Implementation:
    where = platform()
    if where in ("gpu", "cuda") and _cudnn_supports(q):
        return "cudnn"
    if where == "tpu" and _known(mask) and bias is None and splash_supports(q, k):
        return "splash" if k.shape[1] >= _SPLASH_FROM else "plain"
    return "plain"


def _known(mask) -> TypeGuard[np.ndarray | None]:
    return mask is None or (isinstance(mask, np.ndarray) and mask.ndim == 2)


def _cudnn_supports(q: Array) -> bool:
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    return half and q.shape[-1] <= 128 and q.shape[-1] % 8 == 0


def _plain(q, k, v, mask, bias, causal, scale) -> Array:
    # The scale goes on q: l x d products instead of l x m.
    logits = jnp.einsum(
        "blhd,bmhd->bhlm", q * jnp.asarray(scale, q.dtype), k, preferred_element_type=jnp.float32
    )
    if bias is not None:
        logits = logits + bias.astype(jnp.float32)
    if causal:
        visible = jnp.tril(jnp.ones(logits.shape[-2:], bool))
        mask = visible if mask is None else mask & visible
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = _softmax(logits).astype(v.dtype)
    return jnp.einsum("bhlm,bmhd->blhd", weights, v)


@jax.custom_jvp
def _softmax(logits: Array) -> Array:
    """Returns the softmax over the last axis; its derivative keeps the result and nothing else."""
    return jax.nn.softmax(logits, axis=-1)


@_softmax.defjvp
def _softmax_jvp(primals, tangents):
    y, t = _softmax(*primals), tangents[0]
    return y, y * (t - jnp.sum(y * t, axis=-1, keepdims=True))


class SelfAttention(nn.Module):
    """[b, l, d] -> [b, l, d]: one fused q|k|v product, attention over `heads`, output product.

    The fused kernel [d, 3, heads, head dim] starts with the bound of a d x 3d matrix unless
    `qkv_init` says otherwise, its bias (none without `qkv_bias`) at 0 unless `qkv_bias_init` does;
    `out_init` is for the output product. `qk_norm` normalises q and k over the head dimension (RMS,
    learned scale shared by the heads). causal: token i sees tokens j <= i.
    """

    heads: int
    qk_norm: bool = False
    implementation: Implementation = "auto"
    qkv_init: Initializer | None = None
    out_init: Initializer | None = None
    qkv_bias_init: Initializer = zeros
    qkv_bias: bool = True
    dtype: str = "float32"
    causal: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        qkv = Linear(
            (3, self.heads, width // self.heads),
            ("embed", None, "heads", "kv"),
            kernel_init=self.qkv_init,
            use_bias=self.qkv_bias,
            bias_init=self.qkv_bias_init,
            dtype=self.dtype,
            name="qkv",
        )(x)
        q, k, v = (qkv[:, :, i] for i in range(3))
        if self.qk_norm:
            q = RMSNorm(axis="kv", name="q_norm")(q)
            k = RMSNorm(axis="kv", name="k_norm")(k)
        y = attention(q, k, v, causal=self.causal, implementation=self.implementation)
        return Linear(
            (width,),
            ("heads", "kv", "embed"),
            inputs=2,
            kernel_init=self.out_init,
            dtype=self.dtype,
            name="out",
        )(y)
