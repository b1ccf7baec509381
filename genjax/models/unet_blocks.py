"""What U-Nets are made of: residual blocks with attention, resampling, the conditioning vector.

Three kinds of block, each with its published details (Score SDE, appendix H; EDM, appendix F.2):

    biggan  DDPM++, NCSN++ and EDM's versions: resampling inside the block with a 1x1 shortcut, the
            embedding added after the first convolution
    ddpm    the same without resampling; a strided convolution goes down, a repeated grid with a
            convolution up
    adm     the embedding scales and shifts the second normalisation; a resampling shortcut has no
            parameters unless channels change
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from genjax.core.arrays import Array, times
from genjax.layers import conv, resample
from genjax.layers.attention import Implementation, SelfAttention
from genjax.layers.embed import FourierFeatures, timestep_embedding
from genjax.layers.linear import Initializer, Linear, normal, xavier, zeros
from genjax.layers.norm import GroupNorm
from genjax.parallel.rules import constrain

GRID = ("batch", "height", "width", None)
KINDS = ("biggan", "ddpm", "adm")
Embedding = Literal["fourier", "sin_cos", "cos_sin"]
EMBEDDINGS = ("fourier", "sin_cos", "cos_sin")
# Factors on the skip in one of the two paths that read it.
PARTIAL_SCALES = frozenset({"skip_shortcut_scale", "skip_norm_scale"})


@dataclasses.dataclass(frozen=True)
class Style:
    """What all blocks of one network share; the fields are those of `models.unet.UNet`.

    `dropout` is the rate in force: 0 outside training.
    """

    kind: str
    taps: tuple[int, ...]
    rescale: bool
    group_channels: int
    heads: int
    head_channels: int
    init_scale: float
    dropout: float
    attention: Implementation
    dtype: str

    @property
    def is_adm(self) -> bool:
        return self.kind == "adm"

    def join(self, x: Array, h: Array) -> Array:
        """Returns x + h, over sqrt(2) where the network rescales its sums."""
        return (x + h) * jnp.asarray(math.sqrt(0.5), x.dtype) if self.rescale else x + h

    def heads_of(self, channels: int) -> int:
        """Returns the attention heads at this width; raises `ValueError` if they do not fit."""
        heads = channels // self.head_channels if self.head_channels else self.heads
        if not heads or channels % heads:
            raise ValueError(f"{heads} attention heads do not divide {channels} channels")
        return heads

    def norm(self, x: Array, name: str) -> Array:
        """Returns the group normalisation of x, float32; it must be called in a compact method."""
        groups = min(32, x.shape[-1] // self.group_channels)
        return GroupNorm(groups, 1e-5 if self.is_adm else 1e-6, name=name)(x)

    def init(self, fan_in: int, fan_out: int, scale: float = 1.0) -> Initializer:
        """Returns the initialiser of weights: `scale` times Xavier's, or PyTorch's for "adm"."""
        if scale == 0:
            return zeros
        base = uniform(fan_in) if self.is_adm else xavier(fan_in, fan_out)
        return lambda key, shape, dtype=jnp.float32: scale * base(key, shape, dtype)

    def bias_init(self, fan_in: int, scale: float = 1.0) -> Initializer:
        return uniform(fan_in) if self.is_adm and scale else zeros

    def conv(self, features: int, inputs: int, *, scale: float = 1.0, size: int = 3, **fields):
        """Returns the convolution of `inputs` channels with this network's initial weights."""
        fan = size * size * inputs
        return conv.Conv(
            features,
            self.init(fan, size * size * features, scale),
            self.bias_init(fan, scale),
            size=size,
            padding=fields.pop("padding", conv.SAME if size == 3 else conv.NONE),
            dtype=fields.pop("dtype", self.dtype),
            **fields,
        )

    def linear(self, features: tuple[int, ...], inputs: int, names, **fields) -> Linear:
        """Returns a float32 linear map with this network's initial weights."""
        return Linear(
            features,
            names,
            kernel_init=fields.pop("kernel_init", self.init(inputs, math.prod(features))),
            bias_init=self.bias_init(inputs),
            **fields,
        )


