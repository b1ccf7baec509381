"""A wide residual network that may know how noisy its images are (WRN-28-10 and smaller).

The classifier of Score SDE (Song et al., arXiv 2011.13456, appendix I) after Zagoruyko and
Komodakis (arXiv 1605.07146): group norm for batch norm, and the noise level added in every block.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.core.registry import option
from genjax.layers.embed import FourierFeatures
from genjax.layers.linear import Linear
from genjax.layers.norm import GroupNorm

STEM = 16
FOURIER, EMBEDDING = 256, 512
GROUPS = 3
# depth 6 n + 4: n blocks in each of three groups.
VARIANTS = {
    "28-10": {"depth": 28, "widen": 10},
    "16-4": {"depth": 16, "widen": 4},
    "10-2": {"depth": 10, "widen": 2},
}

_kernel = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(features: int, stride: int, dtype: str, name: str) -> nn.Conv:
    return nn.Conv(
        features,
        (3, 3),
        strides=stride,
        padding=((1, 1), (1, 1)),
        use_bias=False,
        dtype=jnp.dtype(dtype),
        kernel_init=nn.with_logical_partitioning(_kernel, (None, None, None, "channels")),
        name=name,
    )


def _norm(x: Array, name: str) -> Array:
    groups = min(x.shape[-1] // 4, 32)
    return nn.relu(GroupNorm(groups, 1e-5, name=name)(x))


class Block(nn.Module):
    """norm, ReLU, 3x3, (+ noise embedding), norm, ReLU, 3x3, beside a shortcut without parameters.

    The shortcut is average pooling over `stride` and zeros for new channels.
    """

    features: int
    stride: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, noise: Array | None) -> Array:
        """Returns [b, h/stride, w/stride, features] for x [b, h, w, c] and noise [b, d] or None."""
        h = _conv(self.features, self.stride, self.dtype, "conv1")(_norm(x, "norm1"))
        if noise is not None:
            add = Linear((self.features,), ("embed", "channels"), name="noise")(nn.swish(noise))
            h = h + add[:, None, None].astype(h.dtype)
        h = _conv(self.features, 1, self.dtype, "conv2")(_norm(h, "norm2"))
        if self.stride > 1:
            window = (self.stride, self.stride)
            x = nn.avg_pool(x, window, window, padding="SAME", count_include_pad=False)
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.features - x.shape[-1])))
        return x + h


class WideResNet(nn.Module):
    """WRN-`depth`-`widen`: a 3x3 stem of 16, groups of 16, 32, 64 times `widen` channels.

    The second and third group halve the resolution. Every image is standardised first, so that
    neither its scale nor the units of its pixels matter.
    """

    num_classes: int = option(10, "classes that it tells apart")
    depth: int = option(28, "layers, 6 n + 4: n blocks in each of three groups")
    widen: int = option(10, "times 16, 32 and 64 channels")
    dtype: str = option("float32", "of the convolutions: float32 or bfloat16")

    def __post_init__(self):
        super().__post_init__()
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth must be 10, 16, 22, 28, ..., not {self.depth}")
        if min(self.num_classes, self.widen) < 1:
            raise ValueError("num_classes and widen must be at least 1")

    @nn.compact
    def __call__(
        self, x: Array, log_lam: Array | None = None, *, train: bool = False
    ) -> dict[str, Array]:
        """Returns {"features": [b, 64 widen], "logits": [b, num_classes]}, both float32.

        `x`: [b, h, w, c]; `log_lam`: [b] ln(sigma/alpha) of its noise, None for a network that is
        told of none. Nothing depends on `train`. Features are what the last, linear layer reads.
        """
        del train
        h, noise = standardise(x).astype(self.dtype), None
        if log_lam is not None:
            noise = FourierFeatures(FOURIER, name="fourier")(log_lam)
            noise = Linear((EMBEDDING,), (None, "embed"), name="noise_in")(noise)
            noise = Linear((EMBEDDING,), (None, "embed"), name="noise_out")(nn.swish(noise))
        h = _conv(STEM, 1, self.dtype, "stem")(h)
        for g in range(GROUPS):
            for i in range((self.depth - 4) // 6):
                stride = 2 if g and not i else 1
                block = Block(self._width(g), stride, self.dtype, name=f"group{g}_block{i}")
                h = block(h, noise)
        features = jnp.mean(_norm(h, "norm"), axis=(1, 2))
        head = Linear(
            (self.num_classes,), ("embed", "classes"), kernel_init=self._head_init, name="head"
        )
        return {"features": features, "logits": head(features)}

    def _width(self, group: int) -> int:
        return 16 * 2**group * self.widen

    def _head_init(self, key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        bound = self.num_classes**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    def forward_flops(self, shape: tuple[int, ...]) -> float:
        """Returns the floating-point operations (2 x MAC) of one image of `shape` (h, w, c).

        Convolutions and the head; norms, activations and the noise embedding are left out.
        """
        h, w, channels = shape
        macs, before = h * w * 9 * channels * STEM, STEM
        for g in range(GROUPS):
            width = self._width(g)
            if g:
                h, w = -(-h // 2), -(-w // 2)
            for _ in range((self.depth - 4) // 6):
                macs += h * w * 9 * width * (before + width)
                before = width
        return 2.0 * (macs + before * self.num_classes)


def standardise(x: Array) -> Array:
    """Returns float32 images [b, h, w, c], each minus its mean over max(its std, 1/sqrt(h w c))."""
    x = x.astype(jnp.float32)
    axes = (1, 2, 3)
    centred = x - jnp.mean(x, axes, keepdims=True)
    # The gradient of a square root at 0 is infinite: the floor goes under it.
    variance = jnp.mean(centred**2, axes, keepdims=True)
    return centred / jnp.sqrt(jnp.maximum(variance, 1 / x[0].size))
