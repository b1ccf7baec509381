"""Parti (Yu et al. 2022, arXiv 2206.10789): image codes from text, one after the other.

A text encoder and a causal decoder whose self-attention sees a convolution-shaped neighbourhood;
pre-norm with one more LayerNorm after both. Without the encoder it is VIM, the second stage of
ViT-VQGAN (arXiv 2110.04627), which may know a class. What neither paper prints (norms' place,
positions, no biases, untied softmax) follows docs/parti.md.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array
from genjax.core.registry import option
from genjax.layers import remat as remat_policies
from genjax.layers.attention import IMPLEMENTATIONS
from genjax.layers.embed import LabelEmbedding
from genjax.layers.linear import Linear, named, normal
from genjax.layers.norm import LayerNorm
from genjax.models.parti_blocks import (
    ACTIVATIONS,
    PATTERNS,
    DecoderBlock,
    EncoderBlock,
    offsets,
)
from genjax.parallel.rules import constrain, gather

PAD, EOS = 0, 1
_INIT = normal(0.02)
_TOKENS = ("batch", None, None)


def _size(encoder_depth: int, depth: int, width: int, **changes) -> dict[str, Any]:
    size = {"encoder_depth": encoder_depth, "depth": depth, "width": width}
    return {**size, "hidden": 4 * width, "heads": width // 64, **changes}


_VIM: dict[str, Any] = {
    "vocab": 0,
    "num_classes": 1000,
    "pattern": "dense",
    "positions": "full",
    "activation": "gelu",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "350M": _size(12, 12, 1024),
    "750M": _size(12, 36, 1024),
    "3B": _size(12, 36, 2048),
    "20B": _size(16, 64, 4096),
    "VIM-B": _size(0, 24, 1536, heads=16, **_VIM),
    "VIM-L": _size(0, 36, 2048, **_VIM),
}


class Parti(nn.Module):
    """p(code | codes before, text or class). Sizes by name in `VARIANTS`.

    `vocab` 0: no encoder. `num_classes` 0: no class. Sequence position k holds code k - 1 and the
    place of code k; position 0 holds the class, or a learned start. Parameters are float32;
    products run in `dtype`; embeddings, norms, residual stream, softmax and logits are float32.
    """

    codes: int = option(8192, "image codes there are")
    grid: tuple[int, int] = option((32, 32), "rows and columns of codes of an image")
    vocab: int = option(16000, "text ids; 0: no text encoder")
    text_length: int = option(128, "ids of a text, padding included")
    num_classes: int = option(0, "labels; 0: none")
    null_label: bool = option(True, "give the label table a row for 'no label', at num_classes")
    encoder_depth: int = option(12, "blocks of the encoder")
    depth: int = option(12, "blocks of the decoder")
    width: int = option(1024, "channels of a token")
    hidden: int = option(4096, "hidden channels of a block's MLP")
    heads: int = option(16, "attention heads; they divide width")
    pattern: str = option("conv", "earlier codes that are seen: conv or dense (all)")
    kernel: int = option(11, "side of the conv pattern, odd")
    positions: str = option("row_col", "row_col: a table of rows plus one of columns; full: one")
    activation: str = option("relu", "of the MLPs: relu or gelu")
    dropout: float = option(0.1, "on what attention and MLP give and inside the MLP")
    qk_norm: bool = option(False, "normalise queries and keys (RMS)")
    attention: str = option("auto", "attention kernel: auto, plain, cudnn or splash")
    remat: str = option("none", "what blocks recompute in the backward pass: none, full, dots, ...")
    dtype: str = option("float32", "of matrix products: float32 or bfloat16")

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} heads do not divide width {self.width}")
        if min(self.codes, *self.grid, self.depth, self.hidden) < 1 or self.num_classes < 0:
            raise ValueError("codes, grid, depth and hidden are at least 1, num_classes at least 0")
        if self.vocab and (self.num_classes or self.vocab < 3 or self.text_length < 2):
            raise ValueError("vocab: at least 3 ids of texts of at least 2, or 0; and no classes")
        if self.kernel % 2 == 0 or not 1 <= self.kernel // 2 * 2 + 1 <= 2 * self.grid[1] - 1:
            raise ValueError(f"kernel: {self.kernel} is not odd and below twice the columns")
        for key, legal in (
            ("pattern", PATTERNS),
            ("positions", ("row_col", "full")),
            ("activation", tuple(ACTIVATIONS)),
            ("attention", IMPLEMENTATIONS),
            ("dtype", ("float32", "bfloat16")),
        ):
            if getattr(self, key) not in legal:
                raise ValueError(f"{key}: {getattr(self, key)!r} is none of {', '.join(legal)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout}")
        remat_policies.check(self.remat)
        super().__post_init__()

    @property
    def length(self) -> int:
        """Codes of an image."""
        return math.prod(self.grid)

    @property
    def has_null(self) -> bool:
        """Whether there is a condition that stands for none."""
        return bool(self.vocab) or (self.num_classes > 0 and self.null_label)

    @cached_property
    def seen(self) -> np.ndarray:
        """The distances of codes that see each other, see `offsets`."""
        return offsets(self.pattern, self.kernel, *self.grid)

    def null(self, batch: int) -> dict[str, Array]:
        """Returns the condition that stands for none: an empty text [EOS, PAD, ...], or label K."""
        if self.vocab:
            text = jnp.full((batch, self.text_length), PAD, jnp.int32).at[:, 0].set(EOS)
            return {"tokens": text}
        return {"label": jnp.full((batch,), self.num_classes, jnp.int32)} if self.has_null else {}

    @nn.compact
    def __call__(
        self,
        codes: Array,
        cond: Mapping[str, Array] | None = None,
        *,
        train: bool = False,
        keep: bool = False,
    ):
        """Returns float32 logits [b, l, K] of each code given those before it.

        codes: int32 [b, l], l <= `length` of them in raster order (the last one changes nothing);
        cond: {"tokens": int32 [b, s]} (0 pads) or {"label": int32 [b]}; None is the null condition.
        train: with dropout, of the random stream "dropout". keep: returns (logits, (k, v)), the
        self-attention's keys and values [depth, b, l, heads, head dim].
        """
        b = len(codes)
        cond = self.null(b) if cond is None else cond
        text = visible = None
        if self.vocab:
            tokens = cond["tokens"]
            visible = tokens > PAD
            text = self._encoder(train)(tokens)
        h = self._inputs(codes, cond)
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = constrain(h, _TOKENS)
        blocks = nn.scan(
            remat_policies.remat(DecoderBlock, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]
            length=self.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(**self.block_fields(train=train, keep=keep), name="blocks")
        h, kept = blocks(h, text, visible, None)
        h = LayerNorm(name="norm")(h)
        softmax = Linear(
            (self.codes,),
            ("embed", "vocab"),
            kernel_init=_INIT,
            use_bias=False,
            name="softmax",
        )  # float32: rounded logits bias the softmax
        logits = constrain(softmax(h), ("batch", None, "vocab"))
        return (logits, kept) if keep else logits

    def _inputs(self, codes: Array, cond: Mapping[str, Array]) -> Array:
        """Returns the decoder's input [b, l, d]: start and codes shifted by one, plus places."""
        (b, l), d = codes.shape, self.width
        names = ("vocab", "embed")
        table = gather(self.param("table", named(_INIT, names), (self.codes, d)), names)
        h = jnp.take(table, codes[:, :-1], axis=0)
        if self.num_classes:
            rows = self.num_classes + self.null_label
            start = LabelEmbedding(rows, d, name="label")(cond["label"])
        else:
            start = self.param("bos", named(_INIT, ("embed",)), (d,))
        start = jnp.broadcast_to(start, (b, d))[:, None]
        return jnp.concatenate([start, h], axis=1) + self._places()[:l]

    def _places(self) -> Array:
        """Returns the table of places [length, d]."""
        rows, columns = self.grid
        names = (None, "embed")

        def table(name: str, n: int) -> Array:
            return gather(self.param(name, named(_INIT, names), (n, self.width)), names)

        if self.positions == "full":
            return table("places", self.length)
        both = table("rows", rows)[:, None] + table("columns", columns)
        return both.reshape(self.length, self.width)

    def _encoder(self, train: bool) -> "TextEncoder":
        return TextEncoder(**self.encoder_fields(train=train), name="encoder")

    @nn.nowrap
    def encoder_fields(self, *, train: bool = False) -> dict[str, Any]:
        """Returns the fields of this network's `TextEncoder`."""
        return {
            "vocab": self.vocab,
            "length": self.text_length,
            "depth": self.encoder_depth,
            "width": self.width,
            "remat": self.remat,
            **self._shared(train),
        }

    @nn.nowrap
    def block_fields(self, *, train: bool = False, keep: bool = False) -> dict[str, Any]:
        """Returns the fields of this network's `DecoderBlock`."""
        return {
            "width": self.width,
            "cross": bool(self.vocab),
            "implementation": self.attention,
            "keep": keep,
            "seen": None if self.seen.all() else tuple(map(bool, self.seen)),
            **self._shared(train),
        }

    def _shared(self, train: bool) -> dict[str, Any]:
        names = ("heads", "hidden", "activation", "dropout", "qk_norm", "dtype")
        return {**{name: getattr(self, name) for name in names}, "train": train}

    def forward_flops(self, shape: Sequence[int] = ()) -> float:
        """Returns the operations (2 x multiply-accumulates) of one image, text included.

        Products only; attention counts every pair of positions, as it is computed.
        """
        del shape
        l, s, d, f = self.length, self.text_length, self.width, self.hidden
        total = self.depth * (l * (4 * d * d + 2 * d * f) + 2 * l * l * d) + l * d * self.codes
        if self.vocab:
            total += self.encoder_depth * (s * (4 * d * d + 2 * d * f) + 2 * s * s * d)
            total += self.depth * (2 * (l + s) * d * d + 2 * l * s * d)
        return 2.0 * total


class TextEncoder(nn.Module):
    """tokens int32 [b, s] -> float32 [b, s, d]; padding (0) is not seen."""

    vocab: int
    length: int
    depth: int
    width: int
    heads: int
    hidden: int
    activation: str
    dropout: float
    qk_norm: bool
    remat: str
    train: bool
    dtype: str

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        s, d = tokens.shape[1], self.width
        names = ("vocab", "embed")
        table = gather(self.param("table", named(_INIT, names), (self.vocab, d)), names)
        names = (None, "embed")
        places = gather(self.param("places", named(_INIT, names), (self.length, d)), names)
        h = jnp.take(table, tokens, axis=0) + places[:s]
        h = nn.Dropout(self.dropout, deterministic=not self.train)(h)
        blocks = nn.scan(
            remat_policies.remat(EncoderBlock, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast,),  # pyright: ignore[reportArgumentType]
            length=self.depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(
            self.heads,
            self.hidden,
            self.activation,
            self.dropout,
            self.qk_norm,
            self.train,
            self.dtype,
            name="blocks",
        )
        h, _ = blocks(constrain(h, _TOKENS), tokens > PAD)
        return LayerNorm(name="norm")(h)