def uniform(fan_in: int) -> Initializer:
    """Returns U(-a, a), a = fan_in^-1/2: PyTorch's default for weights and biases."""
    return xavier(3 * fan_in, 3 * fan_in)  # sqrt(6 / 6 fan_in)


@dataclasses.dataclass(frozen=True)
class Shape:
    """What must agree for blocks to be run by one scan.

    `inputs`, `skip`: channels of what arrives and of the skip that is concatenated to it (0:
    none); `resample`: "down", "up" or "none".
    """

    inputs: int
    skip: int
    features: int
    resample: str
    attention: bool


class Block(nn.Module):
    """A residual block and, if its shape says so, self-attention over all pixels.

    x: [b, h, w, c]; `each`: what differs along a scan: "skip" [b, h, w, s], concatenated to x,
    "skip_shortcut_scale" and "skip_norm_scale", factors on its channels where the shortcut reads
    them and after the first normalisation, and "active" [1 or 2], one number for the residual
    branch and one for the attention: where it is not above 0 the branch counts as 0; emb: float32
    [b, d]. Returns (x, x if `keep` else None).
    """

    shape: Shape
    style: Style
    keep: bool

    @nn.compact
    def __call__(self, x: Array, each: Mapping[str, Array], emb: Array):
        style, active = self.style, each.get("active")
        if "skip" in each:
            x = jnp.concatenate([x, each["skip"]], axis=-1)
        shortcut = self._shortcut(self._scaled(x, each.get("skip_shortcut_scale")))
        scale = each.get("skip_norm_scale")
        x = style.join(shortcut, self._branch(Block._residual, active, 0, shortcut, x, emb, scale))
        if self.shape.attention:
            x = style.join(x, self._branch(Block._attend, active, 1, x, x, emb))
        x = constrain(x, GRID)
        return x, x if self.keep else None

    def _branch(self, branch, active: Array | None, i: int, like: Array, *args):
        if active is None:
            return branch(self, *args)
        return nn.cond(active[i] > 0, branch, lambda *_: jnp.zeros_like(like), self, *args)

    def _scaled(self, x: Array, scale: Array | None) -> Array:
        """Returns x with the skip's channels, its last, times `scale`."""
        if scale is None:
            return x
        is_skip = jnp.arange(x.shape[-1]) >= x.shape[-1] - self.shape.skip
        return times(x, jnp.where(is_skip, scale, 1.0))

    def _shortcut(self, x: Array) -> Array:
        shape = self.shape
        x, inputs = self._resample(x), x.shape[-1]
        if shape.features == inputs and (self.style.is_adm or shape.resample == "none"):
            return x
        # DDPM's shortcut is one of its per-pixel dense layers, which start at a tenth.
        scale = math.sqrt(0.1) if self.style.kind == "ddpm" else 1.0
        return self.style.conv(shape.features, inputs, size=1, scale=scale, name="skip")(x)

    def _resample(self, x: Array) -> Array:
        if self.shape.resample == "none":
            return x
        down = self.shape.resample == "down"
        return (resample.downsample if down else resample.upsample)(x, self.style.taps)

    def _residual(self, x: Array, emb: Array, skip_scale: Array | None) -> Array:
        style, features, d = self.style, self.shape.features, emb.shape[-1]
        h = nn.silu(self._scaled(style.norm(x, "norm0"), skip_scale)).astype(style.dtype)
        h = style.conv(features, x.shape[-1], name="conv0")(self._resample(h))
        if style.is_adm:
            affine = style.linear((2, features), d, ("embed", None, "channels"), name="affine")(emb)
            scale, shift = affine[:, None, None, 0], affine[:, None, None, 1]
            h = style.norm(h, "norm1") * (1 + scale) + shift
        else:
            affine = style.linear((features,), d, ("embed", "channels"), name="affine")(emb)
            h = style.norm(h + affine[:, None, None].astype(h.dtype), "norm1")
        h = nn.silu(h).astype(style.dtype)
        h = nn.Dropout(style.dropout, deterministic=not style.dropout)(h)
        return style.conv(features, features, scale=style.init_scale, name="conv1")(h)

    def _attend(self, x: Array, emb: Array) -> Array:
        style = self.style
        b, height, width, c = x.shape
        tokens = style.norm(x, "norm2").astype(style.dtype).reshape(b, height * width, c)
        # Query, key and value start at a tenth in Score SDE: 0.2 of a fused matrix's variance.
        scale = 1.0 if style.is_adm else math.sqrt(0.2)
        h = SelfAttention(
            style.heads_of(c),
            implementation=style.attention,
            qkv_init=style.init(c, 3 * c, scale),
            qkv_bias_init=style.bias_init(c),
            out_init=style.init(c, c, style.init_scale),
            dtype=style.dtype,
            name="attention",
        )(tokens)
        return h.reshape(x.shape)


