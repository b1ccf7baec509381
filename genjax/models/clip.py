"""CLIP (Radford et al. 2021): an image and a text tower whose embeddings share one space.

It measures (CLIP score, CMMD) and conditions: the text tower gives its hidden states too.
"""

import flax.linen as nn
import jax.numpy as jnp

from genjax.core.arrays import Array
from genjax.core.registry import option
from genjax.layers.conv import NONE, Conv, kernel_init
from genjax.layers.linear import Linear, named, normal
from genjax.layers.norm import LayerNorm
from genjax.models.encoder_block import ACTIVATIONS, EncoderBlock

EPSILON = 1e-5
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of pixels 0..1, subtracted before the image tower
STD = (0.26862954, 0.26130258, 0.27577711)


class TextTower(nn.Module):
    """Tokens int32 [b, l] -> hidden states; a token sees itself and the ones before it."""

    vocabulary: int
    positions: int
    width: int
    depth: int
    heads: int
    hidden: int
    end: int
    activation: str
    dtype: str

    @nn.compact
    def __call__(self, tokens: Array) -> dict[str, Array]:
        """Returns float32 last [b, l, d] (normalised), penultimate [b, l, d] (what the last block
        reads), pooled [b, d] (last at the first `end` token; where none is, at the largest id).

        Raises `ValueError` for more tokens than there are positions.
        """
        if tokens.shape[1] > self.positions:
            raise ValueError(f"{tokens.shape[1]} tokens, but CLIP has {self.positions} positions")
        table = _table(self, "tokens", (self.vocabulary, self.width), "classes")
        positions = _table(self, "positions", (self.positions, self.width), None)
        x = (jnp.take(table, tokens, axis=0) + positions[: tokens.shape[1]]).astype(self.dtype)
        before = x
        for i in range(self.depth):
            before = x
            x = EncoderBlock(
                self.heads,
                self.hidden,
                EPSILON,
                self.activation,
                causal=True,
                dtype=self.dtype,
                name=f"block_{i}",
            )(x)
        last = LayerNorm(EPSILON, name="norm")(x).astype(jnp.float32)
        ends = tokens == self.end
        at = jnp.where(ends.any(1), jnp.argmax(ends, axis=1), jnp.argmax(tokens, axis=1))
        pooled = jnp.take_along_axis(last, at[:, None, None], axis=1)[:, 0]
        return {"last": last, "penultimate": before.astype(jnp.float32), "pooled": pooled}


class ImageTower(nn.Module):
    """Prepared pixels [b, s, s, 3] -> hidden states, a class token first."""

    size: int
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    activation: str
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        """Returns float32 last [b, 1 + n, d], penultimate [b, 1 + n, d], pooled [b, d] (the class
        token, normalised). Raises `ValueError` for other sides than `size`.
        """
        if x.shape[1:3] != (self.size, self.size):
            raise ValueError(f"this CLIP reads {self.size}x{self.size} pixels, not {x.shape[1:3]}")
        x = Conv(
            self.width,
            kernel_init,
            size=self.patch,
            strides=self.patch,
            padding=NONE,
            use_bias=False,
            names=(None, "embed"),
            dtype=self.dtype,
            name="patches",
        )(x)
        x = x.reshape(x.shape[0], -1, self.width)
        first = self.param("class", named(normal(0.02), ("embed",)), (self.width,), jnp.float32)
        first = jnp.broadcast_to(first.astype(x.dtype), (x.shape[0], 1, self.width))
        x = jnp.concatenate([first, x], axis=1)
        x = x + _table(self, "positions", (x.shape[1], self.width), None).astype(x.dtype)
        x = LayerNorm(EPSILON, name="norm_in")(x)
        before = x
        for i in range(self.depth):
            before = x
            x = EncoderBlock(
                self.heads,
                self.hidden,
                EPSILON,
                self.activation,
                dtype=self.dtype,
                name=f"block_{i}",
            )(x)
        x = x.astype(jnp.float32)
        pooled = LayerNorm(EPSILON, name="norm")(x[:, 0])
        return {"last": x, "penultimate": before.astype(jnp.float32), "pooled": pooled}


