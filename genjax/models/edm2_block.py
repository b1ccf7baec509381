"""The residual block of EDM2's U-Net, and the order in which the U-Net lines blocks up."""

import dataclasses
import itertools
from collections.abc import Iterator

import flax.linen as nn
import jax.numpy as jnp

from genjax.core.arrays import Array, times
from genjax.layers.attention import Implementation, attention
from genjax.layers.conv import upsample
from genjax.layers.linear import named, zeros
from genjax.layers.magnitude import MPConv, MPLinear, mp_cat, mp_silu, mp_sum, normalize
from genjax.parallel.rules import constrain

_BALANCE = 0.3  # share of the residual branch in the sum
_CLIP = 256.0  # activations are clipped to +- this


@dataclasses.dataclass(frozen=True)
class Shape:
    """What must agree for blocks to be run by one scan.

    `inputs`, `skips`: channels of the running activation and of the skip that joins it (0: none);
    `resample`: "down", "up" or "keep"; `decoder`: no pixel norm, and its 1x1 map comes last.
    """

    inputs: int
    skips: int
    out: int
    resample: str
    attention: bool
    decoder: bool


@dataclasses.dataclass(frozen=True)
class Run:
    """Consecutive blocks of equal shape at level `level` (side / 2^level); scanned if several."""

    shape: Shape
    level: int
    names: tuple[str, ...]

    @property
    def units(self) -> int:
        """Branches of a block that can be left out: the residual one, and attention."""
        return 1 + self.shape.attention

    @property
    def name(self) -> str:
        """The name of the run's parameters: the block's, or "first_to_last-number"."""
        first, last = self.names[0], self.names[-1]
        return first if first == last else f"{first}_to_{last.partition('block')[2]}"


def line_up(widths: tuple[int, ...], blocks: int, levels: tuple[int, ...]) -> tuple[Run, ...]:
    """Returns all runs in the order in which they are computed.

    `widths`: channels of each level; `blocks`: encoder blocks a level (the decoder has one more);
    `levels`: those whose blocks have attention. The encoder's runs come first; every one of its
    blocks, after the input convolution, leaves a skip, and decoder blocks take them from the last.
    """
    whole = itertools.chain(_encoder(widths, blocks, levels), _decoder(widths, blocks, levels))
    grouped = itertools.groupby(whole, key=lambda block: (block[1], block[2]))
    return tuple(
        Run(shape, level, tuple(name for name, _, _ in group)) for (shape, level), group in grouped
    )


def _encoder(widths, blocks, levels) -> Iterator[tuple[str, Shape, int]]:
    x = widths[0]
    for level, width in enumerate(widths):
        if level:
            yield f"enc{level}_down", Shape(x, 0, x, "down", False, False), level
        for i in range(blocks):
            yield f"enc{level}_block{i}", Shape(x, 0, width, "keep", level in levels, False), level
            x = width


def _decoder(widths, blocks, levels) -> Iterator[tuple[str, Shape, int]]:
    x = widths[-1]
    for level in reversed(range(len(widths))):
        if level == len(widths) - 1:
            yield f"dec{level}_in0", Shape(x, 0, x, "keep", True, True), level
            yield f"dec{level}_in1", Shape(x, 0, x, "keep", False, True), level
        else:
            yield f"dec{level}_up", Shape(x, 0, x, "up", False, True), level
        width = widths[level]
        for i in range(blocks + 1):
            # The last block of a level joins what the level above (or the input) left.
            skips = width if i < blocks else widths[max(level - 1, 0)]
            shape = Shape(x, skips, width, "keep", level in levels, True)
            yield f"dec{level}_block{i}", shape, level
            x = width