class ResampleConv(nn.Module):
    """A 3x3 convolution that halves or doubles the sides: [b, h, w, c] -> [b, h', w', features].

    With a longer filter it is fused with it. With the box filter "down" is a strided convolution
    that pads below and to the right, and "up" a convolution of the repeated grid; `filtered` has
    the box average too.
    """

    features: int
    style: Style
    resample: str
    filtered: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        style, taps = self.style, self.style.taps
        fields = {}
        if self.resample == "up":
            fields["apply_kernel"] = lambda x, w: resample.conv_then_filter(x, w, taps)
        elif self.filtered or taps != resample.BOX:
            fields["apply_kernel"] = lambda x, w: resample.filter_then_conv(x, w, taps)
        else:
            fields |= {"strides": 2, "padding": conv.DOWN}
        names = (None if x.shape[-1] < 16 else "embed", "channels")
        made = style.conv(self.features, x.shape[-1], names=names, name="conv", **fields)
        return constrain(made(x), GRID)


class Conditioning(nn.Module):
    """What modulates the blocks: SiLU of the embedded time, label and augmentation, [b, width].

    time: float32 [b]; label: int32 [b] or None; augment: float32 [b, n] or None (which equals
    zeros). A label outside [0, num_classes) is the zero row: no label. All float32.
    """

    style: Style
    embedding: Embedding
    features: int
    width: int
    num_classes: int
    augment: int

    @nn.compact
    def __call__(self, time: Array, label: Array | None, augment: Array | None) -> Array:
        style, n = self.style, self.features
        if self.embedding == "fourier":
            h = FourierFeatures(n, name="fourier")(time)
        else:
            spacing = "half" if self.embedding == "cos_sin" else "half_minus_one"
            h = timestep_embedding(time, n, order=self.embedding, denominator=spacing)
        if self.augment:
            if augment is None:
                augment = jnp.zeros((time.shape[0], self.augment))
            start = zeros if style.is_adm else style.init(self.augment, n)
            make = Linear((n,), (None, "embed"), kernel_init=start, use_bias=False, name="augment")
            h = h + make(augment.astype(jnp.float32))
        if self.num_classes and not style.is_adm:
            rows = nn.one_hot(label, self.num_classes) * math.sqrt(self.num_classes)
            names = ("classes", "embed")
            h = h + style.linear((n,), self.num_classes, names, name="label")(rows)
        h = nn.silu(style.linear((self.width,), n, (None, "embed"), name="in")(h))
        h = style.linear((self.width,), self.width, (None, "embed"), name="out")(h)
        if self.num_classes and style.is_adm:
            rows = nn.one_hot(label, self.num_classes)
            names = ("classes", "embed")
            h = h + Linear(
                (self.width,), names, kernel_init=normal(1.0), use_bias=False, name="label"
            )(rows)
        return nn.silu(h)


class Head(nn.Module):
    """Normalisation, SiLU and a float32 convolution to the pixels' (or a pyramid's) channels."""

    features: int
    style: Style
    scale: float
    pixels: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = nn.silu(self.style.norm(x, "norm"))
        names = ("embed", None if self.pixels else "channels")
        dtype = "float32" if self.pixels else self.style.dtype
        return self.style.conv(
            self.features, x.shape[-1], scale=self.scale, names=names, dtype=dtype, name="conv"
        )(h)
