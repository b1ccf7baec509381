"""A small convolutional classifier: the feature network of evaluation that needs no download.

Where no public feature network is at hand, samples are measured by the features of a classifier
that genjax itself trains on the same data set in a minute or two.
"""

import flax.linen as nn
import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.core.registry import option
from genjax.layers.conv import conv
from genjax.layers.linear import Linear
from genjax.layers.norm import GroupNorm


class ConvClassifier(nn.Module):
    """Stages of 3x3 convolutions with group norm, halving the resolution between stages.

    Stage s has `width` 2^s channels and two convolutions, the second one residual. The first
    convolution has the stride `stem` (2 saves three quarters of the work on 28x28 and larger).
    `features` numbers per image are read off the global average.
    """

    num_classes: int = option(10, "classes that it tells apart")
    width: int = option(32, "channels of the first stage; each later one has twice as many")
    stages: int = option(2, "stages; between two the resolution is halved")
    stem: int = option(1, "stride of the first convolution")
    features: int = option(64, "numbers per image that the last layer reads")
    groups: int = option(8, "groups of a norm; they divide width")
    dtype: str = option("float32", "of the convolutions: float32 or bfloat16")

    def __post_init__(self):
        super().__post_init__()
        if self.width % self.groups:
            raise ValueError(f"width {self.width} must be a multiple of groups {self.groups}")
        if min(self.num_classes, self.stages, self.stem, self.features) < 1:
            raise ValueError("num_classes, stages, stem and features must be at least 1")

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> dict[str, Array]:
        """Returns {"features": [b, features], "logits": [b, num_classes]}, both float32.

        `x`: [b, h, w, c], grey values in [-1, 1]. Nothing depends on `train`; every network is
        called with it. Features are what the last, linear layer reads.
        """
        del train
        h = x.astype(self.dtype)
        for s in range(self.stages):
            width, stride = self.width * 2**s, 2 if s else self.stem
            down = conv(width, dtype=self.dtype, stride=stride, name=f"stage{s}_down")
            h = self._normed(down(h), f"stage{s}_down_norm")
            residual = conv(width, dtype=self.dtype, name=f"stage{s}_residual")
            h = h + self._normed(residual(h), f"stage{s}_residual_norm")
        pooled = jnp.mean(h.astype(jnp.float32), axis=(1, 2))
        hidden = Linear((self.features,), ("channels", "embed"), name="hidden")(pooled)
        features = nn.silu(hidden)
        logits = Linear((self.num_classes,), ("embed", "classes"), name="head")(features)
        return {"features": features, "logits": logits}

    def _normed(self, h: Array, name: str) -> Array:
        return nn.silu(GroupNorm(self.groups, 1e-5, name=name)(h)).astype(self.dtype)

    def forward_flops(self, shape: tuple[int, ...]) -> float:
        """Returns the floating-point operations (2 x MAC) of one image of `shape` (h, w, c).

        Convolutions and linear layers; norms and activations are left out, as is customary.
        """
        h, w, channels = shape
        macs = 0
        for s in range(self.stages):
            width, stride = self.width * 2**s, 2 if s else self.stem
            h, w = -(-h // stride), -(-w // stride)
            macs += h * w * 9 * width * (channels + width)
            channels = width
        macs += channels * self.features + self.features * self.num_classes
        return 2.0 * macs
