"""The U-Net of DDPM, DDPM++, NCSN++, EDM and ADM: one skeleton, the papers are its options.

Song et al. 2021 (appendix H), Karras et al. 2022 (appendix F.2), Dhariwal and Nichol 2021. An
encoder keeps what every block leaves; the decoder concatenates it, last first. Sizes by name in
`VARIANTS`. Score SDE's networks for VE divide their output by sigma: that is no part of this
network, whose output is minus the noise there (precond `eps` with `negative`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array, times
from genjax.core.registry import option
from genjax.layers import remat as remat_policies
from genjax.layers import resample
from genjax.layers.attention import IMPLEMENTATIONS
from genjax.models.unet_blocks import (
    EMBEDDINGS,
    GRID,
    KINDS,
    PARTIAL_SCALES,
    Block,
    Conditioning,
    Head,
    ResampleConv,
    Style,
)
from genjax.models.unet_flops import forward_flops
from genjax.models.unet_plan import Run, line_up
from genjax.models.unet_variants import VARIANTS as VARIANTS
from genjax.parallel.rules import constrain

_PYRAMIDS = ("none", "skip", "residual")
_NUMBERED = ("enc", "skip", "backbone", "dec")


class UNet(nn.Module):
    """U-Net with residual blocks and attention. The default fields are DDPM++ (`ddpmpp`).

    Parameters are float32; convolutions and products run in `dtype`; embeddings, norms'
    statistics, softmax, the last convolution and the output are float32. Fourier frequencies stand
    among the parameters and get no gradient: under weight decay, freeze them.
    """

    channels: int = option(128, "channels of the first level")
    channel_mult: tuple[int, ...] = option((1, 2, 2, 2), "channels of each level over `channels`")
    blocks: int = option(4, "encoder blocks a level; the decoder has one more")
    block: str = option("biggan", "kind of block: biggan, ddpm or adm")
    attention: tuple[int, ...] = option((16,), "heights, in pixels, at which blocks attend")
    decoder_attention: str = option(
        "last", "which decoder blocks of such a level attend: last, all"
    )
    heads: int = option(1, "attention heads, where head_channels is 0")
    head_channels: int = option(0, "channels of an attention head; 0: `heads` heads")
    group_channels: int = option(4, "fewest channels of a group of a normalisation (32 groups)")
    resample_filter: tuple[int, ...] = option((1, 1), "taps; (1, 1): box, (1, 3, 3, 1): FIR")
    skip_rescale: bool = option(True, "divide sums of branches by sqrt(2)")
    progressive_input: str = option("none", "image pyramid into the encoder: none, skip, residual")
    progressive_output: str = option("none", "pyramid out of the decoder: none, skip, residual")
    combine: str = option("sum", "how the input pyramid's skip joins: sum, cat")
    embedding: str = option(
        "sin_cos",
        "of the time: fourier (fixed random frequencies), sin_cos (sines first, end point "
        "included), cos_sin (cosines first, end point left out)",
    )
    noise_mult: int = option(1, "features of the time over `channels` (fourier: 2)")
    emb_mult: int = option(4, "width of the conditioning vector over `channels`")
    num_classes: int = option(0, "labels; 0: unconditional")
    augment: int = option(0, "augmentation labels (EDM: 9); 0: none")
    init_scale: float = option(1e-5, "factor on initial weights that end a branch (ADM: 0)")
    dropout: float = option(0.0, "dropout rate inside residual branches")
    center: bool = option(False, "map the input to 2x - 1 first (data in [0, 1])")
    attention_kernel: str = option("auto", "attention kernel: auto, plain, cudnn or splash")
    remat: str = option("none", "what blocks recompute in the backward pass: none, full, dots, ...")
    unroll: int = option(0, "blocks a scan inside a level runs at once; 0: all on a CPU, else one")
    dtype: str = option("float32", "of convolutions and products: float32 or bfloat16")

    def __post_init__(self):
        for key, legal in {
            "block": KINDS,
            "decoder_attention": ("last", "all"),
            "progressive_input": _PYRAMIDS,
            "progressive_output": _PYRAMIDS,
            "combine": ("sum", "cat"),
            "embedding": EMBEDDINGS,
            "attention_kernel": IMPLEMENTATIONS,
            "dtype": ("float32", "bfloat16"),
        }.items():
            if getattr(self, key) not in legal:
                raise ValueError(f"{key}: {getattr(self, key)!r} is none of {', '.join(legal)}")
        least = (self.channels, self.blocks, self.heads, self.group_channels)
        if min(*least, self.noise_mult, self.emb_mult, *self.channel_mult, 1) < 1:
            raise ValueError(
                "channels, channel_mult, blocks, heads, group_channels, noise_mult and emb_mult "
                "are at least 1"
            )
        counts = (self.num_classes, self.augment, self.head_channels, self.unroll)
        if not self.channel_mult or min(counts) < 0:
            raise ValueError(
                "channel_mult names at least one level; num_classes, augment, head_channels and "
                "unroll are at least 0"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: {self.dropout} does not lie in [0, 1)")
        if self.channels * self.noise_mult % 2:
            raise ValueError("channels * noise_mult must be even: sines and cosines of the time")
        widths = [self.channels * m for m in self.channel_mult]
        heads = widths[-1] // self.head_channels if self.head_channels else self.heads
        if not heads or widths[-1] % heads:
            raise ValueError(
                f"heads, head_channels: {heads} heads do not divide the {widths[-1]} channels of "
                "the last level, which attends"
            )
        if self.group_channels > min(widths):
            raise ValueError(f"group_channels: a level has fewer than {self.group_channels}")
        resample.check(self.resample_filter)
        remat_policies.check(self.remat)
        super().__post_init__()

    @property
    def null_label(self) -> bool:
        """Every conditional U-Net knows "no label": the zero row, at `num_classes`."""
        return self.num_classes > 0

    @property
    def num_skips(self) -> int:
        """The length of `skip_scale`: the input and every encoder block leave a skip."""
        return len(self.channel_mult) * (self.blocks + 1)

    @property
    def skip_scales(self) -> tuple[str, ...]:
        """The names of the inputs that scale skips, see `__call__`."""
        return ("skip_scale", *sorted(PARTIAL_SCALES))

    def num_blocks(self, shape: Sequence[int]) -> int:
        """Returns the length of `block_mask` for images [h, w, c]."""
        return len(self.unit_names(shape[0]))

    def filter_kernel(self) -> np.ndarray:
        """Returns the resampling filter in two dimensions, float32 [n, n], with sum 1."""
        return resample.kernel(tuple(self.resample_filter))

    def runs(self, height: int) -> tuple[Run, ...]:
        """Returns all blocks for images of this height, in the order of computation."""
        levels = range(len(self.channel_mult))
        return line_up(
            self.channels,
            self.channel_mult,
            self.blocks,
            [height >> level in self.attention for level in levels],
            decoder_all=self.decoder_attention == "all",
            doubled=self.combine == "cat" and self.progressive_input == "skip",
        )

    def unit_names(self, height: int) -> tuple[str, ...]:
        """Returns the order of `block_mask`: residual branches and attentions, as computed.

        The up- and down-convolutions between levels of the kind "ddpm" cannot be masked.
        """
        out = []
        for run in self.runs(height):
            if not self._is_conv(run):
                for name in run.names:
                    out += [name, f"{name}_attention"][: run.units]
        return tuple(out)

    @nn.compact
    def __call__(
        self,
        x: Array,
        time: Array,
        cond: Mapping[str, Array] | Array | None = None,
        *,
        train: bool = False,
        inputs: Mapping[str, Array] | None = None,
        features: Sequence[str] = (),
    ):
        """Returns float32 [b, h, w, C].

        x: [b, h, w, C]; time: [b], what the embedding sees; cond: {"label": int32 [b], "augment":
        float32 [b, augment]}, each optional, the labels alone, or None. `train` turns dropout on.
        inputs: "skip_scale" [num_skips], a factor on every skip before its concatenation, in the
        order of the encoder (first the input's); "skip_shortcut_scale", "skip_norm_scale", the
        same for the skip's part of the block's shortcut alone, and of its first normalisation's
        output alone; "block_mask" [n], in the order of `unit_names`:
        a branch whose entry is not above 0 is not computed and counts as 0, so that its block
        keeps its shortcut (with resampling and 1x1 convolution), an attention its input.
        features: "enc_i", what the encoder leaves (from 0, the input's first), "skip_i", the same
        as the decoder concatenates it (scaled), "backbone_i", what it is concatenated to, "mid",
        what leaves the bottom blocks, "dec_i", what leaves the decoder's block i; then returns
        (output, {name: [b, h', w', c]}).
        Raises `ValueError` for sides that the levels do not divide and unknown features.
        """
        b, height, width, channels = x.shape
        self._check(height, width, features)
        inputs, style = inputs or {}, self._style(train)
        emb = self._embed(style, jnp.asarray(time, jnp.float32), cond, b)
        pyramid = x.astype(jnp.float32)
        pyramid = constrain((2 * pyramid - 1 if self.center else pyramid).astype(self.dtype), GRID)
        h = style.conv(self.channels, channels, names=(None, "channels"), name="in")(pyramid)

        skips, masks, found = [h], inputs.get("block_mask"), {"enc_0": h}
        scales, outputs, done, image = inputs.get("skip_scale"), 0, 0, None
        runs = self.runs(height)
        for run, following in zip(runs, (*runs[1:], None)):
            each = {}
            if run.shape.skip:
                taken = [skips.pop() for _ in run.names]
                last = len(skips) + len(taken) - 1
                if scales is not None:
                    taken = [times(s, scales[last - i]) for i, s in enumerate(taken)]
                found |= {f"skip_{last - i}": s for i, s in enumerate(taken)}
                each["skip"] = jnp.stack(taken)
                for key in PARTIAL_SCALES & set(inputs):
                    each[key] = jnp.asarray(inputs[key])[len(skips) : last + 1][::-1]
            if masks is not None and not self._is_conv(run):
                n = len(run.names) * run.units
                each["active"] = jnp.asarray(masks)[done : done + n].reshape(-1, run.units)
                done += n
            arrived = h
            h, kept = self._run(run, style, h, each, emb, bool(features))
            if run.shape.resample == "down":
                h, pyramid = self._pyramid_in(run, style, h, pyramid)
                kept = [h]
            if run.part == "enc":
                found |= {f"enc_{len(skips) + i}": s for i, s in enumerate(kept)}
                skips += kept
            elif run.part == "mid":
                found["mid"] = h
            elif run.shape.skip:
                found |= {f"dec_{outputs + i}": s for i, s in enumerate(kept)}
                joined = zip(range(len(skips) + len(kept) - 1, -1, -1), [arrived, *kept[:-1]])
                found |= {f"backbone_{i}": s for i, s in joined}
                outputs += len(kept)
            if run.part == "dec" and (following is None or following.level != run.level):
                h, image = self._pyramid_out(run.level, style, h, image, channels)
        if self.progressive_output != "skip" or image is None:
            image = self._head(0, style, h, channels)
        out = image.astype(jnp.float32)
        return (out, {name: found[name] for name in features}) if features else out

    def _style(self, train: bool) -> Style:
        return Style(
            kind=self.block,
            taps=tuple(self.resample_filter),
            rescale=self.skip_rescale,
            group_channels=self.group_channels,
            heads=self.heads,
            head_channels=self.head_channels,
            init_scale=self.init_scale,
            dropout=self.dropout if train else 0.0,
            attention=self.attention_kernel,  # pyright: ignore[reportArgumentType]
            dtype=self.dtype,
        )

    def _embed(self, style: Style, time: Array, cond: Any, b: int) -> Array:
        given = cond if isinstance(cond, Mapping) else {"label": cond}
        label = given.get("label")
        label = self.num_classes if label is None else label
        return Conditioning(
            style,
            self.embedding,  # pyright: ignore[reportArgumentType]
            self.channels * self.noise_mult,
            self.channels * self.emb_mult,
            self.num_classes,
            self.augment,
            name="conditioning",
        )(
            jnp.broadcast_to(time, (b,)),
            jnp.broadcast_to(jnp.asarray(label, jnp.int32), (b,)) if self.num_classes else None,
            given.get("augment"),
        )

    def _is_conv(self, run: Run) -> bool:
        return self.block == "ddpm" and run.shape.resample != "none"

    def _run(self, run: Run, style: Style, h: Array, each: dict, emb: Array, wanted: bool):
        """Returns what leaves the last block of the run, and a list of what leaves each."""
        count = len(run.names)
        if self._is_conv(run):
            h = ResampleConv(run.shape.features, style, run.shape.resample, name=run.name)(h)
            return h, [h]
        at_once = remat_policies.unrolled(self.unroll, count)
        block = remat_policies.remat(Block, self.remat, scanned=at_once < count)
        if count == 1:
            single = {key: value[0] for key, value in each.items()}
            h, _ = block(run.shape, style, False, name=run.name)(h, single, emb)
            return h, [h]
        scanned = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),  # pyright: ignore[reportArgumentType]
            length=count,
            unroll=at_once,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        keep = run.part == "enc" or wanted
        h, kept = scanned(run.shape, style, keep, name=run.name)(h, each, emb)
        return h, [] if kept is None else list(kept)

    def _pyramid_in(self, run: Run, style: Style, h: Array, pyramid: Array):
        """Returns what goes on down, the image pyramid joined to it, and the pyramid."""
        features, name = h.shape[-1], f"enc{run.level}_pyramid"
        if self.progressive_input == "skip":
            pyramid = resample.downsample(pyramid, style.taps)
            joined = style.conv(
                features, pyramid.shape[-1], size=1, names=(None, "channels"), name=name
            )(pyramid)
            h = joined + h if self.combine == "sum" else jnp.concatenate([joined, h], axis=-1)
        elif self.progressive_input == "residual":
            made = ResampleConv(features, style, "down", filtered=True, name=name)(pyramid)
            h = pyramid = style.join(made, h)
        return constrain(h, GRID), pyramid

    def _pyramid_out(self, level: int, style: Style, h: Array, image: Array | None, channels: int):
        """Returns what goes on up, and the output's pyramid, at the end of a decoder's level."""
        if self.progressive_output == "skip":
            head = self._head(level, style, h, channels)
            if image is not None:
                head = head + resample.upsample(image, style.taps)
            return h, head
        if self.progressive_output == "residual":
            name = f"dec{level}_pyramid"
            if image is None:
                return h, Head(h.shape[-1], style, 1.0, pixels=False, name=name)(h)
            made = ResampleConv(h.shape[-1], style, "up", name=name)(image)
            h = style.join(made, h)
            return h, h
        return h, None

    def _head(self, level: int, style: Style, h: Array, channels: int) -> Array:
        return Head(channels, style, self.init_scale, name=f"dec{level}_head")(h)

    def _check(self, height: int, width: int, features: Sequence[str]) -> None:
        levels = len(self.channel_mult)
        factor = 2 ** (levels - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"an image of {height} x {width} cannot be halved {levels - 1} times; its sides "
                f"must be divisible by {factor}"
            )
        n = self.num_skips
        known = {f"{kind}_{i}" for kind in _NUMBERED for i in range(n)} | {"mid"}
        for name in features:
            if name not in known:
                raise ValueError(
                    f"features: {name!r} is none of mid, {', '.join(f'{k}_i' for k in _NUMBERED)} "
                    f"with i < {n}"
                )

    def forward_flops(self, shape: Sequence[int]) -> float:
        """Returns the operations (2 x multiply-accumulates) of one image [h, w, c] forward.

        Convolutions (those of resampling too) and products, with attention's.
        """
        return forward_flops(self, shape)
