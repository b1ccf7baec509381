"""The task of training a classifier: a feature network for evaluation, learned from the data."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import jax.numpy as jnp

from genjax.core.arrays import Array, Tree
from genjax.core.registry import choice, option
from genjax.core.types import ArraySpec, Aux, Player, Progress, View
from genjax.models import MODELS
from genjax.objectives.classification import Classification


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A network that tells the classes of labelled images apart.

    `levels` is the number of grey levels of the stored pixels; the network sees them in [-1, 1].
    """

    model: Any = choice(MODELS, {"name": "classifier"}, "the network")
    objective: Classification = option(Classification(), "the loss")
    image: tuple[int, int, int] = option((28, 28, 1), "height, width and channels of the pixels")
    levels: int = option(256, "grey levels of the stored pixels (digits: 17)")

    def __post_init__(self):
        if self.levels < 2:
            raise ValueError(f"levels must be at least 2, not {self.levels}")

    @property
    def num_classes(self) -> int:
        return self.model.num_classes

    @property
    def streams(self) -> dict[str, dict[str, ArraySpec]]:
        image = ArraySpec(self.image, "uint8", ("height", "width", "channels"))
        return {"main": {"image": image, "label": ArraySpec((), "int32")}}

    @cached_property
    def players(self) -> tuple[Player, ...]:
        return (Player("model", ("model",), partial(self.objective, self._logits)),)

    def init(self, key: Array) -> dict[str, dict[str, Tree]]:
        variables = self.model.init(key, jnp.zeros((1, *self.image), jnp.float32))
        return {"params": {"model": variables["params"]}, "mutable": {}}

    def load_frozen(self) -> dict[str, Tree]:
        return {}

    def heldout(self, params: dict[str, Tree], view: View, batch: Mapping, key: Array) -> Aux:
        still = Progress(0, 0, 1)
        return self.objective(self._logits, params, view, batch, key, still, train=False)[1]

    def forward_flops(self) -> float:
        return self.model.forward_flops(self.image)

    def predict(
        self, params: Tree, images: Array, *, levels: int | None = None
    ) -> dict[str, Array]:
        """Returns {"features": [b, d], "logits": [b, K]}, float32, of the network's `params`.

        `images` [b, h, w, c] hold grey values 0 .. levels-1 (None: as stored, `self.levels`;
        256 for images made for the eye).
        """
        return self.model.apply({"params": params}, _scaled(images, levels or self.levels))

    def _logits(self, params: Tree, image: Array, *, train: bool, key: Array) -> Array:
        x = _scaled(image, self.levels)
        rngs = {"dropout": key}
        return self.model.apply({"params": params}, x, train=train, rngs=rngs)["logits"]


def _scaled(images: Array, levels: int) -> Array:
    """Returns grey values 0 .. levels-1 as float32 in [-1, 1]."""
    return images.astype(jnp.float32) * (2.0 / (levels - 1)) - 1.0
