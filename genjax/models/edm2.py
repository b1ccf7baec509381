"""The magnitude-preserving U-Net of EDM2 (Karras et al. 2024, arXiv 2312.02696, config G).

Neither biases nor group normalisation: every layer keeps unit variance (`layers.magnitude`). The
output starts at 0, so that a fresh denoiser is D = c_skip x. `EDM2UNet` is the raw network F that
genjax trains; `EDM2Denoiser`, with the same parameters, is D itself, as public files hold it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from genjax.core.arrays import Array, Tree, bcast
from genjax.core.registry import option
from genjax.layers import magnitude
from genjax.layers import remat as remat_policies
from genjax.layers.attention import IMPLEMENTATIONS
from genjax.layers.linear import named, zeros
from genjax.layers.magnitude import (
    MPConv,
    MPFourier,
    MPLabelEmbedding,
    MPLinear,
    mp_silu,
    mp_sum,
)
from genjax.models.edm2_block import Block, Run, check_heads, flops, line_up

_LOGVAR_FEATURES = 128
_WIDTHS = {"XXS": 64, "XS": 128, "S": 192, "M": 256, "L": 320, "XL": 384, "XXL": 448}
VARIANTS: dict[str, dict[str, Any]] = {name: {"width": w} for name, w in _WIDTHS.items()}


class EDM2UNet(nn.Module):
    """F of EDM2. Sizes by name in `VARIANTS`: XXS, XS, S, M, L, XL, XXL.

    Parameters are float32 and raw; a training step must `project` them. Products run in `dtype`;
    embeddings, norms' statistics, softmax, the log-variance and the output are float32. The
    Fourier constants `freqs` and `phases` stand among the parameters and get no gradient: under
    weight decay, freeze them (`optimizer.freeze`).
    """

    width: int = option(192, "channels of the first level")
    multipliers: tuple[int, ...] = option((1, 2, 3, 4), "channels of each level over width")
    blocks: int = option(3, "encoder blocks a level; the decoder has one more")
    attention_levels: tuple[int, ...] = option(
        (2, 3), "levels with attention, from 0; level l sees 1/2^l of the side"
    )
    head_channels: int = option(64, "channels of an attention head")
    dropout: float = option(0.0, "dropout rate inside residual branches")
    num_classes: int = option(1000, "labels; 0: unconditional")
    attention: str = option("auto", "attention kernel: auto, plain, cudnn or splash")
    remat: str = option("none", "what blocks recompute in the backward pass: none, full, dots, ...")
    dtype: str = option("float32", "of matrix products: float32 or bfloat16")

    def __post_init__(self):
        levels = range(len(self.multipliers))
        if min(self.width, self.blocks, self.head_channels, *self.multipliers, 1) < 1:
            raise ValueError("width, multipliers, blocks and head_channels are at least 1")
        if not self.multipliers or any(level not in levels for level in self.attention_levels):
            raise ValueError(
                f"attention_levels: {self.attention_levels} are not all of the "
                f"{len(self.multipliers)} levels that multipliers has, from 0"
            )
        if not 0 <= self.dropout < 1 or self.num_classes < 0:
            raise ValueError("dropout lies in [0, 1), num_classes is at least 0")
        if self.attention not in IMPLEMENTATIONS:
            raise ValueError(f"attention: {self.attention!r} is none of {IMPLEMENTATIONS}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype: {self.dtype!r} is neither float32 nor bfloat16")
        check_heads(self.runs, self.head_channels)
        remat_policies.check(self.remat)
        super().__post_init__()

    @property
    def null_label(self) -> bool:
        """Every conditional EDM2 network knows "no label": the zero row, at num_classes."""
        return self.num_classes > 0

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.width * m for m in self.multipliers)

    @property
    def runs(self) -> tuple[Run, ...]:
        """All blocks in the order of computation, those of equal shape together."""
        return line_up(self.widths, self.blocks, tuple(self.attention_levels))

    @property
    def block_names(self) -> tuple[str, ...]:
        """Names of all blocks, in order: what features may ask for."""
        return tuple(name for run in self.runs for name in run.names)

    @property
    def unit_names(self) -> tuple[str, ...]:
        """The order of `block_mask`: residual branches and attentions, as computed."""
        return tuple(
            unit
            for run in self.runs
            for name in run.names
            for unit in (name, f"{name}_attention")[: run.units]
        )

    def num_blocks(self, shape: Sequence[int]) -> int:
        """Returns the length of `block_mask`, whatever the images' size."""
        del shape
        return len(self.unit_names)

    @property
    def skip_names(self) -> tuple[str, ...]:
        """What leaves a skip, in the order of `skip_scale`: the input, then encoder blocks."""
        return ("enc0_conv", *(name for name in self.block_names if name.startswith("enc")))

    @property
    def num_skips(self) -> int:
        """The length of `skip_scale`."""
        return len(self.skip_names)

    @property
    def skip_scales(self) -> tuple[str, ...]:
        """The names of the inputs that scale skips, see `__call__`."""
        return ("skip_scale",)

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
        """Returns F, float32 [b, h, w, C].

        x: [b, h, w, C], of unit variance (c_in x); time: [b], c_noise = ln(sigma)/4; cond:
        {"label": int32 [b]}, the labels, or None (no label). `train` turns dropout on.
        inputs: "skip_scale" [n], a factor of every skip (`skip_names`) before it is joined;
        "block_mask" [m]: branches (`unit_names`) whose entry is not above 0 are not computed: a
        block keeps only x's own path, an attention its input.
        features: names of blocks, for what leaves them [b, h', w', c]; "mid": what leaves the
        bottom; "logvar": the learned ln of the weighted error, float32 [b]. Then returns
        (F, {name: feature}).
        Raises `ValueError` for sides that the levels do not divide and unknown features.
        """
        b, height, width, channels = x.shape
        self._check(height, width, features)
        time = jnp.broadcast_to(jnp.asarray(time, jnp.float32), (b,))
        emb = self._embedding(time, cond, b)
        scales, masks = ((inputs or {}).get(key) for key in ("skip_scale", "block_mask"))

        h = jnp.concatenate([x.astype(jnp.float32), jnp.ones((b, height, width, 1))], axis=-1)
        h = MPConv(self.widths[0], dtype=self.dtype, name="in_conv")(h)
        skips, found, done = [h], {}, 0
        wanted = {self._block(name) for name in features}
        for run in self.runs:
            count = len(run.names)
            each: dict[str, Array] = {}
            if run.shape.skips:
                each["skip"] = jnp.stack([skips.pop() for _ in run.names])
                if scales is not None:
                    each["scale"] = jnp.asarray(scales)[len(skips) : len(skips) + count][::-1]
            if masks is not None:
                n = count * run.units
                each["active"] = jnp.asarray(masks)[done : done + n].reshape(count, run.units)
                done += n
            encoder = not run.shape.decoder
            h, kept = self._run(run, encoder or bool(wanted & set(run.names)), train)(h, each, emb)
            if kept is not None:
                found |= {name: kept[i] for i, name in enumerate(run.names) if name in wanted}
                skips += list(kept) if encoder else []

        gain = self.param("out_gain", named(zeros, ()), (), jnp.float32)
        out = MPConv(channels, axis=None, dtype=self.dtype, name="out_conv")(h, gain)
        logvar = self._logvar(time) if "logvar" in features or self.is_initializing() else None
        out = out.astype(jnp.float32)
        named_features = {
            name: logvar if name == "logvar" else found[self._block(name)] for name in features
        }
        return (out, named_features) if features else out

    def _embedding(self, time: Array, cond: Any, b: int) -> Array:
        """Returns what modulates the blocks, float32 [b, d]."""
        d = max(self.widths)
        emb = MPLinear(d, name="emb_noise")(MPFourier(self.widths[0], name="fourier")(time))
        if self.num_classes:
            label = cond.get("label") if isinstance(cond, Mapping) else cond
            label = self.num_classes if label is None else label
            label = jnp.broadcast_to(jnp.asarray(label, jnp.int32), (b,))
            emb = mp_sum(emb, MPLabelEmbedding(self.num_classes, d, name="label")(label))
        return mp_silu(emb)

    def _logvar(self, time: Array) -> Array:
        u = MPFourier(_LOGVAR_FEATURES, name="logvar_fourier")(time)
        return MPLinear(1, (None, None), name="logvar")(u)[:, 0]

    def _run(self, run: Run, keep: bool, train: bool):
        """Returns the function (x, what differs [n, ...], emb) -> (x, outputs [n, ...] or None)."""
        count = len(run.names)
        at_once = remat_policies.unrolled(0, count)
        block = remat_policies.remat(Block, self.remat, scanned=at_once < count)
        if count > 1:
            block = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, nn.broadcast),  # pyright: ignore[reportArgumentType]
                length=count,
                unroll=at_once,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
        made = block(
            run.shape,
            self.head_channels,
            self.dropout,
            train,
            self.attention,
            self.dtype,
            keep,
            name=run.name,
        )
        if count > 1:
            return made

        def single(x: Array, each: dict[str, Array], emb: Array):
            x, kept = made(x, {key: value[0] for key, value in each.items()}, emb)
            return x, None if kept is None else kept[None]

        return single

    def _block(self, name: str) -> str:
        """Returns the block that a feature's name stands for."""
        return f"dec{len(self.multipliers) - 1}_in1" if name == "mid" else name

    def _check(self, height: int, width: int, features: Sequence[str]) -> None:
        factor = 2 ** (len(self.multipliers) - 1)
        if height % factor or width % factor:
            raise ValueError(
                f"an image of {height} x {width} cannot be halved {len(self.multipliers) - 1} "
                f"times; its sides must be divisible by {factor}"
            )
        known = {"mid", "logvar", *self.block_names}
        for name in features:
            if name not in known:
                raise ValueError(f"features: {name!r} is none of {', '.join(sorted(known))}")

    def project(self, params: Tree) -> Tree:
        """Returns the parameters with all raw weights at unit length (forced normalisation).

        Gains and Fourier constants are untouched; the network's output does not change.
        """
        return magnitude.project(params)

    def forward_flops(self, shape: Sequence[int]) -> float:
        """Returns the operations (2 x multiply-accumulates) of one image [h, w, c] forward.

        Products only, those of attention included, without the log-variance.
        """
        height, width, channels = shape
        first, d, pixels = self.widths[0], max(self.widths), height * width
        total = pixels * 9 * first * (2 * channels + 1) + first * d
        return 2.0 * (total + sum(flops(run, d, pixels // 4**run.level) for run in self.runs))


class EDM2Denoiser(EDM2UNet):
    """D(x, sigma) = c_skip x + c_out F(c_in x, ln(sigma)/4), with `EDM2UNet`'s parameters."""

    sigma_data: float = option(0.5, "standard deviation of the data")

    def __post_init__(self):
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {self.sigma_data}")
        super().__post_init__()

    @property
    def network(self) -> EDM2UNet:
        """The raw network F with the same parameters."""
        names = (field.name for field in dataclasses.fields(EDM2UNet))  # pyright: ignore[reportArgumentType]
        return EDM2UNet(**{n: getattr(self, n) for n in names if n not in ("parent", "name")})

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
        """Returns D, the estimate of the data: float32, shaped like x [b, h, w, C] = y + sigma n.

        time: sigma [b], above 0; everything else as in `EDM2UNet`.
        """
        x, sd = x.astype(jnp.float32), self.sigma_data
        sigma = jnp.broadcast_to(jnp.asarray(time, jnp.float32), x.shape[:1])
        q = sigma**2 + sd**2
        out = super().__call__(
            x * bcast(1 / jnp.sqrt(q), x),
            jnp.log(sigma) / 4,
            cond,
            train=train,
            inputs=inputs,
            features=features,
        )
        raw, named_features = out if features else (out, None)
        d = bcast(sd**2 / q, x) * x + bcast(sigma * sd / jnp.sqrt(q), x) * raw
        return (d, named_features) if features else d
