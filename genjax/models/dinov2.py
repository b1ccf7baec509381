"""DINOv2's vision transformers without registers (Oquab et al. 2023)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.core.registry import option
from genjax.core.resize import matrix
from genjax.layers.conv import NONE, Conv, kernel_init
from genjax.layers.linear import named, normal, zeros
from genjax.layers.norm import LayerNorm
from genjax.models.encoder_block import EncoderBlock

EPSILON = 1e-6
MEAN = (0.485, 0.456, 0.406)  # ImageNet's, of pixels 0..1
STD = (0.229, 0.224, 0.225)


class DINOv2(nn.Module):
    """A ViT with layer scale and a class token. The fields of ViT-L/14 are the defaults."""

    patch: int = option(14, "side of a patch in pixels")
    width: int = option(1024, "width of the tokens")
    depth: int = option(24, "blocks")
    heads: int = option(16, "attention heads")
    hidden: int = option(4096, "width inside the feed-forward layers")
    gated: bool = option(False, "SwiGLU feed-forward layers (ViT-g)")
    grid: int = option(37, "side of the learned table of positions, in patches")
    offset: float = option(
        0.1, "added to the new grid when positions are resized: 0.1 (original code), 0 (others)"
    )
    dtype: str = option("float32", "what products compute in: float32 or bfloat16")

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} must divide width {self.width}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        """Returns float32 class [b, d] and patches [b, n, d] after the last norm, and penultimate
        [b, 1 + n, d], what the last block reads.

        `x`: [b, h, w, 3] prepared by `prepare`. Raises `ValueError` for sides that patches do not
        divide.
        """
        b, h, w, _ = x.shape
        if h % self.patch or w % self.patch:
            raise ValueError(f"patches of {self.patch} do not divide {h}x{w} pixels")
        x = Conv(
            self.width,
            kernel_init,
            size=self.patch,
            strides=self.patch,
            padding=NONE,
            names=(None, "embed"),
            dtype=self.dtype,
            name="patches",
        )(x)
        shape = (1, 1 + self.grid**2, self.width)
        positions = self.param("positions", named(normal(0.02), (None, None, "embed")), shape)
        first = self.param("class", named(normal(1e-6), ("embed",)), shape[-1:], jnp.float32)
        # What masked patches are replaced by in training; files hold it, features do not use it.
        self.param("mask", named(zeros, ("embed",)), shape[-1:], jnp.float32)
        first = jnp.broadcast_to(first.astype(x.dtype), (b, 1, self.width))
        x = jnp.concatenate([first, x.reshape(b, -1, self.width)], axis=1)
        x = x + self._positions(positions, h // self.patch, w // self.patch).astype(x.dtype)
        before = x
        for i in range(self.depth):
            before = x
            x = EncoderBlock(
                self.heads,
                self.hidden,
                EPSILON,
                layer_scale=True,
                gated=self.gated,
                dtype=self.dtype,
                name=f"block_{i}",
            )(x)
        y = LayerNorm(EPSILON, name="norm")(x).astype(jnp.float32)
        before = before.astype(jnp.float32)
        return {"class": y[:, 0], "patches": y[:, 1:], "penultimate": before}

    def _positions(self, table: Array, rows: int, cols: int) -> Array:
        if rows == cols == self.grid:
            return table
        grid = table[0, 1:].reshape(self.grid, self.grid, -1)
        down, across = (
            jnp.asarray(matrix(self.grid, n, "bicubic", self.grid / (n + self.offset)), jnp.float32)
            for n in (rows, cols)
        )
        highest = jax.lax.Precision.HIGHEST
        grid = jnp.einsum("oh,hwc->owc", down, grid, precision=highest)
        grid = jnp.einsum("pw,owc->opc", across, grid, precision=highest)
        return jnp.concatenate([table[:, :1], grid.reshape(1, rows * cols, -1)], axis=1)


def prepare(x: Array) -> Array:
    """Returns pixels 0..255 [b, h, w, 3] as the network wants them, float32."""
    return (x.astype(jnp.float32) / 255.0 - jnp.asarray(MEAN)) / jnp.asarray(STD)


def _size(width: int, depth: int, heads: int) -> dict:
    return {"width": width, "depth": depth, "heads": heads, "hidden": 4 * width}


VARIANTS = {
    "s": _size(384, 12, 6),
    "b": _size(768, 12, 12),
    "l": _size(1024, 24, 16),
    "g": {
        **_size(1536, 40, 24),
        "hidden": 8 * math.ceil(4 * 1536 * 2 / 3 / 8),
        "gated": True,
    },
}
