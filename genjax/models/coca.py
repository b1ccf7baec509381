"""CoCa (Yu et al. 2022, arXiv 2205.01917): a contrastive captioner, which reranks Parti's pictures.

An image encoder, a causal text decoder whose lower half sees text alone and whose upper half sees
the image too. The lower half's class token, at the end of the text, and a pooled image are the
embeddings of the contrastive loss; the upper half tells the caption. The towers are Parti's
blocks: pre-norm, no biases, a LayerNorm after each. Both attentional poolers read the encoder.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array
from genjax.core.registry import option
from genjax.layers import remat as remat_policies
from genjax.layers.attention import attention
from genjax.layers.embed import patchify
from genjax.layers.linear import Linear, named, normal
from genjax.layers.norm import LayerNorm
from genjax.models.parti import PAD
from genjax.models.parti_blocks import ACTIVATIONS, DecoderBlock, EncoderBlock, Heads
from genjax.parallel.rules import constrain, gather

_INIT = normal(0.02)
_TOKENS = ("batch", None, None)
VARIANTS: dict[str, dict[str, Any]] = {"base": {}}


class CoCa(nn.Module):
    """Images and texts to unit vectors of one space, and images to captions. Defaults: CoCa-Base.

    Parameters are float32; products run in `dtype`; embeddings, norms, residual stream, softmax,
    logits and the unit vectors are float32.
    """

    size: int = option(288, "side of the images in pixels")
    channels: int = option(3, "colour channels of the images")
    patch: int = option(18, "side of a patch in pixels; it divides size")
    image_depth: int = option(12, "blocks of the image encoder")
    text_depth: int = option(12, "blocks of the text decoder that see text alone")
    joint_depth: int = option(12, "blocks of the text decoder that see the image too")
    vocab: int = option(64_000, "text ids")
    text_length: int = option(64, "ids of a text, padding included")
    width: int = option(768, "channels of a token")
    hidden: int = option(3072, "hidden channels of a block's MLP")
    heads: int = option(12, "attention heads; they divide width")
    queries: int = option(256, "what the captioner sees of an image: pooled vectors")
    embedding: int = option(768, "width of the space that images and texts share")
    activation: str = option("gelu", "of the MLPs: relu or gelu")
    dropout: float = option(0.0, "on what attention and MLP give and inside the MLP")
    remat: str = option("none", "what blocks recompute in the backward pass: none, full, dots, ...")
    dtype: str = option("float32", "of matrix products: float32 or bfloat16")

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} heads do not divide width {self.width}")
        if self.size % self.patch:
            raise ValueError(f"patch: {self.patch} does not divide size {self.size}")
        least = (self.image_depth, self.text_depth, self.joint_depth, self.queries, self.embedding)
        if min(least) < 1 or self.vocab < 3 or self.text_length < 2:
            raise ValueError("depths, queries and embedding are at least 1, vocab 3, text_length 2")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation: {self.activation!r} is none of {', '.join(ACTIVATIONS)}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype: {self.dtype!r} is neither float32 nor bfloat16")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout}")
        remat_policies.check(self.remat)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, tokens: Array, *, train: bool = False) -> dict[str, Array]:
        """Returns {"image", "text"} unit vectors [b, e], {"logits"} [b, s, vocab], {"scale"} ().

        x: images [b, h, w, c] in [0, 1] of side `size`; tokens: int32 [b, s], 0 pads. Logits k
        tell token k of those before it and of the image. `scale` is 1 / temperature of the cosines.
        Raises `ValueError` for images of another side.
        """
        image, seen = self._image(x, train)
        states, text = self._text(tokens, train)
        logits = self._captioner(states, seen, train)
        scale = self.param("log_scale", lambda key, shape: jnp.full(shape, math.log(1 / 0.07)), ())
        return {"image": image, "text": text, "logits": logits, "scale": jnp.exp(scale)}

    def _image(self, x: Array, train: bool) -> tuple[Array, Array]:
        """Returns the image's unit vector [b, e] and what the captioner sees [b, queries, d]."""
        if x.shape[1:] != (self.size, self.size, self.channels):
            wanted = (self.size, self.size, self.channels)
            raise ValueError(f"this CoCa reads images of {wanted}, not {x.shape[1:]}")
        patches = patchify(2.0 * x.astype(jnp.float32) - 1.0, self.patch)
        h = Linear((self.width,), (None, "embed"), dtype=self.dtype, name="patches")(patches)
        h = h.astype(jnp.float32) + self._table("places", h.shape[1])
        visible = jnp.ones(h.shape[:2], bool)
        blocks = self._stack(EncoderBlock, self.image_depth, inputs=1)(
            **self._shared(train), name="image"
        )
        h = LayerNorm(name="image_norm")(blocks(constrain(h, _TOKENS), visible)[0])
        pooled = self._pool(h, 1, "embed_pool")[:, 0]
        return self._unit(pooled, "image_out"), self._pool(h, self.queries, "caption_pool")

    def _text(self, tokens: Array, train: bool) -> tuple[Array, Array]:
        """Returns the lower half's states [b, s, d] of [start, tokens before the last], and the
        text's unit vector [b, e], of a class token behind all tokens.
        """
        b, s = tokens.shape
        names = ("vocab", "embed")
        table = gather(self.param("table", named(_INIT, names), (self.vocab, self.width)), names)
        ends = self._table("ends", 2)  # start and class token
        h = jnp.take(table, tokens, axis=0)
        first, last = (jnp.broadcast_to(e, (b, 1, self.width)) for e in ends)
        h = jnp.concatenate([first, h, last], axis=1) + self._table("text_places", s + 2)
        # Causal; padding follows the text, so of all positions only the class token must skip it.
        causal = jnp.asarray(np.tril(np.ones((s + 2, s + 2), bool)))
        edge = jnp.ones((b, 1), bool)
        visible = jnp.concatenate([edge, tokens > PAD, edge], axis=1)
        mask = causal & visible[:, None, None, :]
        blocks = self._stack(DecoderBlock, self.text_depth, inputs=3)(
            **self._decoder(train, cross=False), name="text"
        )
        h = LayerNorm(name="text_norm")(blocks(constrain(h, _TOKENS), None, None, mask)[0])
        return h[:, :s], self._unit(h[:, -1], "text_out")

    def _captioner(self, states: Array, seen: Array, train: bool) -> Array:
        visible = jnp.ones(seen.shape[:2], bool)
        blocks = self._stack(DecoderBlock, self.joint_depth, inputs=3)(
            **self._decoder(train, cross=True), name="joint"
        )
        h = blocks(constrain(states, _TOKENS), seen, visible, None)[0]  # no mask: causal
        h = LayerNorm(name="joint_norm")(h)
        names = ("embed", "vocab")
        softmax = Linear((self.vocab,), names, kernel_init=_INIT, use_bias=False, name="softmax")
        return constrain(softmax(h), ("batch", None, "vocab"))

    def _pool(self, h: Array, queries: int, name: str) -> Array:
        """Returns attention of learned queries to the states: [b, queries, d], normalised."""
        heads = Heads(self.heads, self.width, False, self.dtype, name=name)
        asked = jnp.broadcast_to(
            self._table(f"{name}_queries", queries), (len(h), queries, self.width)
        )
        pooled = heads.merge(attention(heads.query(asked), *heads.key_value(h)))
        return LayerNorm(name=f"{name}_norm")(pooled)

    def _unit(self, h: Array, name: str) -> Array:
        y = Linear((self.embedding,), ("embed", None), use_bias=False, name=name)(h)
        y = y.astype(jnp.float32)
        return y * jnp.reciprocal(jnp.sqrt(jnp.sum(y * y, axis=-1, keepdims=True) + 1e-12))

    def _table(self, name: str, rows: int) -> Array:
        names = (None, "embed")
        return gather(self.param(name, named(_INIT, names), (rows, self.width)), names)

    def _stack(self, block: Any, depth: int, inputs: int) -> Any:
        return nn.scan(
            remat_policies.remat(block, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast,) * inputs,  # pyright: ignore[reportArgumentType]
            length=depth,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )

    def _shared(self, train: bool) -> dict[str, Any]:
        names = ("heads", "hidden", "activation", "dropout", "dtype")
        return {**{n: getattr(self, n) for n in names}, "qk_norm": False, "train": train}

    def _decoder(self, train: bool, *, cross: bool) -> dict[str, Any]:
        fields = {"width": self.width, "cross": cross, "implementation": "auto", "keep": False}
        return {**self._shared(train), **fields}

    def forward_flops(self, shape: Sequence[int] = ()) -> float:
        """Returns the operations (2 x multiply-accumulates) of one image with its text."""
        del shape
        d, f, s, q = self.width, self.hidden, self.text_length, self.queries
        n = (self.size // self.patch) ** 2
        layer = 4 * d * d + 2 * d * f
        total = n * self.patch**2 * self.channels * d + self.image_depth * (
            n * layer + 2 * n * n * d
        )
        total += 2 * (2 * n * d * d) + 2 * (q + 1) * (d * d + n * d)
        total += self.text_depth * (s * layer + 2 * s * s * d)
        cross = 2 * (s + q) * d * d + 2 * s * q * d
        total += self.joint_depth * (s * layer + 2 * s * s * d + cross) + s * d * self.vocab
        return 2.0 * total
