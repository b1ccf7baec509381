"""The linear map that all networks share, and its initialisers."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.parallel.rules import active, gather

Initializer = Callable[..., Array]
zeros: Initializer = nn.initializers.zeros_init()
ones: Initializer = nn.initializers.ones_init()


def normal(std: float) -> Initializer:
    """Returns the initialiser N(0, std^2)."""
    return nn.initializers.normal(std)


def named(init: Initializer, names: tuple[str | None, ...]) -> Callable[..., Any]:
    """Returns the initialiser whose parameters carry the logical axis names."""
    return nn.with_logical_partitioning(init, names)


def xavier(fan_in: int, fan_out: int) -> Initializer:
    """Returns the initialiser U(-a, a), a = sqrt(6 / (fan_in + fan_out)).

    The fans are given, not read off the kernel's shape: a kernel [d, 3, heads, head dim] is one
    d x 3d matrix here, for which Flax's own initialisers would see other fans.
    """
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


class Linear(nn.Module):
    """y = f(x) W + b over the last `inputs` axes of x: [..., *in] -> [..., *features].

    The kernel is stored as [*in, *features] in float32 with the logical axis names `names` and
    multiplied in `dtype`; `kernel_init` None is Xavier-uniform of the flattened matrix. Biases
    start at 0 unless `bias_init` says otherwise. `activation` is f (None: the identity). The
    backward pass keeps x and the kernel as they are, and computes f(x) and the kernel in `dtype`
    again.
    """

    features: tuple[int, ...]
    names: tuple[str | None, ...]
    inputs: int = 1
    kernel_init: Initializer | None = None
    use_bias: bool = True
    bias_init: Initializer = zeros
    activation: Callable[[Array], Array] | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        contracted = x.shape[x.ndim - self.inputs :]
        init = self.kernel_init or xavier(math.prod(contracted), math.prod(self.features))
        kernel = self.param(
            "kernel",
            named(init, self.names),
            (*contracted, *self.features),
            jnp.float32,
        )

        def product(x: Array, kernel: Array) -> Array:
            kernel = gather(kernel.astype(self.dtype), self.names)
            x = x if self.activation is None else self.activation(x)
            return _product(x.astype(self.dtype), kernel, self.inputs)

        # A function of this call's own: what is traced depends on the mesh, which JAX's cache of
        # checkpointed functions does not know.
        y = jax.checkpoint(product, prevent_cse=False)(x, kernel)
        if self.use_bias:
            bias = self.param(
                "bias",
                named(self.bias_init, self.names[self.inputs :]),
                self.features,
                jnp.float32,
            )
            y = y + bias.astype(self.dtype)
        return y


def _product(x: Array, kernel: Array, inputs: int) -> Array:
    """Returns x W over the last `inputs` axes of x and the first of the kernel.

    On a mesh of several devices every axis stays its own, so that each can be split. On one the
    product is that of two matrices: with several contracted axes XLA's CPU compiler transposes
    copies of activations and weights for the gradients (a tenth of a DiT's step).
    """
    current = active()
    if current is None or current.mesh.size == 1:
        rows, contracted = x.shape[: x.ndim - inputs], math.prod(kernel.shape[:inputs])
        flat = x.reshape(-1, contracted) @ kernel.reshape(contracted, -1)
        return flat.reshape(*rows, *kernel.shape[inputs:])
    axes = tuple(range(x.ndim - inputs, x.ndim)), tuple(range(inputs))
    return jax.lax.dot_general(x, kernel, (axes, ((), ())))
