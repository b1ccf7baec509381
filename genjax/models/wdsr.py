"""WDSR-A (Yu et al. 2018, arXiv 1808.08718): twice the pixels by wide residual blocks.

Parti enlarges its 256 x 256 pictures with it: one stage of 12 blocks of 128 channels to 512 x 512
(15 M parameters), two to 1024 x 1024 (30 M). No norms; kernels are weight-normalised.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.core.registry import option
from genjax.layers.conv import convolve, kernel_init
from genjax.layers.linear import named, zeros
from genjax.parallel.rules import constrain, gather

VARIANTS: dict[str, dict[str, Any]] = {"512": {}, "1024": {"stages": 2}}
_PIXELS = ("batch", None, None, "channels")


class WDSR(nn.Module):
    """Images [b, h, w, c] in [0, 1] -> [b, 2^stages h, 2^stages w, c], unclipped."""

    stages: int = option(1, "how often height and width are doubled, by a network each")
    blocks: int = option(12, "residual blocks of a stage")
    width: int = option(128, "channels between the blocks")
    expansion: int = option(4, "channels inside a block, in widths")
    dtype: str = option("float32", "of the convolutions: float32 or bfloat16")

    def __post_init__(self):
        if min(self.stages, self.blocks, self.width, self.expansion) < 1:
            raise ValueError("stages, blocks, width and expansion must be at least 1")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype: {self.dtype!r} is neither float32 nor bfloat16")
        super().__post_init__()

    @property
    def factor(self) -> int:
        """How much wider and higher the images become."""
        return 2**self.stages

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x.astype(jnp.float32)
        for i in range(self.stages):
            fields = (self.blocks, self.width, self.expansion, self.dtype)
            x = Stage(*fields, name=f"stage_{i}")(x)
        return x

    def forward_flops(self, shape: Sequence[int]) -> float:
        """Returns the operations (2 x multiply-accumulates) for one image [h, w, c] made."""
        height, width, c = shape
        d, total = self.width, 0.0
        for i in range(self.stages):
            pixels = height * width / 4 ** (self.stages - i)
            block = 2 * 9 * d * d * self.expansion
            total += pixels * (self.blocks * block + 9 * d * c + 9 * d * 4 * c + 25 * c * 4 * c)
        return 2.0 * total


class Stage(nn.Module):
    """[b, h, w, c] -> [b, 2h, 2w, c], float32: what the blocks make of it, plus a skip."""

    blocks: int
    width: int
    expansion: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c, centred = x.shape[-1], x - 0.5
        h = NormedConv(self.width, 3, (None, "channels"), self.dtype, name="in")(centred)
        for i in range(self.blocks):
            h = h + Wide(self.width, self.expansion, self.dtype, name=f"block_{i}")(h)
            h = constrain(h, _PIXELS)
        made = NormedConv(4 * c, 3, ("channels", None), self.dtype, name="out")(h)
        skip = NormedConv(4 * c, 5, (None, None), self.dtype, name="skip")(centred)
        return pixel_shuffle((made + skip).astype(jnp.float32)) + 0.5


class Wide(nn.Module):
    """3x3 convolution to `expansion` times the channels, ReLU, 3x3 convolution back."""

    width: int
    expansion: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inner = self.width * self.expansion
        wide = NormedConv(inner, 3, ("embed", "channels"), self.dtype, name="wide")
        back = NormedConv(self.width, 3, ("channels", "embed"), self.dtype, name="back")
        return back(jax.nn.relu(wide(x)))


class NormedConv(nn.Module):
    """A convolution with the kernel g v/|v|, a norm and a gain g for every output channel.

    g starts at |v|. [b, h, w, c] -> [b, h, w, features] in `dtype`; odd `size`, edges padded by 0.
    """

    features: int
    size: int
    names: tuple[str | None, str | None]
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        names, r = (None, None, *self.names), self.size // 2
        shape = (self.size, self.size, x.shape[-1], self.features)
        v = self.param("kernel", named(kernel_init, names), shape, jnp.float32)
        norm = jnp.sqrt(jnp.sum(jnp.square(v), axis=(0, 1, 2)) + 1e-12)
        start = lambda key, shape: norm  # noqa: E731
        g = self.param("gain", named(start, names[-1:]), shape[-1:])
        bias = self.param("bias", named(zeros, names[-1:]), shape[-1:], jnp.float32)
        kernel = gather((v * (g / norm)).astype(self.dtype), names)
        y = convolve(x.astype(self.dtype), kernel, padding=((r, r), (r, r)))
        return y + bias.astype(self.dtype)


def pixel_shuffle(x: Array) -> Array:
    """Returns [b, 2h, 2w, c] of x [b, h, w, 4c]; channel (2i + j)c + k is colour k at (i, j)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, 2, 2, c // 4)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c // 4)
