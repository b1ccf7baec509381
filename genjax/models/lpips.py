"""LPIPS (Zhang et al. 2018), version 0.1: the perceptual distance of two images.

Features of AlexNet, VGG16 or SqueezeNet at several depths, each pixel's channels scaled to length
1, squared differences weighted by a learned non-negative linear head, averaged over pixels.
AlexNet is for reporting, VGG16 for losses. The value depends on the resolution.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.core.registry import option
from genjax.layers.conv import Conv, kernel_init
from genjax.layers.linear import named

SHIFT = (-0.030, -0.088, -0.188)  # of pixels in [-1, 1]
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10

# A step of a backbone: ("conv", index in the public file, features, size, stride, padding),
# ("fire", index, squeezed, expanded), ("pool", window, whether the last window may stick out) or
# ("tap",): features are taken here. Every convolution is followed by a ReLU.
_VGG = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def _vgg() -> tuple[tuple, ...]:
    steps: list[tuple] = []
    index = 0
    for i, widths in enumerate(_VGG):
        if i:
            steps.append(("pool", 2, False))
            index += 1
        for width in widths:
            steps.append(("conv", index, width, 3, 1, 1))
            index += 2
        steps.append(("tap",))
    return tuple(steps)


BACKBONES: dict[str, tuple[tuple, ...]] = {
    "alex": (
        ("conv", 0, 64, 11, 4, 2),
        ("tap",),
        ("pool", 3, False),
        ("conv", 3, 192, 5, 1, 2),
        ("tap",),
        ("pool", 3, False),
        ("conv", 6, 384, 3, 1, 1),
        ("tap",),
        ("conv", 8, 256, 3, 1, 1),
        ("tap",),
        ("conv", 10, 256, 3, 1, 1),
        ("tap",),
    ),
    "vgg": _vgg(),
    "squeeze": (
        ("conv", 0, 64, 3, 2, 0),
        ("tap",),
        ("pool", 3, True),
        ("fire", 3, 16, 64),
        ("fire", 4, 16, 64),
        ("tap",),
        ("pool", 3, True),
        ("fire", 6, 32, 128),
        ("fire", 7, 32, 128),
        ("tap",),
        ("pool", 3, True),
        ("fire", 9, 48, 192),
        ("tap",),
        ("fire", 10, 48, 192),
        ("tap",),
        ("fire", 11, 64, 256),
        ("tap",),
        ("fire", 12, 64, 256),
        ("tap",),
    ),
}


class Backbone(nn.Module):
    """Pixels [b, h, w, 3] after shift and scale -> the features at every tap, shallow first."""

    net: str

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        taps = []
        for kind, *about in BACKBONES[self.net]:
            if kind == "tap":
                taps.append(x)
            elif kind == "pool":
                x = _pool(x, *about)
            elif kind == "conv":
                index, features, size, stride, padding = about
                x = _conv(x, f"conv_{index}", features, size, stride, padding)
            else:
                index, squeezed, expanded = about
                x = _conv(x, f"fire_{index}_squeeze", squeezed, 1)
                small = _conv(x, f"fire_{index}_expand1x1", expanded, 1)
                large = _conv(x, f"fire_{index}_expand3x3", expanded, 3, padding=1)
                x = jnp.concatenate([small, large], axis=-1)
        return taps


class LPIPS(nn.Module):
    """The distance of pairs of images; frozen, float32, differentiable in both images."""

    net: str = option("alex", "backbone: alex, vgg or squeeze")

    def __post_init__(self):
        if self.net not in BACKBONES:
            raise ValueError(f"net is {self.net!r}; choose one of {list(BACKBONES)}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, y: Array) -> Array:
        """Returns float32 [b], 0 for equal images. x, y: [b, h, w, 3] in [-1, 1].

        One channel is repeated to three. Raises `ValueError` for images of different shapes.
        """
        if x.shape != y.shape:
            raise ValueError(f"LPIPS compares images of one shape, not {x.shape} and {y.shape}")
        both = jnp.concatenate([x, y]).astype(jnp.float32)
        if both.shape[-1] == 1:
            both = jnp.repeat(both, 3, axis=-1)
        both = (both - jnp.asarray(SHIFT)) / jnp.asarray(SCALE)
        total = jnp.zeros(len(x), jnp.float32)
        for i, features in enumerate(Backbone(self.net, name="backbone")(both)):
            a, b = jnp.split(_scaled(features), 2)
            names = ("channels",)
            weight = self.param(f"head_{i}", named(_spread, names), (a.shape[-1],), jnp.float32)
            total = total + jnp.mean(jnp.square(a - b) @ weight, axis=(1, 2))
        return total


def _scaled(x: Array) -> Array:
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    # The root of 0 has no derivative; where all channels are 0 the result is 0 anyway.
    norm = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
    return x / (jnp.where(squares > 0, norm, 0.0) + EPSILON)


def _spread(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    del key
    return jnp.full(shape, 1.0 / shape[0], dtype)


def _conv(x: Array, name: str, features: int, size: int, stride: int = 1, padding: int = 0):
    pad = ((padding, padding), (padding, padding))
    conv = Conv(
        features,
        kernel_init,
        size=size,
        strides=stride,
        padding=pad,
        names=(None, "channels"),
        name=name,
    )
    return nn.relu(conv(x))


def _pool(x: Array, window: int, stick_out: bool) -> Array:
    """Maximum over windows of stride 2; the last one may reach over the edge."""
    reach = [(-(n - window) % 2 if stick_out else 0) for n in x.shape[1:3]]
    padding = ((0, 0), (0, reach[0]), (0, reach[1]), (0, 0))
    size, stride = (1, window, window, 1), (1, 2, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, size, stride, padding)
