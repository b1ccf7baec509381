"""Blocks of Parti's transformers, and which earlier codes a code sees.

All products are without bias; norms and the residual stream are float32, products run in `dtype`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from genjax.core.arrays import Array
from genjax.layers.attention import Implementation, attention
from genjax.layers.linear import Linear
from genjax.layers.mlp import gelu
from genjax.layers.norm import LayerNorm, RMSNorm
from genjax.parallel.rules import constrain

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": jax.nn.relu, "gelu": gelu}
PATTERNS = ("conv", "dense")
_TOKENS = ("batch", None, None)


def offsets(pattern: str, kernel: int, rows: int, cols: int) -> np.ndarray:
    """Returns the distances i - j at which position i sees position j, bool [span].

    Entry o says whether distance o is seen; no larger one is. "conv" with r = (kernel - 1)/2 is
    {0..r} and {a cols - r .. a cols + r} for a = 1..r: a causal kernel x kernel convolution with
    wrap-around at the rows' ends, without which the last code of a row could not see the one above
    the next. "dense" is every distance.
    """
    length = rows * cols
    if pattern == "dense":
        return np.ones(length, bool)
    r = kernel // 2
    steps = np.arange(-r, r + 1)
    seen = np.unique(np.concatenate([a * cols + steps for a in range(r + 1)]))
    seen = seen[(seen >= 0) & (seen < length)]
    out = np.zeros(seen.max() + 1, bool)
    out[seen] = True
    return out


def visibility(seen: np.ndarray, length: int) -> np.ndarray:
    """Returns bool [length, length]: whether query i sees key j, from `offsets`."""
    distance = np.arange(length)[:, None] - np.arange(length)
    inside = (distance >= 0) & (distance < len(seen))
    return inside & seen[np.clip(distance, 0, len(seen) - 1)]


class FeedForward(nn.Module):
    """[..., d] -> [..., d]: Linear to `hidden`, activation, dropout, Linear back, dropout."""

    hidden: int
    activation: str
    dropout: float
    train: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        d = x.shape[-1:]
        names = ("embed", "mlp")
        h = Linear((self.hidden,), names, use_bias=False, dtype=self.dtype, name="in")(x)
        h = ACTIVATIONS[self.activation](h)
        h = nn.Dropout(self.dropout, deterministic=not self.train)(h)
        h = Linear(d, names[::-1], use_bias=False, dtype=self.dtype, name="out")(h)
        return nn.Dropout(self.dropout, deterministic=not self.train)(h)


class Heads(nn.Module):
    """Queries, keys and values of attention, and the product after it.

    Each kernel is a matrix [d, heads x head dim], so that Adafactor's row and column means are
    those of the whole matrix.
    """

    heads: int
    width: int
    qk_norm: bool
    dtype: str

    def setup(self):
        self.q, self.k, self.v = (self._linear(("embed", "heads")) for _ in range(3))
        self.out = self._linear(("heads", "embed"))
        if self.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(axis="kv"), RMSNorm(axis="kv")

    def _linear(self, names) -> Linear:
        return Linear((self.width,), names, use_bias=False, dtype=self.dtype)

    def query(self, x: Array) -> Array:
        """Returns [b, l, heads, head dim] of x [b, l, d]."""
        q = self._split(self.q(x))
        return self.q_norm(q) if self.qk_norm else q

    def key_value(self, x: Array) -> tuple[Array, Array]:
        """Returns keys and values [b, l, heads, head dim] of x [b, l, d]."""
        k = self._split(self.k(x))
        return self.k_norm(k) if self.qk_norm else k, self._split(self.v(x))

    def merge(self, y: Array) -> Array:
        """Returns [b, l, d] of what attention gave, [b, l, heads, head dim]."""
        return self.out(y.reshape(*y.shape[:2], -1))

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.heads, -1)


class EncoderBlock(nn.Module):
    """x + Attention(LN x), then the same with the MLP; padding is not seen. The body of a scan.

    x: [b, s, d]; visible: bool [b, s].
    """

    heads: int
    hidden: int
    activation: str
    dropout: float
    qk_norm: bool
    train: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array, visible: Array) -> tuple[Array, None]:
        heads = Heads(self.heads, x.shape[-1], self.qk_norm, self.dtype, name="attention")
        h = LayerNorm(name="norm1")(x)
        k, v = heads.key_value(h)
        y = heads.merge(attention(heads.query(h), k, v, mask=visible[:, None, None]))
        x = x + nn.Dropout(self.dropout, deterministic=not self.train)(y)
        h = LayerNorm(name="norm2")(x)
        feed = FeedForward(
            self.hidden, self.activation, self.dropout, self.train, self.dtype, name="mlp"
        )
        return constrain(x + feed(h), _TOKENS), None


class DecoderBlock(nn.Module):
    """x + SelfAttention(LN x), x + CrossAttention(LN x) with a text, x + MLP(LN x).

    `seen`: distances of `offsets`; None is all of them. The scan over depth calls it; `project` and
    `finish` are its halves before and after self-attention, for decoding with a cache.
    """

    heads: int
    width: int
    hidden: int
    cross: bool
    activation: str
    dropout: float
    qk_norm: bool
    implementation: Implementation
    train: bool
    keep: bool
    dtype: str
    seen: tuple[bool, ...] | None = None

    def setup(self):
        self.norm1, self.norm2 = LayerNorm(), LayerNorm()
        self.attention = Heads(self.heads, self.width, self.qk_norm, self.dtype)
        if self.cross:
            self.norm3 = LayerNorm()
            self.text = Heads(self.heads, self.width, self.qk_norm, self.dtype)
        self.mlp = FeedForward(self.hidden, self.activation, self.dropout, self.train, self.dtype)
        self.drop = nn.Dropout(self.dropout, deterministic=not self.train)

    def __call__(self, x: Array, text: Array | None, visible: Array | None, mask: Any):
        """Returns (x [b, l, d], keys and values [b, l, heads, head dim] if `keep` else None).

        `text`: [b, s, d] with `visible` bool [b, s], or None; `mask`: bool, to [b, heads, l, l];
        None is what `seen` says, or causal without it.
        """
        q, k, v = self.project(x)
        if mask is None and self.seen is not None:
            mask = visibility(np.asarray(self.seen), x.shape[1])  # known to kernels: see attention
        causal = mask is None
        y = attention(q, k, v, mask=mask, causal=causal, implementation=self.implementation)
        seen = None if text is None else self.read(text)
        x = constrain(self.finish(x, y, seen, visible), _TOKENS)
        return x, (k, v) if self.keep else None

    def project(self, x: Array) -> tuple[Array, Array, Array]:
        """Returns self-attention's queries, keys and values [b, l, heads, head dim]."""
        h = self.norm1(x)
        return self.attention.query(h), *self.attention.key_value(h)

    def read(self, text: Array) -> tuple[Array, Array]:
        """Returns the keys and values [b, s, heads, head dim] of an encoded text."""
        return self.text.key_value(text)

    def finish(
        self, x: Array, y: Array, text: tuple[Array, Array] | None, visible: Array | None
    ) -> Array:
        """Returns the block's output from its input and what self-attention saw.

        `text`: keys and values of `read`, or None.
        """
        x = x + self.drop(self.attention.merge(y))
        if text is not None:
            assert visible is not None
            q = self.text.query(self.norm3(x))
            y = attention(q, *text, mask=visible[:, None, None])
            x = x + self.drop(self.text.merge(y))
        return x + self.mlp(self.norm2(x))
