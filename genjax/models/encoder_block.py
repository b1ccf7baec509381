"""The pre-norm transformer block of CLIP's towers and of DINOv2."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.layers.attention import SelfAttention
from genjax.layers.linear import Linear, named, ones
from genjax.layers.mlp import Mlp
from genjax.layers.norm import LayerNorm


def quick_gelu(x: Array) -> Array:
    """Returns x sigmoid(1.702 x), the approximation that OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def exact_gelu(x: Array) -> Array:
    """Returns x Phi(x)."""
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": exact_gelu,
    "gelu_tanh": jax.nn.gelu,
}


class GatedMlp(nn.Module):
    """[..., d] -> [..., d]: silu(x W_a) * (x W_b), then W_out; both halves are one product."""

    hidden: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        names = ("embed", None, "mlp")
        both = Linear((2, self.hidden), names, dtype=self.dtype, name="in")(x)
        h = jax.nn.silu(both[..., 0, :]) * both[..., 1, :]
        return Linear(x.shape[-1:], ("mlp", "embed"), dtype=self.dtype, name="out")(h)


class EncoderBlock(nn.Module):
    """x + g1 attention(norm(x)), then x + g2 mlp(norm(x)); [b, l, d] -> [b, l, d].

    `layer_scale`: whether the learned gains g exist. `gated`: a SwiGLU instead of `activation`.
    """

    heads: int
    hidden: int
    eps: float
    activation: str = "gelu"
    causal: bool = False
    layer_scale: bool = False
    gated: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = LayerNorm(self.eps, name="norm1")(x)
        h = SelfAttention(self.heads, causal=self.causal, dtype=self.dtype, name="attention")(h)
        x = x + self._scaled(h, "scale1")
        h = LayerNorm(self.eps, name="norm2")(x)
        if self.gated:
            h = GatedMlp(self.hidden, self.dtype, name="mlp")(h)
        else:
            activation = ACTIVATIONS[self.activation]
            h = Mlp(self.hidden, self.dtype, activation, name="mlp")(h)
        return x + self._scaled(h, "scale2")

    def _scaled(self, h: Array, name: str) -> Array:
        if not self.layer_scale:
            return h
        gain = self.param(name, named(ones, ("embed",)), h.shape[-1:], jnp.float32)
        return h * gain.astype(h.dtype)
