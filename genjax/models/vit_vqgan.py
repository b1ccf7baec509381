"""ViT-VQGAN (Yu et al. 2022, arXiv 2110.04627): images to a grid of codes and back.

Encoder and decoder are plain pre-norm vision transformers on patches, each ended by a head of
Linear, tanh, Linear; between them stands a quantiser. The published sizes S, B and L are pairs
encoder-decoder in `VARIANTS`. Parti (arXiv 2206.10789) keeps it all but the logit-Laplace head.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.core.registry import choice, option
from genjax.core.types import pytree
from genjax.layers import remat as remat_policies
from genjax.layers.attention import IMPLEMENTATIONS, Implementation, SelfAttention
from genjax.layers.embed import patchify, unpatchify
from genjax.layers.linear import Linear, named, normal
from genjax.layers.mlp import Mlp
from genjax.layers.norm import LayerNorm
from genjax.models.quantizers import QUANTIZERS, Quantized
from genjax.parallel.rules import constrain, gather

HEADS = ("rgb", "logit_laplace")
_LOG_SCALE = 7.0  # ln b is kept within +-7, or one perfect pixel would draw it to -infinity
_TOKENS = ("batch", "seq", None)


@dataclasses.dataclass(frozen=True)
class Tower:
    """The size of an encoder or decoder (table 2)."""

    depth: int = option(8, "number of blocks")
    heads: int = option(8, "attention heads; they divide width")
    width: int = option(512, "channels of a token")
    hidden: int = option(2048, "hidden channels of a block's MLP and of the head")

    def __post_init__(self):
        if min(self.depth, self.heads, self.width, self.hidden) < 1 or self.width % self.heads:
            raise ValueError(f"heads: {self.heads} heads do not divide width {self.width}")

    def macs(self, tokens: int, ends: int) -> int:
        """Returns the multiply-accumulates of all products; `ends`: channels in and out."""
        d, f, l = self.width, self.hidden, tokens
        blocks = self.depth * (l * (4 * d * d + 2 * d * f) + 2 * l * l * d)
        return blocks + l * d * f + l * ends


_SIZES = {
    "S": {"depth": 8, "heads": 8, "width": 512, "hidden": 2048},
    "B": {"depth": 12, "heads": 12, "width": 768, "hidden": 3072},
    "L": {"depth": 32, "heads": 16, "width": 1280, "hidden": 5120},
}
VARIANTS: dict[str, dict[str, Any]] = {
    e + d: {"encoder_size": _SIZES[e], "decoder_size": _SIZES[d]} for e in _SIZES for d in _SIZES
}


@pytree
class Coded:
    """An image through the tokenizer: `image` [b, h, w, c] is the reconstruction, unclipped.

    `raw` [b, h, w, c or 2c]: what the decoder says, mu and ln b under logit_laplace; `quantized`:
    codes [b, l] with their losses.
    """

    image: Array
    raw: Array
    quantized: Quantized


class Block(nn.Module):
    """x + Attention(LN(x)), then the same with the MLP: the body of the scan over depth."""

    heads: int
    hidden: int
    attention: Implementation
    dtype: str

    @nn.compact
    def __call__(self, x: Array, _: None) -> tuple[Array, None]:
        h = LayerNorm(name="norm1")(x)
        attend = SelfAttention(
            self.heads, implementation=self.attention, dtype=self.dtype, name="attention"
        )
        x = x + attend(h)
        h = LayerNorm(name="norm2")(x)
        x = x + Mlp(self.hidden, dtype=self.dtype, name="mlp")(h)
        return constrain(x, _TOKENS), None


class Tokens(nn.Module):
    """Tokens [b, rows cols, n] -> [b, rows cols, out]: one transformer with its two ends.

    Linear, positions, blocks, LayerNorm, Linear, tanh, Linear. `grid` is that of the position
    table; other grids interpolate it. Head and output are float32. `names`: logical axes of n, out.
    """

    size: Tower
    grid: tuple[int, int]
    out: int
    names: tuple[str | None, str | None]
    attention: Implementation
    remat: str
    dtype: str

    @nn.compact
    def __call__(self, tokens: Array, rows: int, cols: int) -> Array:
        size = self.size
        embed = Linear((size.width,), (self.names[0], "embed"), dtype=self.dtype, name="embed")
        h = (embed(tokens) + self._positions(rows, cols)).astype(self.dtype)
        h = constrain(h, _TOKENS)
        blocks = nn.scan(
            remat_policies.remat(Block, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast,),  # pyright: ignore[reportArgumentType]
            length=size.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(size.heads, size.hidden, self.attention, self.dtype, name="blocks")
        h = LayerNorm(name="norm")(blocks(h, None)[0])
        h = Linear((size.hidden,), ("embed", "mlp"), name="head_in")(h)
        return Linear((self.out,), ("mlp", self.names[1]), activation=jnp.tanh, name="head_out")(h)

    def _positions(self, rows: int, cols: int) -> Array:
        shape = (self.grid[0] * self.grid[1], self.size.width)
        names = (None, "embed")
        table = gather(self.param("positions", named(normal(0.02), names), shape), names)
        if (rows, cols) == tuple(self.grid):
            return table
        square = table.reshape(*self.grid, -1)
        return jax.image.resize(square, (rows, cols, shape[1]), "bilinear").reshape(-1, shape[1])


class ViTVQGAN(nn.Module):
    """ViT-VQGAN. Pairs of sizes by name in `VARIANTS`: SS, BB, SL, ... (encoder, then decoder).

    Images are [b, h, w, channels] in [0, 1] (the encoder sees 2x - 1), codes int32 [b, l] in raster
    order. Parameters are float32; blocks compute in `dtype`; heads, quantiser and output are
    float32.
    """

    encoder_size: Tower = option(Tower(), "the encoder")
    decoder_size: Tower = option(Tower(), "the decoder")
    quantizer: Any = choice(QUANTIZERS, {"name": "vq"}, "vectors to codes")
    patch: int = option(8, "side of a square patch, in pixels")
    grid: tuple[int, int] = option((32, 32), "rows and columns of the codes of one image")
    channels: int = option(3, "channels of an image")
    head: str = option("rgb", "rgb (Parti) or logit_laplace, which says a scale a pixel too")
    squeeze: float = option(
        0.0, "eps: logit_laplace models (1 - 2 eps) x + eps instead of x (DALL-E: 0.1)"
    )
    attention: str = option("auto", "attention kernel: auto, plain, cudnn or splash")
    remat: str = option("none", "what blocks recompute in the backward pass: none, full, dots, ...")
    dtype: str = option("float32", "of the blocks' products: float32 or bfloat16")

    def __post_init__(self):
        if self.head not in HEADS:
            raise ValueError(f"head: {self.head!r} is none of {', '.join(HEADS)}")
        if not 0 <= self.squeeze < 0.5:
            raise ValueError(f"squeeze must lie in [0, 0.5), not {self.squeeze}")
        if self.squeeze and self.head == "rgb":
            raise ValueError("squeeze: the rgb head is not squeezed; set it to 0")
        if self.attention not in IMPLEMENTATIONS:
            raise ValueError(f"attention: {self.attention!r} is none of {IMPLEMENTATIONS}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype: {self.dtype!r} is neither float32 nor bfloat16")
        if min(self.patch, self.channels, *self.grid) < 1:
            raise ValueError("patch, channels and both sides of grid are at least 1")
        remat_policies.check(self.remat)
        super().__post_init__()

    def setup(self):
        common: tuple[Any, str, str] = (self.attention, self.remat, self.dtype)
        self.encoder = Tokens(  # pyright: ignore[reportArgumentType]
            self.encoder_size, self.grid, self.quantizer.dim, ("patch", None), *common
        )
        self.decoder = Tokens(self.decoder_size, self.grid, self._out, (None, "patch"), *common)  # pyright: ignore[reportArgumentType]

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width and channels of the images that `grid` covers."""
        return (self.grid[0] * self.patch, self.grid[1] * self.patch, self.channels)

    @property
    def length(self) -> int:
        """Codes of an image, l."""
        return self.grid[0] * self.grid[1]

    @property
    def _out(self) -> int:
        return self.patch**2 * self.channels * (2 if self.head == "logit_laplace" else 1)

    def __call__(self, x: Array) -> Coded:
        """Returns the reconstruction of x [b, h, w, c] in [0, 1], through the codes."""
        grid = self._grid_of(x)
        quantized = self.quantizer(self.features(x))
        raw = self._raw(quantized.z_q, grid)
        return Coded(self._picture(raw), raw, quantized)

    def features(self, x: Array) -> Array:
        """Returns what is quantised, float32 [b, l, dim]; raises `ValueError` for odd sizes."""
        rows, cols = self._grid_of(x)
        tokens = patchify(2.0 * x.astype(jnp.float32) - 1.0, self.patch)
        return self.encoder(tokens, rows, cols)

    def encode(self, x: Array) -> Array:
        """Returns the codes [b, l], int32, of images [b, h, w, c] in [0, 1]."""
        return self.quantizer(self.features(x)).index

    def decode(self, index: Array, grid: tuple[int, int] | None = None) -> Array:
        """Returns images [b, h, w, c] in [0, 1] of codes [b, l], l the cells of `grid`."""
        raw = self._raw(self.quantizer.lookup(index), grid or self.grid)
        return jnp.clip(self._picture(raw), 0.0, 1.0)

    def _raw(self, z_q: Array, grid: tuple[int, int]) -> Array:
        return unpatchify(self.decoder(z_q, *grid), self.patch, *grid)

    def _picture(self, raw: Array) -> Array:
        if self.head == "rgb":
            return raw
        x = jax.nn.sigmoid(self.distribution(raw)[0])
        return (x - self.squeeze) / (1.0 - 2.0 * self.squeeze)

    def distribution(self, raw: Array) -> tuple[Array, Array]:
        """Returns (mu, ln b), each [b, h, w, c], of `Coded.raw` under the logit-Laplace head."""
        mu, log_b = jnp.split(raw, 2, axis=-1)
        return mu, jnp.clip(log_b, -_LOG_SCALE, _LOG_SCALE)

    def _grid_of(self, x: Array) -> tuple[int, int]:
        _, height, width, channels = x.shape
        if height % self.patch or width % self.patch or channels != self.channels:
            raise ValueError(
                f"images of {x.shape[1:]} do not fit: sides must be multiples of patch "
                f"{self.patch}, with {self.channels} channels"
            )
        return height // self.patch, width // self.patch

    def forward_flops(self, shape: Sequence[int]) -> float:
        """Returns the operations (2 x multiply-accumulates) of one image [h, w, c], both ways."""
        pixels, code = self.patch**2 * self.channels, self.quantizer.dim
        l = (shape[0] // self.patch) * (shape[1] // self.patch)
        encoder, decoder = self.encoder_size, self.decoder_size
        inwards = encoder.macs(l, pixels * encoder.width + encoder.hidden * code)
        outwards = decoder.macs(l, code * decoder.width + decoder.hidden * self._out)
        lookup = l * self.quantizer.size * code if hasattr(self.quantizer, "revived") else 0
        return 2.0 * (inwards + outwards + lookup)
