"""Convolutions and resampling of image grids [..., h, w, c]."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.layers.linear import Initializer, named
from genjax.parallel.rules import active, gather, platform

# PyTorch's default for convolutions and linear maps: uniform with variance 1 / (3 fan_in).
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

SAME = ((1, 1), (1, 1))
DOWN = ((0, 1), (0, 1))  # bottom and right only: what a 3x3 convolution of stride 2 pads here
NONE = ((0, 0), (0, 0))

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_PIXELS = 256  # of the smallest image whose kernel's gradient is worth a loop over images


def conv(
    features: int,
    *,
    dtype: str,
    size: int = 3,
    stride: int = 1,
    padding=SAME,
    axis: str | None = "channels",
    name: str | None = None,
) -> nn.Conv:
    """Returns a `size` x `size` convolution whose output channels have the logical name `axis`.

    `axis=None` is for a handful of channels (pixels, latents), which no mesh axis divides.
    """
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=padding,
        dtype=jnp.dtype(dtype),
        kernel_init=nn.with_logical_partitioning(kernel_init, (None, None, None, axis)),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, (axis,)),
        name=name,
    )


def convolve(
    x: Array, weight: Array, *, strides: int = 1, padding=SAME, dilation: int = 1
) -> Array:
    """Returns the convolution of x [b, h, w, c] with weight [k, k, c, o], in their dtype.

    `dilation` 2 stands for a zero between any two pixels of x.
    """
    if strides == dilation == 1 and _gradient_by_image(x, weight, padding):
        return _convolve_by_image(x, weight, tuple(map(tuple, padding)))
    return jax.lax.conv_general_dilated(
        x,
        weight,
        (strides, strides),
        padding,
        lhs_dilation=(dilation, dilation),
        dimension_numbers=_LAYOUT,
    )


def _gradient_by_image(x: Array, weight: Array, padding) -> bool:
    """Says whether a kernel's gradient is faster as a sum over images than as XLA computes it.

    It is on one CPU, from 16 x 16 pixels on (2.3 times at 32 x 32), in float32. Over several
    devices the sum would walk along an axis that the mesh splits.
    """
    current = active()
    return (
        platform() == "cpu"
        and (current is None or current.mesh.size == 1)
        and not isinstance(padding, str)
        and x.dtype == jnp.float32
        and weight.shape[0] > 1
        and x.shape[1] * x.shape[2] >= _PIXELS
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _convolve_by_image(x: Array, weight: Array, padding) -> Array:
    """Returns the convolution of stride 1; the gradient of its weight goes image by image."""
    return jax.lax.conv_general_dilated(x, weight, (1, 1), padding, dimension_numbers=_LAYOUT)


@_convolve_by_image.defjvp
def _convolve_by_image_jvp(padding, primals, tangents):
    # Linear in both tangents and made of JAX's own operations: the transpose of the second line is
    # the gradient wanted, and derivatives of every order and direction exist.
    (x, weight), (dx, dweight) = primals, tangents
    y = _convolve_by_image(x, weight, padding)
    return y, _convolve_by_image(dx, weight, padding) + _products(x, dweight, padding)


def _products(x: Array, weight: Array, padding) -> Array:
    """Returns the convolution as one matrix product an image, of its patches with the weight."""
    rows, cols, _, features = weight.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    h, w = x.shape[1] - rows + 1, x.shape[2] - cols + 1
    transposed = weight.reshape(-1, features).T  # so that its gradient is a product as it stands

    @functools.partial(jax.checkpoint, prevent_cse=False)  # patches are k^2 times the image
    def one(image: Array, transposed: Array) -> Array:
        shifted = [image[i : i + h, j : j + w] for i in range(rows) for j in range(cols)]
        patches = jnp.concatenate(shifted, axis=-1).reshape(h * w, -1)
        return (patches @ transposed.T).reshape(h, w, features)

    return jax.lax.map(lambda image: one(image, transposed), x)


class Conv(nn.Module):
    """A `size` x `size` convolution whose kernel is whole over the data axes when it is used.

    [b, h, w, c] -> [b, h', w', features] in `dtype`. `names` are the logical axes of the kernel's
    input and output channels (None: a handful, which no mesh axis divides). `apply_kernel`, if
    given, takes (x, kernel) instead of a plain convolution: one fused with resampling.
    """

    features: int
    kernel_init: Initializer
    bias_init: Initializer = nn.initializers.zeros
    size: int = 3
    strides: int = 1
    padding: tuple = SAME
    names: tuple[str | None, str | None] = ("embed", "channels")
    apply_kernel: Callable[[Array, Array], Array] | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        names = (None, None, *self.names)
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", named(self.kernel_init, names), shape, jnp.float32)
        kernel, x = gather(kernel.astype(self.dtype), names), x.astype(self.dtype)
        if self.apply_kernel is not None:
            y = self.apply_kernel(x, kernel)
        else:
            y = convolve(x, kernel, strides=self.strides, padding=self.padding)
        bias = self.param("bias", named(self.bias_init, names[-1:]), shape[-1:], jnp.float32)
        return y + bias.astype(self.dtype)


def upsample(x: Array) -> Array:
    """Returns [..., 2h, 2w, c]: every pixel twice along both sides (nearest neighbour)."""
    return jnp.repeat(jnp.repeat(x, 2, axis=-3), 2, axis=-2)