class CLIP(nn.Module):
    """Both towers with their projections. The fields of ViT-B/32 are the defaults."""

    image_size: int = option(224, "side of the images in pixels")
    patch: int = option(32, "side of a patch in pixels")
    image_width: int = option(768, "width of the image tower")
    image_depth: int = option(12, "blocks of the image tower")
    image_heads: int = option(12, "attention heads of the image tower")
    image_hidden: int = option(3072, "width inside the image tower's feed-forward layers")
    vocabulary: int = option(49408, "tokens of the text tower")
    positions: int = option(77, "longest text in tokens")
    text_width: int = option(512, "width of the text tower")
    text_depth: int = option(12, "blocks of the text tower")
    text_heads: int = option(8, "attention heads of the text tower")
    text_hidden: int = option(2048, "width inside the text tower's feed-forward layers")
    end: int = option(49407, "the token that ends a text, whose state stands for the text")
    embedding: int = option(512, "width of the shared space")
    activation: str = option("quick_gelu", "quick_gelu (OpenAI's weights), gelu or gelu_tanh")
    dtype: str = option("float32", "what products compute in: float32 or bfloat16")

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is {self.activation!r}; choose one of {list(ACTIVATIONS)}"
            )
        if self.image_size % self.patch:
            raise ValueError(f"patch {self.patch} does not divide image_size {self.image_size}")
        if self.image_width % self.image_heads or self.text_width % self.text_heads:
            raise ValueError("heads must divide the width of their tower")
        super().__post_init__()

    def setup(self):
        self.text = TextTower(
            self.vocabulary,
            self.positions,
            self.text_width,
            self.text_depth,
            self.text_heads,
            self.text_hidden,
            self.end,
            self.activation,
            self.dtype,
        )
        self.image = ImageTower(
            self.image_size,
            self.patch,
            self.image_width,
            self.image_depth,
            self.image_heads,
            self.image_hidden,
            self.activation,
            self.dtype,
        )
        project = {"names": ("embed", None), "use_bias": False}
        self.text_projection = Linear((self.embedding,), **project)
        self.image_projection = Linear((self.embedding,), **project)
        self.logit_scale = self.param("logit_scale", _initial_scale, ())

    def encode_text(self, tokens: Array) -> dict[str, Array]:
        """Returns the text tower's states and "embedding" [b, e], not normalised.

        `tokens`: int32 [b, l], begun and ended by their special tokens, padded after the end.
        """
        out = self.text(tokens)
        return {**out, "embedding": self.text_projection(out["pooled"])}

    def encode_image(self, x: Array) -> dict[str, Array]:
        """Returns the image tower's states and "embedding" [b, e], not normalised.

        `x`: pixels [b, s, s, 3] prepared by `prepare`.
        """
        out = self.image(x)
        return {**out, "embedding": self.image_projection(out["pooled"])}

    def __call__(self, x: Array, tokens: Array) -> dict[str, Array]:
        """Returns {"image": [b, e], "text": [c, e], "logits": [b, c]}: unit embeddings, scaled
        cosines.
        """
        image = unit(self.encode_image(x)["embedding"])
        text = unit(self.encode_text(tokens)["embedding"])
        logits = jnp.exp(self.logit_scale) * image @ text.T
        return {"image": image, "text": text, "logits": logits}


def prepare(x: Array) -> Array:
    """Returns pixels 0..255 [b, s, s, 3] as the image tower wants them, float32."""
    return (x.astype(jnp.float32) / 255.0 - jnp.asarray(MEAN)) / jnp.asarray(STD)


def unit(x: Array) -> Array:
    """Returns x with rows of length 1."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _initial_scale(key: Array, shape: tuple[int, ...]) -> Array:
    return jnp.full(shape, jnp.log(1 / 0.07), jnp.float32)


def _table(module: nn.Module, name: str, shape: tuple[int, int], axis: str | None) -> Array:
    return module.param(name, named(normal(0.02), (axis, "embed")), shape, jnp.float32)


_LARGE = {
    "patch": 14,
    "image_width": 1024,
    "image_depth": 24,
    "image_heads": 16,
    "image_hidden": 4096,
    "text_width": 768,
    "text_heads": 12,
    "text_hidden": 3072,
    "embedding": 768,
}
VARIANTS = {
    "b32": {},
    "b16": {"patch": 16},
    "l14": _LARGE,
    "l14-336": {**_LARGE, "image_size": 336},
}
