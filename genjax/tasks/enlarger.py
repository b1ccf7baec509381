"""The task of enlarging what a frozen tokenizer reconstructs: Parti's super-resolution."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp

from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.core.registry import choice, option
from genjax.core.types import ArraySpec, Aux, Player, Progress, View
from genjax.models import MODELS
from genjax.models.wdsr import WDSR
from genjax.objectives.enlarging import Enlarging, EnlargingParts
from genjax.objectives.gan import DISCRIMINATOR, Adversary
from genjax.tasks.image_codes import TOKENIZERS
from genjax.tasks.rivals import check_discriminator, judge, notice_without, open_lpips, rivals


@dataclasses.dataclass(frozen=True)
class Enlarger:
    """A network that learns to make large originals of their small reconstructions.

    The originals are averaged over blocks to the tokenizer's size, encoded and decoded; nobody
    trains the tokenizer. Players: "model", "discriminator", and "r1", which shares its optimiser.
    """

    model: Any = choice(MODELS, {"name": "wdsr"}, "the network that enlarges")
    discriminator: Any = choice(MODELS, None, "the discriminator (None: no adversarial loss)")
    objective: Enlarging = option(Enlarging(), "the weights of the losses")
    adversary: Adversary = option(Adversary(), "the discriminator's loss and regularisers")
    codec: Any = choice(TOKENIZERS, {"name": "vit_vqgan"}, "the tokenizer, which nobody trains")
    lpips: str = option("", "LPIPS weights; empty: no perceptual loss")
    levels: int = option(256, "grey levels of the stored pixels (digits: 17)")

    def __post_init__(self):
        if not isinstance(self.model, WDSR):
            raise ValueError(f"model: a {type(self.model).__name__} enlarges no images")
        if self.levels < 2:
            raise ValueError(f"levels must be at least 2, not {self.levels}")
        check_discriminator(self.discriminator, self.image)

    @property
    def image(self) -> tuple[int, int, int]:
        """Height, width and channels of the large pixels."""
        height, width, channels = self.codec.image
        return (self.model.factor * height, self.model.factor * width, channels)

    # --- what training asks for -------------------------------------------------------------

    @property
    def streams(self) -> dict[str, dict[str, ArraySpec]]:
        return {"main": {"image": ArraySpec(self.image, "uint8", ("height", "width", "channels"))}}

    @cached_property
    def parts(self) -> EnlargingParts:
        return EnlargingParts(
            pixels=lambda stream: self.from_pixels(stream["image"]),
            small=self.small,
            enlarge=self.enlarge,
            discriminate=None if self.discriminator is None else judge(self.discriminator),
            perceptual=self._perceptual if self.lpips else None,
        )

    @cached_property
    def players(self) -> tuple[Player, ...]:
        player = Player("model", ("model",), partial(self.objective, self.parts))
        if self.discriminator is None:
            return (player,)
        made = lambda view, x: self.redraw(view.params, view.frozen, x)  # noqa: E731
        return (player, *rivals(self.adversary, self.discriminator, self.parts.pixels, made))

    def init(self, key: Array) -> dict[str, dict[str, Tree]]:
        first, second = jax.random.split(key)
        small = jnp.zeros((1, *self.codec.image), jnp.float32)
        params = {"model": self.model.init(first, small)["params"]}
        mutable: dict[str, Tree] = {}
        if self.discriminator is not None:
            x = jnp.zeros((1, *self.image), jnp.float32)
            params[DISCRIMINATOR] = self.discriminator.init(second, x)["params"]
            if self.adversary.lecam:
                mutable[DISCRIMINATOR] = self.adversary.state()
        return {"params": params, "mutable": mutable}

    def load_frozen(self, tokenizer: Tree | None = None) -> dict[str, Tree]:
        """Returns {"codec": the tokenizer's variables, "lpips": those of the loss, if it is on}.

        `tokenizer`: variables that the caller has read. Raises `UserError` where there are none.
        """
        if tokenizer is None and not self.codec.path:
            raise UserError("task.codec.path: must be given; a trained tokenizer")
        frozen = {"codec": self.codec.load() if tokenizer is None else tokenizer}
        if self.lpips:
            return {**frozen, "lpips": self._lpips[1]}
        notice_without(self.objective.perceptual)
        return frozen

    def heldout(self, params: dict[str, Tree], view: View, batch: Mapping, key: Array) -> Aux:
        return self.objective(self.parts, params, view, batch, key, Progress(0, 0, 1))[1]

    def forward_flops(self) -> float:
        return self.model.forward_flops(self.image)

    # --- what others ask for ----------------------------------------------------------------

    def small(self, frozen: Mapping[str, Tree], x: Array) -> Array:
        """Returns large images [b, h, w, c] in [0, 1] averaged, encoded and decoded."""
        f, (h, w, c) = self.model.factor, self.codec.image
        averaged = jnp.mean(x.reshape(len(x), h, f, w, f, c), axis=(2, 4))
        codes = self.codec.encode(frozen["codec"], averaged)
        return jax.lax.stop_gradient(jnp.clip(self.codec.decode(frozen["codec"], codes), 0.0, 1.0))

    def enlarge(self, params: Mapping[str, Tree], small: Array) -> Array:
        """Returns images in [0, 1] at `model.factor` times the size, unclipped."""
        return self.model.apply({"params": params["model"]}, small)  # pyright: ignore[reportReturnType]

    def redraw(self, params: Mapping[str, Tree], frozen: Mapping[str, Tree], x: Array) -> Array:
        """Returns what a sample grid shows beside large images x: their small ones, enlarged."""
        return self.enlarge(params, self.small(frozen, x))

    def from_pixels(self, image: Array) -> Array:
        """Returns stored grey values 0 .. levels-1 as float32 in [0, 1]."""
        return image.astype(jnp.float32) * (1.0 / (self.levels - 1))

    def to_uint8(self, x: Array) -> Array:
        """Returns [0, 1] as 0 .. 255, rounded half up."""
        scaled = jnp.floor(x.astype(jnp.float32) * 255.0 + 0.5)
        return jnp.clip(scaled, 0, 255).astype(jnp.uint8)

    @cached_property
    def _lpips(self) -> tuple[Any, dict[str, Tree]]:
        return open_lpips(self.lpips)

    def _perceptual(self, frozen: Mapping[str, Tree], x: Array, y: Array) -> Array:
        return self._lpips[0].apply(frozen["lpips"], 2.0 * x - 1.0, 2.0 * y - 1.0)
