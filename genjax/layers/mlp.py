"""The feed-forward block of a transformer."""

import functools

import flax.linen as nn
import jax

from genjax.core.arrays import Array
from genjax.layers.linear import Linear

gelu = functools.partial(jax.nn.gelu, approximate=True)


class Mlp(nn.Module):
    """[..., d] -> [..., d]: Linear to `hidden`, tanh-approximate GELU, Linear back.

    The backward pass keeps what enters the GELU and computes the GELU again.
    """

    hidden: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = Linear((self.hidden,), ("embed", "mlp"), dtype=self.dtype, name="in")(x)
        return Linear(
            x.shape[-1:], ("mlp", "embed"), activation=gelu, dtype=self.dtype, name="out"
        )(h)