class Block(nn.Module):
    """x resampled and joined by its skip, plus a modulated residual branch, plus attention.

    x: [b, h, w, c]; `each`: what differs in a run: "skip" [b, h, w, s], "scale" (a scalar factor
    of the skip) and "active" [1 or 2], for the residual branch and for attention: at 0 or below, a
    branch is left out (of the first, x's own path stays: resampling, joining and the change of
    channels); emb: float32 [b, d]. Returns (x, x if `keep` else None).
    """

    shape: Shape
    head_channels: int
    dropout: float
    train: bool
    attention: Implementation
    dtype: str
    keep: bool

    @nn.compact
    def __call__(self, x: Array, each: dict[str, Array], emb: Array) -> tuple[Array, Array | None]:
        shape = self.shape
        if "skip" in each:
            skip = each["skip"]
            if "scale" in each:
                skip = times(skip, each["scale"])
            x = mp_cat(x, skip)
        x = _resample(x, shape.resample)
        path = x
        if shape.out != x.shape[-1]:
            path = MPLinear(shape.out, (None, "channels"), self.dtype, name="skip")(x)
        if not shape.decoder:
            x = path = normalize(path)
        y = self._if(each, 0, Block._residual, path, x, emb)
        if shape.attention:
            y = self._if(each, 1, Block._attend, y)
        y = constrain(jnp.clip(y, -_CLIP, _CLIP), ("batch", "height", "width", None))
        return y, y if self.keep else None

    def _if(self, each: dict[str, Array], i: int, branch, x: Array, *args) -> Array:
        """Returns the branch's sum with x, or x where the branch is left out."""
        if "active" not in each:
            return branch(self, x, *args)
        return nn.cond(each["active"][i] > 0, branch, lambda _, x, *args: x, self, x, *args)

    def _residual(self, path: Array, x: Array, emb: Array) -> Array:
        out = self.shape.out
        y = MPConv(out, dtype=self.dtype, name="conv0")(mp_silu(x))
        gain = self.param("emb_gain", named(zeros, ()), (), jnp.float32)
        c = 1 + MPLinear(out, (None, "channels"), self.dtype, name="emb")(emb, gain)
        y = mp_silu(y * c[:, None, None])
        y = nn.Dropout(self.dropout, deterministic=not self.train)(y)
        y = MPConv(out, dtype=self.dtype, name="conv1")(y)
        return mp_sum(path, y, _BALANCE)

    def _attend(self, x: Array) -> Array:
        b, h, w, c = x.shape
        heads = c // self.head_channels
        qkv = MPLinear(3 * c, (None, "heads"), self.dtype, name="qkv")(x.reshape(b, h * w, c))
        qkv = normalize(qkv.reshape(b, h * w, heads, self.head_channels, 3), axis=-2)
        q, k, v = (qkv[..., i] for i in range(3))
        y = attention(q, k, v, implementation=self.attention).reshape(b, h * w, c)
        y = MPLinear(c, ("heads", None), self.dtype, name="proj")(y).reshape(b, h, w, c)
        return mp_sum(x, y, _BALANCE)


def _resample(x: Array, how: str) -> Array:
    """Returns x at half the side (means of 2 x 2), at twice (each pixel four times), or as is."""
    if how == "down":
        b, h, w, c = x.shape
        means = x.reshape(b, h // 2, 2, w // 2, 2, c).astype(jnp.float32).mean((2, 4))
        return means.astype(x.dtype)
    return upsample(x) if how == "up" else x


def flops(run: Run, emb: int, pixels: int) -> float:
    """Returns the multiply-accumulates of a run, an image, whose output has `pixels` pixels."""
    shape, c = run.shape, run.shape.out
    joined = shape.inputs + shape.skips
    each = pixels * 9 * c * (joined if shape.decoder else c) + pixels * 9 * c * c + emb * c
    each += pixels * joined * c if joined != c else 0
    if shape.attention:
        each += 4 * pixels * c * c + 2 * pixels**2 * c
    return float(len(run.names) * each)


def check_heads(runs: tuple[Run, ...], head_channels: int) -> None:
    """Raises `ValueError` where the channels of attention are not whole heads."""
    for run in runs:
        if run.shape.attention and run.shape.out % head_channels:
            raise ValueError(
                f"head_channels: heads of {head_channels} channels do not divide the "
                f"{run.shape.out} channels of {run.names[0]}, which has attention"
            )
