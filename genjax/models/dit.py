"""DiT, the diffusion transformer with adaLN-Zero (Peebles and Xie 2023), which SiT shares.

A plain transformer over patches; time and label enter only through the shift, scale and gate of
every block, whose projections start at zero, so that the initial output is exactly 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array
from genjax.core.registry import option
from genjax.layers import remat as remat_policies
from genjax.layers.attention import IMPLEMENTATIONS, Implementation, SelfAttention
from genjax.layers.embed import (
    LabelEmbedding,
    TimeEmbedding,
    patchify,
    sincos_2d,
    unpatchify,
)
from genjax.layers.linear import Linear, zeros
from genjax.layers.mlp import Mlp
from genjax.layers.norm import adaptive_layer_norm
from genjax.parallel.rules import constrain

_FREQUENCIES = 256
_SIZES = {
    "S": {"depth": 12, "width": 384, "heads": 6},
    "B": {"depth": 12, "width": 768, "heads": 12},
    "L": {"depth": 24, "width": 1024, "heads": 16},
    "XL": {"depth": 28, "width": 1152, "heads": 16},
}
VARIANTS: dict[str, dict[str, Any]] = {
    f"{name}/{p}": {**size, "patch": p} for name, size in _SIZES.items() for p in (2, 4, 8)
}


class Block(nn.Module):
    """x + gate1 Attention(adaLN(x)), then the same with the MLP: the body of the scan.

    x: [b, l, d]; c: SiLU of the conditioning vector, [b, d]; active: scalar, below or at 0 the
    block is skipped, or None. Returns (x, x if `keep` else None).
    """

    heads: int
    hidden: int
    qk_norm: bool
    attention: Implementation
    dtype: str
    keep: bool

    @nn.compact
    def __call__(self, x: Array, active: Array | None, c: Array) -> tuple[Array, Array | None]:
        if active is None:
            x = self._residual(x, c)
        else:
            x = nn.cond(active > 0, Block._residual, lambda _, x, c: x, self, x, c)
        x = constrain(x, ("batch", "seq", None))
        return x, x if self.keep else None

    def _residual(self, x: Array, c: Array) -> Array:
        width = x.shape[-1]
        modulation = Linear(
            (6, width),
            ("embed", None, "modulation"),
            kernel_init=zeros,
            dtype=self.dtype,
            name="modulation",
        )(c)
        modulation = _whole(modulation)
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation[:, i] for i in range(6))
        h = adaptive_layer_norm(x, shift1, scale1).astype(self.dtype)
        h = SelfAttention(
            self.heads, self.qk_norm, self.attention, dtype=self.dtype, name="attention"
        )(h)
        x = x + gate1[:, None] * h
        h = adaptive_layer_norm(x, shift2, scale2).astype(self.dtype)
        h = Mlp(self.hidden, dtype=self.dtype, name="mlp")(h)
        return x + gate2[:, None] * h


def _whole(modulation: Array) -> Array:
    """Returns the modulation [b, ..., d] whole on every device, its gradient split as its kernel.

    It is small. Split over a tensor axis it would split the tokens that it scales, which every
    product would then gather.
    """
    between = (None,) * (modulation.ndim - 2)
    split = constrain(modulation, ("batch", *between, "modulation"))
    return constrain(split, ("batch", *between, None))


class DiT(nn.Module):
    """Diffusion transformer. Sizes by name in `VARIANTS`: S, B, L, XL with patch 2, 4 or 8.

    Parameters are float32; products run in `dtype`; time embedding, norms, softmax and the output
    are float32.
    """

    patch: int = option(2, "side of a square patch, in pixels of the input")
    width: int = option(384, "channels of a token")
    depth: int = option(12, "number of blocks")
    heads: int = option(6, "attention heads; they divide width")
    mlp_ratio: float = option(4.0, "hidden channels of a block's MLP over width")
    num_classes: int = option(1000, "labels; 0: unconditional")
    null_label: bool = option(True, "give the label table a row for 'no label', at num_classes")
    learn_sigma: bool = option(True, "predict a second set of channels: the reverse variance")
    qk_norm: bool = option(False, "normalise queries and keys (RMS)")
    attention: str = option("auto", "attention kernel: auto, plain, cudnn or splash")
    remat: str = option("none", "what blocks recompute in the backward pass: none, full, dots, ...")
    unroll: int = option(1, "blocks unrolled per iteration of the scan over depth")
    dtype: str = option("float32", "of matrix products: float32 or bfloat16")

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} heads do not divide width {self.width}")
        if self.width % 4:
            raise ValueError(f"width: 2-D positions need a multiple of 4, not {self.width}")
        if self.attention not in IMPLEMENTATIONS:
            raise ValueError(f"attention: {self.attention!r} is none of {IMPLEMENTATIONS}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype: {self.dtype!r} is neither float32 nor bfloat16")
        if min(self.patch, self.depth, self.unroll) < 1 or self.num_classes < 0:
            raise ValueError("patch, depth and unroll are at least 1, num_classes at least 0")
        remat_policies.check(self.remat)
        super().__post_init__()

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
        """Returns float32 [b, h, w, C], or [b, h, w, 2C] under `learn_sigma`.

        x: [b, h, w, C]; time: [b]; cond: {"label": int32 [b]}, the labels, or None (no label).
        inputs: {"block_mask": [depth]}; blocks whose entry is not above 0 are skipped.
        features: "block_i" asks for the tokens [b, l, d] after block i (from 0); then returns
        (output, {name: tokens}). `train` changes nothing: DiT has no dropout.
        Raises `ValueError` for sizes that the patch does not divide and unknown features.
        """
        b, height, width, channels = x.shape
        rows, cols = height // self.patch, width // self.patch
        wanted = {name: self._block_index(name) for name in features}
        mask = None if inputs is None else inputs.get("block_mask")

        tokens = patchify(x.astype(jnp.float32), self.patch)
        h = Linear((self.width,), ("patch", "embed"), dtype=self.dtype, name="patch_embed")(tokens)
        h = (h + self.positions(rows, cols)).astype(self.dtype)
        h = constrain(h, ("batch", "seq", None))

        c = TimeEmbedding(self.width, _FREQUENCIES, name="time")(jnp.broadcast_to(time, (b,)))
        if self.num_classes:
            c = c + LabelEmbedding(self.num_classes + self.null_label, self.width, name="label")(
                self._labels(cond, b)
            )
        c = nn.silu(c)

        blocks = nn.scan(
            remat_policies.remat(Block, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast if mask is None else 0, nn.broadcast),  # pyright: ignore[reportArgumentType]
            length=self.depth,
            unroll=self.unroll,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(
            self.heads,
            int(self.width * self.mlp_ratio),
            self.qk_norm,
            self.attention,
            self.dtype,
            bool(wanted),
            name="blocks",
        )
        h, kept = blocks(h, mask, c)

        modulation = Linear(
            (2 * self.width,),
            ("embed", "modulation"),
            kernel_init=zeros,
            dtype=self.dtype,
            name="final_modulation",
        )(c)
        shift, scale = jnp.split(_whole(modulation), 2, axis=-1)
        h = adaptive_layer_norm(h, shift, scale)
        out = Linear(
            (self.patch**2 * channels * (1 + self.learn_sigma),),
            ("embed", "patch"),
            kernel_init=zeros,
            dtype=self.dtype,
            name="final",
        )(h)
        out = unpatchify(out.astype(jnp.float32), self.patch, rows, cols)
        return (out, {name: kept[i] for name, i in wanted.items()}) if wanted else out

    def num_blocks(self, shape: Sequence[int]) -> int:
        """Returns the length of `block_mask`: every block can be left out."""
        del shape
        return self.depth

    def positions(self, rows: int, cols: int) -> np.ndarray:
        """Returns the fixed position table, float32 [rows * cols, width], tokens row-major."""
        return sincos_2d(self.width, rows, cols)

    def _labels(self, cond, b: int) -> Array:
        label = cond.get("label") if isinstance(cond, Mapping) else cond
        if label is None:
            if not self.null_label:
                raise ValueError("this DiT has no null label: give cond its labels")
            label = self.num_classes
        return jnp.broadcast_to(jnp.asarray(label, jnp.int32), (b,))

    def _block_index(self, name: str) -> int:
        index = name.removeprefix("block_")
        if not (index != name and index.isdigit() and int(index) < self.depth):
            raise ValueError(f"features: {name!r} is none of block_0 ... block_{self.depth - 1}")
        return int(index)

    def forward_flops(self, shape: Sequence[int]) -> float:
        """Returns the operations (2 x multiply-accumulates) of one image [h, w, c] forward.

        Products only, those of attention included, as the paper counts them (in MACs).
        """
        height, width, channels = shape
        l, d = (height // self.patch) * (width // self.patch), self.width
        hidden = int(d * self.mlp_ratio)
        block = l * (4 * d * d + 2 * d * hidden) + 2 * l * l * d + 6 * d * d
        patch = self.patch**2 * channels
        ends = l * patch * d * (2 + self.learn_sigma) + _FREQUENCIES * d + d * d + 2 * d * d
        return 2.0 * (self.depth * block + ends)
