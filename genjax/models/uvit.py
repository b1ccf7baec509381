"""U-ViT (Bao et al. 2023, arXiv 2209.12152): a transformer with the long skips of a U-Net.

Time and label are tokens beside the patches; block i of the second half joins what block
depth - 1 - i of the first half left, by a linear map of both. The sizes are the paper's; details of
the published code that the paper does not print (no bias of q, k and v, exact GELU, positions of
all tokens learned, the time's sinusoids taken as the token) are from memory.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from genjax.core.arrays import Array, times
from genjax.core.registry import option
from genjax.layers import remat as remat_policies
from genjax.layers.attention import IMPLEMENTATIONS, Implementation, SelfAttention
from genjax.layers.conv import Conv
from genjax.layers.embed import LabelEmbedding, patchify, timestep_embedding, unpatchify
from genjax.layers.linear import Linear, named, normal, zeros
from genjax.layers.mlp import Mlp
from genjax.layers.norm import LayerNorm
from genjax.parallel.rules import constrain, gather

_INIT = normal(0.02)
_TOKENS = ("batch", None, None)  # the tokens of time and label make the sequence indivisible
_SIZES = {
    "S": {"depth": 13, "width": 512, "heads": 8},
    "S-deep": {"depth": 17, "width": 512, "heads": 8},
    "M": {"depth": 17, "width": 768, "heads": 12},
    "L": {"depth": 21, "width": 1024, "heads": 16},
    "H": {"depth": 29, "width": 1152, "heads": 16},
}
VARIANTS: dict[str, dict[str, Any]] = {
    f"{name}/{p}": {**size, "patch": p} for name, size in _SIZES.items() for p in (2, 4)
}


class Block(nn.Module):
    """x + Attention(LN(x)), then the same with the MLP; first, x joined with a skip.

    x: [b, l, d]; `each`: "skip" [b, l, d], mapped with x from 2d to d, and "active", a scalar: at 0
    or below nothing but the joining is computed. Returns (x, x if `keep` else None).
    """

    heads: int
    hidden: int
    attention: Implementation
    dtype: str
    keep: bool

    @nn.compact
    def __call__(self, x: Array, each: Mapping[str, Array]) -> tuple[Array, Array | None]:
        if "skip" in each:
            both = jnp.concatenate([x, each["skip"]], axis=-1)
            join = Linear(
                x.shape[-1:], (None, "embed"), kernel_init=_INIT, dtype=self.dtype, name="join"
            )
            x = join(both)
        if "active" in each:
            x = nn.cond(each["active"] > 0, Block._residual, lambda _, x: x, self, x)
        else:
            x = self._residual(x)
        x = constrain(x, _TOKENS)
        return x, x if self.keep else None

    def _residual(self, x: Array) -> Array:
        h = LayerNorm(1e-5, name="norm1")(x)
        x = x + SelfAttention(
            self.heads,
            implementation=self.attention,
            qkv_init=_INIT,
            qkv_bias=False,
            out_init=_INIT,
            dtype=self.dtype,
            name="attention",
        )(h)
        h = LayerNorm(1e-5, name="norm2")(x)
        exact = functools.partial(jax.nn.gelu, approximate=False)
        return x + Mlp(self.hidden, self.dtype, exact, _INIT, name="mlp")(h)


class UViT(nn.Module):
    """U-ViT. Sizes by name in `VARIANTS`: S, S-deep, M, L, H with patch 2 or 4.

    Parameters are float32; products run in `dtype`; embeddings, norms' statistics, softmax and the
    last convolution are float32.
    """

    patch: int = option(2, "side of a square patch, in pixels of the input")
    width: int = option(512, "channels of a token")
    depth: int = option(13, "number of blocks, odd: as many up as down, and one between")
    heads: int = option(8, "attention heads; they divide width")
    mlp_ratio: float = option(4.0, "hidden channels of a block's MLP over width")
    num_classes: int = option(0, "labels; 0: unconditional")
    null_label: bool = option(True, "give the label table a row for 'no label', at num_classes")
    final_conv: bool = option(True, "a last 3x3 convolution of the pixels")
    attention: str = option("auto", "attention kernel: auto, plain, cudnn or splash")
    remat: str = option("none", "what blocks recompute in the backward pass: none, full, dots, ...")
    dtype: str = option("float32", "of matrix products: float32 or bfloat16")

    def __post_init__(self):
        if self.width % self.heads or self.width % 2:
            raise ValueError(
                f"width: {self.width} must be even and a multiple of the {self.heads} heads"
            )
        if self.depth < 3 or self.depth % 2 == 0:
            raise ValueError(f"depth: {self.depth} is not odd and at least 3")
        if self.attention not in IMPLEMENTATIONS:
            raise ValueError(f"attention: {self.attention!r} is none of {IMPLEMENTATIONS}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype: {self.dtype!r} is neither float32 nor bfloat16")
        if self.patch < 1 or self.num_classes < 0:
            raise ValueError("patch is at least 1, num_classes at least 0")
        remat_policies.check(self.remat)
        super().__post_init__()

    @property
    def num_skips(self) -> int:
        """The length of `skip_scale`."""
        return self.depth // 2

    @property
    def skip_scales(self) -> tuple[str, ...]:
        """The names of the inputs that scale skips, see `__call__`."""
        return ("skip_scale",)

    def num_blocks(self, shape: Sequence[int]) -> int:
        """Returns the length of `block_mask`: every block can be left out."""
        del shape
        return self.depth

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

        x: [b, h, w, C]; time: [b], what the sinusoids see (0 to 1000 in the paper); cond: {"label":
        int32 [b]}, the labels, or None (no label). `train` changes nothing: there is no dropout.
        inputs: "skip_scale" [depth // 2], a factor of every skip before it is joined, in the order
        of the first half; "block_mask" [depth]: of a block whose entry is not above 0 only the
        joining is computed.
        features: "skip_i", the skip as it is joined (scaled), "backbone_i", what it is joined to,
        [b, l, d]; then returns (output, {name: tokens}).
        Raises `ValueError` for sizes that the patch does not divide and unknown features.
        """
        _, height, width, channels = x.shape
        rows, cols = height // self.patch, width // self.patch
        n = self.num_skips
        known = {f"{kind}_{i}" for kind in ("skip", "backbone") for i in range(n)}
        for name in features:
            if name not in known:
                raise ValueError(
                    f"features: {name!r} is none of skip_i and backbone_i with i < {n}"
                )
        scales, masks = ((inputs or {}).get(key) for key in ("skip_scale", "block_mask"))

        h = self._tokens(x.astype(jnp.float32), time, cond)
        h, skips = self._run("down", h, n, {}, masks, 0, keep=True)
        h, _ = self._run("mid", h, 1, {}, masks, n, keep=False)
        skips = skips[::-1]
        if scales is not None:
            skips = times(skips, jnp.asarray(scales, jnp.float32)[::-1, None, None, None])
        before = h
        h, kept = self._run("up", h, n, {"skip": skips}, masks, n + 1, keep=bool(features))

        h = LayerNorm(1e-5, name="norm")(h)[:, -rows * cols :]
        out = Linear(
            (self.patch**2 * channels,),
            ("embed", "patch"),
            kernel_init=_INIT,
            dtype=self.dtype,
            name="final",
        )(h)
        out = unpatchify(out.astype(jnp.float32), self.patch, rows, cols)
        if self.final_conv:
            out = Conv(channels, _INIT, zeros, names=(None, None), name="final_conv")(out)
        if not features:
            return out
        joined = [before, *kept[:-1]]
        found = {f"backbone_{n - 1 - i}": u for i, u in enumerate(joined)}
        found |= {f"skip_{n - 1 - i}": s for i, s in enumerate(skips)}
        return out, {name: found[name] for name in features}

    def _tokens(self, x: Array, time: Array, cond: Any) -> Array:
        """Returns [b, l, width]: the tokens of the label (if there is one), time and patches."""
        b = x.shape[0]
        names = ("patch", "embed")
        embed = Linear(
            (self.width,), names, kernel_init=_INIT, dtype=self.dtype, name="patch_embed"
        )
        time = jnp.broadcast_to(jnp.asarray(time, jnp.float32), (b,))
        tokens = [timestep_embedding(time, self.width)[:, None], embed(patchify(x, self.patch))]
        if self.num_classes:
            label = cond.get("label") if isinstance(cond, Mapping) else cond
            if label is None:
                if not self.null_label:
                    raise ValueError("this UViT has no null label: give cond its labels")
                label = self.num_classes
            label = jnp.broadcast_to(jnp.asarray(label, jnp.int32), (b,))
            table = LabelEmbedding(self.num_classes + self.null_label, self.width, name="label")
            tokens.insert(0, table(label)[:, None])
        h = jnp.concatenate(tokens, axis=1)
        names = (None, "embed")
        places = self.param("positions", named(_INIT, names), h.shape[1:], jnp.float32)
        return constrain((h + gather(places, names)).astype(self.dtype), _TOKENS)

    def _run(self, name: str, h: Array, count: int, each: dict, masks, first: int, keep: bool):
        """Returns what leaves the last of `count` blocks, and [count, b, l, d] of each or None."""
        if masks is not None:
            each = {**each, "active": jnp.asarray(masks)[first : first + count]}
        blocks = nn.scan(
            remat_policies.remat(Block, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=count,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        hidden = int(self.width * self.mlp_ratio)
        made = blocks(self.heads, hidden, self.attention, self.dtype, keep, name=name)
        return made(h, each)

    def forward_flops(self, shape: Sequence[int]) -> float:
        """Returns the operations (2 x multiply-accumulates) of one image [h, w, c] forward.

        Products only, those of attention included.
        """
        height, width, channels = shape
        patches, d = (height // self.patch) * (width // self.patch), self.width
        l = patches + 1 + bool(self.num_classes)
        hidden = int(d * self.mlp_ratio)
        blocks = self.depth * (l * (4 * d * d + 2 * d * hidden) + 2 * l * l * d)
        joins = self.num_skips * l * 2 * d * d
        ends = 2 * patches * self.patch**2 * channels * d
        conv = 9 * height * width * channels**2 * self.final_conv
        return 2.0 * (blocks + joins + ends + conv)
