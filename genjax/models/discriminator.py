"""The discriminator of StyleGAN2 in MaskGIT's layout: residual blocks that halve the image.

No equalised learning rate, no minibatch statistics (they would couple the images of a batch).
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.core.registry import option
from genjax.layers.conv import Conv
from genjax.layers.linear import Linear, named
from genjax.layers.resample import filter_then_conv
from genjax.parallel.rules import constrain, gather

_TAPS = (1, 3, 3, 1)
_LAST = 4  # pixels of the shorter side where the blocks end
_xavier = nn.initializers.xavier_uniform()


def leaky(x: Array) -> Array:
    """Returns x where it is positive, 0.2 x elsewhere."""
    return jax.nn.leaky_relu(x, 0.2)


class Down(nn.Module):
    """(f(x) + skip(x)) / sqrt 2 at half the size: [b, h, w, c] -> [b, h/2, w/2, features].

    f: 3x3 convolution, leaky ReLU, blur, 3x3 convolution of stride 2, leaky ReLU; skip: blur, 1x1
    convolution of stride 2 without bias.
    """

    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = x.shape[-1]
        h = leaky(Conv(c, _xavier, dtype=self.dtype, name="conv1")(x))
        strided = Conv(
            self.features,
            _xavier,
            apply_kernel=lambda x, w: filter_then_conv(x, w, _TAPS),
            dtype=self.dtype,
            name="conv2",
        )
        h = leaky(strided(h))
        names = (None, None, "embed", "channels")
        kernel = self.param("skip", named(_xavier, names), (1, 1, c, self.features), jnp.float32)
        skip = filter_then_conv(x, gather(kernel.astype(self.dtype), names), _TAPS)
        h = (h + skip) * (1 / math.sqrt(2))
        return constrain(h, ("batch", None, None, "channels"))


class StyleGANDiscriminator(nn.Module):
    """Images [b, h, w, c] in [-1, 1] -> float32 logits [b], large for real ones.

    The width at resolution r is min(max_channels, multiplier 16384 / r): 64, 128, 256, 512, 512 ...
    at 256, 128, 64, 32, 16, ... The shorter side must be 4 times a power of two, and that power
    divide the other one.
    """

    multiplier: float = option(1.0, "width in units of 16384 / resolution (MaskGIT 1, others 2)")
    max_channels: int = option(512, "most channels of a convolution")
    dtype: str = option("float32", "of the convolutions: float32 or bfloat16")

    def __post_init__(self):
        if self.multiplier <= 0 or self.max_channels < 1:
            raise ValueError("multiplier must be positive and max_channels at least 1")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype: {self.dtype!r} is neither float32 nor bfloat16")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> Array:
        height, width, _ = x.shape[1:]
        sides = self.resolutions(height, width)
        h = x.astype(self.dtype)
        first = Conv(
            self._width(sides[0]), _xavier, names=(None, "channels"), dtype=self.dtype, name="in"
        )
        h = leaky(first(h))
        for side in sides[1:]:
            h = Down(self._width(side), self.dtype, name=f"down{side}")(h)
        h = leaky(Conv(self._width(_LAST), _xavier, dtype=self.dtype, name="last")(h))
        h = h.reshape(len(h), -1)
        h = Linear((self._width(_LAST),), (None, "mlp"), dtype=self.dtype, name="hidden")(h)
        return Linear((1,), ("mlp", None), activation=leaky, name="out")(h)[:, 0]

    def resolutions(self, height: int, width: int) -> list[int]:
        """Returns the shorter side before every block and after the last, such as [16, 8, 4]."""
        short = min(height, width)
        halvings = int(math.log2(max(short, _LAST) / _LAST))
        if _LAST << halvings != short or max(height, width) % (1 << halvings):
            raise ValueError(
                f"the discriminator cannot halve {height} x {width} down to 4: the shorter side "
                "must be 4, 8, 16, ..., and as many halvings divide the longer"
            )
        return [short >> i for i in range(halvings + 1)]

    def _width(self, side: int) -> int:
        return max(1, min(self.max_channels, round(self.multiplier * 16384 / side)))

    def forward_flops(self, shape: Sequence[int]) -> float:
        """Returns the operations (2 x multiply-accumulates) of one image [h, w, c]."""
        height, width, channels = shape
        sides = self.resolutions(height, width)
        area, before = height * width, self._width(sides[0])
        macs = 9 * area * channels * before
        for side in sides[1:]:
            after = self._width(side)
            macs += 9 * area * before**2 + area // 4 * before * after * (9 + 1)
            area, before = area // 4, after
        last = self._width(_LAST)
        return 2.0 * (macs + 9 * area * before * last + area * last**2 + last)
