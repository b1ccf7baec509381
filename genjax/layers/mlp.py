"""The feed-forward block of a transformer."""

import functools

import flax.linen as nn
import jax

from genjax.core.arrays import Array
from genjax.layers.linear import Linear


@functools.partial(jax.checkpoint, prevent_cse=False)
def gelu(x: Array) -> Array:
    """Returns the tanh-approximate GELU; its backward pass keeps x only, not five products of x."""
    return jax.nn.gelu(x, approximate=True)


class Mlp(nn.Module):
    """[..., d] -> [..., d]: Linear to `hidden`, tanh-approximate GELU, Linear back."""

    hidden: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = Linear((self.hidden,), ("embed", "mlp"), dtype=self.dtype, name="in")(x)
        h = gelu(h)
        return Linear(x.shape[-1:], ("mlp", "embed"), dtype=self.dtype, name="out")(h)
