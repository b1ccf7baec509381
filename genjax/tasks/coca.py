"""The task of training CoCa: pictures with captions, and how well a picture fits a text."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import jax.numpy as jnp

from genjax.core.arrays import Array, Tree
from genjax.core.registry import choice, option
from genjax.core.resize import resize
from genjax.core.types import ArraySpec, Aux, Player, Progress, View
from genjax.models import MODELS
from genjax.models.coca import CoCa
from genjax.objectives.captioning import Captioning, told

SCORES = ("contrastive", "caption")


@dataclasses.dataclass(frozen=True)
class Captioner:
    """A CoCa, which scores pictures against texts: Parti keeps the best of its candidates by it.

    The stream holds "image" and the "tokens" of its caption.
    """

    model: Any = choice(MODELS, {"name": "coca"}, "the network")
    objective: Captioning = option(Captioning(), "the weights of the losses")
    score: str = option(
        "contrastive", "contrastive: the cosine (Parti's); caption: ln p(text | image) a token"
    )
    levels: int = option(256, "grey levels of the stored pixels (digits: 17)")

    def __post_init__(self):
        if not isinstance(self.model, CoCa):
            raise ValueError(f"model: a {type(self.model).__name__} captions no images")
        if self.score not in SCORES:
            raise ValueError(f"score: {self.score!r} is none of {', '.join(SCORES)}")
        if self.levels < 2:
            raise ValueError(f"levels must be at least 2, not {self.levels}")

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width and channels of the pixels."""
        return (self.model.size, self.model.size, self.model.channels)

    @property
    def streams(self) -> dict[str, dict[str, ArraySpec]]:
        image = ArraySpec(self.image, "uint8", ("height", "width", "channels"))
        tokens = ArraySpec((self.model.text_length,), "int32", (None,))
        return {"main": {"image": image, "tokens": tokens}}

    @cached_property
    def players(self) -> tuple[Player, ...]:
        return (Player("model", ("model",), partial(self.objective, self._outputs)),)

    def init(self, key: Array) -> dict[str, dict[str, Tree]]:
        x = jnp.zeros((1, *self.image), jnp.float32)
        tokens = jnp.ones((1, self.model.text_length), jnp.int32)
        return {"params": {"model": self.model.init(key, x, tokens)["params"]}, "mutable": {}}

    def load_frozen(self) -> dict[str, Tree]:
        return {}

    def heldout(self, params: dict[str, Tree], view: View, batch: Mapping, key: Array) -> Aux:
        still = Progress(0, 0, 1)
        return self.objective(self._outputs, params, view, batch, key, still, train=False)[1]

    def forward_flops(self) -> float:
        return self.model.forward_flops(self.image)

    def scores(self, params: Tree, images: Array, tokens: Array) -> Array:
        """Returns how well each picture fits its text, float32 [b], by `score`.

        `images` uint8 [b, h, w, c] of any size, values 0 .. 255; `tokens` int32 [b, s].
        """
        x = resize(images, *self.image[:2], "bicubic-antialias") / 255.0
        found = self.model.apply({"params": params}, jnp.clip(x, 0.0, 1.0), tokens)
        if self.score == "contrastive":
            return jnp.sum(found["image"] * found["text"], axis=-1)
        return -jnp.sum(told(found["logits"], tokens), axis=-1) / jnp.sum(tokens > 0, axis=-1)

    def _outputs(self, params: Tree, image: Array, tokens: Array, *, train: bool, key: Array):
        rngs = {"dropout": key} if train else None
        x = image.astype(jnp.float32) * (1.0 / (self.levels - 1))
        return self.model.apply({"params": params}, x, tokens, train=train, rngs=rngs)
