"""The losses of CoCa: images and texts told apart in a batch, and captions told word by word."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core import keys
from genjax.core.arrays import Array, Tree
from genjax.core.registry import option
from genjax.core.types import Aux, Progress, View
from genjax.objectives.codes import cross_entropy

PAD = 0


@dataclasses.dataclass(frozen=True)
class Captioning:
    """contrastive (L_image-to-text + L_text-to-image)/2 + caption L_caption (CoCa, section 3.2).

    The contrastive losses are cross entropies of each image among the batch's texts and the other
    way round, of scaled cosines. Equal texts of a batch are not held against each other, which
    matters where a data set repeats its captions. L_caption is the mean over the text's tokens, the
    end mark included.
    """

    contrastive: float = option(1.0, "weight of the contrastive losses")
    caption: float = option(2.0, "weight of the captions' cross entropy")

    def __post_init__(self):
        if min(self.contrastive, self.caption) < 0:
            raise ValueError("weights of losses must not be negative")

    def __call__(
        self,
        outputs: Callable[..., dict[str, Array]],
        trained: dict[str, Tree],
        view: View,
        batch: Mapping,
        key: Array,
        progress: Progress,
        *,
        train: bool = True,
    ) -> tuple[Array, Aux]:
        """Returns (scalar float32 loss, `Aux`); it trains "model" on the stream "main".

        `outputs(params, image, tokens, train=, key=)`: {"image", "text"} unit vectors [b, e],
        "logits" [b, s, V], "scale" (). Metrics (sum, count): "loss", "contrastive" in nats a pair,
        "caption" in nats a token, "accuracy" of finding an image's text in the batch.
        """
        del view, progress
        stream = batch["main"]
        tokens = stream["tokens"]
        found = outputs(
            trained["model"], stream["image"], tokens, train=train, key=keys.fold(key, "dropout")
        )
        pairs, right = contrast(found["image"], found["text"], found["scale"], tokens)
        words, weight = told(found["logits"], tokens), tokens > PAD
        count = jnp.float32(len(tokens))
        said = jnp.sum(words) / jnp.maximum(jnp.sum(weight), 1)
        total = self.contrastive * jnp.mean(pairs) + self.caption * said
        metrics = {
            "loss": (total * count, count),
            "contrastive": (jnp.sum(pairs), count),
            "caption": (jnp.sum(words), jnp.sum(weight).astype(jnp.float32)),
            "accuracy": (jnp.sum(right), count),
        }
        return total, Aux(metrics=metrics)


def contrast(image: Array, text: Array, scale: Array, tokens: Array) -> tuple[Array, Array]:
    """Returns (the mean of both directions' cross entropies [b], which texts are found [b]).

    `image`, `text`: unit vectors [b, e]; `tokens` [b, s]: pairs whose texts are equal to the own
    one, but not the own one, are left out of the softmax.
    """
    cosines = scale * (image @ text.T)
    marks = fingerprint(tokens)
    same = jnp.all(marks[:, None] == marks[None], axis=-1)
    own = jnp.eye(len(tokens), dtype=bool)
    logits = jnp.where(same & ~own, -jnp.inf, cosines)
    positive = jnp.diagonal(logits)
    losses = 0.5 * sum(jax.nn.logsumexp(logits, axis=a) - positive for a in (0, 1))
    right = (jnp.argmax(logits, axis=1) == jnp.arange(len(tokens))).astype(jnp.float32)
    return losses, right  # pyright: ignore[reportReturnType]


def fingerprint(tokens: Array) -> Array:
    """Returns two 32-bit hashes of each text, uint32 [b, 2]: what is compared of a large batch."""
    factors = np.random.default_rng(0).integers(0, 2**32, (2, tokens.shape[-1]), np.uint32) | 1
    return jnp.sum(tokens.astype(jnp.uint32)[:, None] * jnp.asarray(factors), axis=-1)


def told(logits: Array, tokens: Array) -> Array:
    """Returns the cross entropy of every token [b, s] in nats, 0 at padding."""
    return jnp.where(tokens > PAD, cross_entropy(logits, tokens)[0], 0.0)
