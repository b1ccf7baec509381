"""The feed-forward block of a transformer."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax

from genjax.core.arrays import Array
from genjax.layers.linear import Initializer, Linear

gelu = functools.partial(jax.nn.gelu, approximate=True)


class Mlp(nn.Module):
    """[..., d] -> [..., d]: Linear to `hidden`, `activation` (tanh-approximate GELU), Linear back.

    The backward pass keeps what enters the activation and computes the activation again.
    """

    hidden: int
    dtype: str = "float32"
    activation: Callable[[Array], Array] = gelu
    kernel_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = Linear(
            (self.hidden,),
            ("embed", "mlp"),
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="in",
        )(x)
        return Linear(
            x.shape[-1:],
            ("mlp", "embed"),
            kernel_init=self.kernel_init,
            activation=self.activation,
            dtype=self.dtype,
            name="out",
        )(h)
