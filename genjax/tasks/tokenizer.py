"""The task of training an image tokenizer: reconstruction through codes, with or without a GAN."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp

from genjax.core.arrays import Array, Tree
from genjax.core.registry import choice, option
from genjax.core.types import ArraySpec, Aux, Player, Progress, View
from genjax.models import MODELS
from genjax.models.vit_vqgan import Coded, ViTVQGAN
from genjax.objectives.gan import DISCRIMINATOR, Adversary
from genjax.objectives.vq import ENCODER, Parts, VQGANLoss
from genjax.tasks.codec import file_hash
from genjax.tasks.rivals import check_discriminator, judge, notice_without, open_lpips, rivals

DECODER = "decoder"
STAGES = ("all", "decoder")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A network that turns images into codes and back (ViT-VQGAN, Parti's image tokenizer).

    Its networks are "encoder" (with the codebook), "decoder" and, with a discriminator,
    "discriminator". The stage "decoder" trains decoder and discriminator alone: start it with
    `init.encoder` (and `init.decoder`) from the workdir of an earlier stage. Players: "tokenizer",
    "discriminator", and "r1", which shares the discriminator's optimiser.
    """

    model: Any = choice(MODELS, {"name": "vit_vqgan", "variant": "SS"}, "encoder and decoder")
    discriminator: Any = choice(MODELS, None, "the discriminator (None: no adversarial loss)")
    objective: VQGANLoss = option(VQGANLoss(), "the weights of the losses")
    adversary: Adversary = option(Adversary(), "the discriminator's loss and regularisers")
    lpips: str = option("", "LPIPS weights; empty: no perceptual loss")
    stage: str = option("all", "all, or decoder: encoder and codebook stay as they are")
    image: tuple[int, int, int] = option((256, 256, 3), "height, width and channels of the pixels")
    levels: int = option(256, "grey levels of the stored pixels (digits: 17)")

    def __post_init__(self):
        if not isinstance(self.model, ViTVQGAN):
            raise ValueError(f"model: a {type(self.model).__name__} makes no codes of images")
        if self.levels < 2:
            raise ValueError(f"levels must be at least 2, not {self.levels}")
        if self.stage not in STAGES:
            raise ValueError(f"stage: {self.stage!r} is none of {', '.join(STAGES)}")
        if tuple(self.image) != self.model.image:
            raise ValueError(
                f"image is {tuple(self.image)}, but patch {self.model.patch} and grid "
                f"{tuple(self.model.grid)} of the model make images of {self.model.image}"
            )
        check_discriminator(self.discriminator, self.image)
        if self.objective.revive and not hasattr(self.model.quantizer, "revived"):
            raise ValueError("objective.revive: this quantiser has no table whose codes could die")

    # --- what training asks for -------------------------------------------------------------

    @property
    def streams(self) -> dict[str, dict[str, ArraySpec]]:
        return {"main": {"image": ArraySpec(self.image, "uint8", ("height", "width", "channels"))}}

    @property
    def resting(self) -> tuple[str, ...]:
        """The networks among the parameters that no player trains."""
        return (ENCODER,) if self.stage == "decoder" else ()

    @cached_property
    def parts(self) -> Parts:
        likelihood = self.model.head == "logit_laplace"
        squeeze = self.model.squeeze
        return Parts(
            pixels=lambda stream: self.from_pixels(stream["image"]),
            reconstruct=self.reconstruct,
            target=lambda x: (1.0 - 2.0 * squeeze) * x + squeeze,
            size=self.model.quantizer.size,
            distribution=self.model.distribution if likelihood else None,
            discriminate=None if self.discriminator is None else judge(self.discriminator),
            perceptual=self._perceptual if self.lpips else None,
        )

    @cached_property
    def players(self) -> tuple[Player, ...]:
        parts, revive = self.parts, self.objective.revive and self.stage == "all"
        tokenizer = Player(
            "tokenizer",
            (ENCODER, DECODER) if self.stage == "all" else (DECODER,),
            partial(self.objective, parts),
            revise=partial(self.objective.revised, self._revived) if revive else None,
        )
        if parts.discriminate is None:
            return (tokenizer,)
        made = lambda view, x: self.reconstruct(view.params, x).image  # noqa: E731
        return (tokenizer, *rivals(self.adversary, self.discriminator, parts.pixels, made))

    def init(self, key: Array) -> dict[str, dict[str, Tree]]:
        first, second = jax.random.split(key)
        x = jnp.zeros((1, *self.image), jnp.float32)
        made = dict(self.model.init(first, x)["params"])
        params: dict[str, Tree] = {DECODER: {"decoder": made.pop("decoder")}}
        params[ENCODER] = made
        mutable: dict[str, Tree] = {}
        if self.stage == "all":
            quantizer = self.model.quantizer
            mutable[ENCODER] = {"codes": self.objective.state(quantizer.size, quantizer.dim)}
        if self.discriminator is not None:
            params[DISCRIMINATOR] = self.discriminator.init(second, x)["params"]
            if self.adversary.lecam:
                mutable[DISCRIMINATOR] = self.adversary.state()
        return {"params": params, "mutable": mutable}

    def load_frozen(self) -> dict[str, Tree]:
        """Returns {"lpips": its variables}, or {} and a notice that the loss is off."""
        if self.lpips:
            return {"lpips": self._lpips[1]}
        notice_without(self.objective.perceptual)
        return {}

    def frozen_shapes(self) -> dict[str, Tree]:
        """Returns the shapes of what `load_frozen` returns, for plans; LPIPS's file is read."""
        variables = {"lpips": self._lpips[1]} if self.lpips else {}
        return jax.eval_shape(lambda: variables)

    def record(self) -> dict[str, str]:
        """Returns path, format and SHA-256 of the frozen network's file ({} without one)."""
        if not self.lpips:
            return {}
        return {"path": self.lpips, "format": "lpips", "sha256": file_hash(self.lpips)}

    def heldout(self, params: dict[str, Tree], view: View, batch: Mapping, key: Array) -> Aux:
        """Returns the tokenizer's metrics; "usage" is that of each batch (the paper: of 256)."""
        still = Progress(0, 0, 1)
        return self.objective(self.parts, params, view, batch, key, still, train=False)[1]

    def forward_flops(self) -> float:
        return self.model.forward_flops(self.image)

    # --- what others ask for ----------------------------------------------------------------

    def variables(self, params: Mapping[str, Tree]) -> dict[str, Tree]:
        """Returns the variables of `model` (encoder, quantizer, decoder) of the networks."""
        return {"params": {**params[ENCODER], **params[DECODER]}}

    def reconstruct(self, params: Mapping[str, Tree], x: Array) -> Coded:
        """Returns images x [b, h, w, c] in [0, 1] through the codes."""
        return self.model.apply(self.variables(params), x)  # pyright: ignore[reportReturnType]

    def redraw(self, params: Mapping[str, Tree], frozen: Mapping[str, Tree], x: Array) -> Array:
        """Returns what a sample grid shows beside images x [b, h, w, c]: them, reconstructed."""
        del frozen
        return self.reconstruct(params, x).image

    def encode(self, params: Mapping[str, Tree], image: Array) -> Array:
        """Returns codes int32 [b, l] of stored grey values [b, h, w, c], by the encoder alone."""
        variables = {"params": params[ENCODER]}
        x = self.from_pixels(image)
        return self.model.apply(variables, x, method=ViTVQGAN.encode)  # pyright: ignore[reportReturnType]

    def decode(self, params: Mapping[str, Tree], codes: Array) -> Array:
        """Returns images [b, h, w, c] in [0, 1] of codes [b, l]."""
        return self.model.apply(self.variables(params), codes, method=ViTVQGAN.decode)  # pyright: ignore[reportReturnType]

    def from_pixels(self, image: Array) -> Array:
        """Returns stored grey values 0 .. levels-1 as float32 in [0, 1]."""
        return image.astype(jnp.float32) * (1.0 / (self.levels - 1))

    def to_uint8(self, x: Array) -> Array:
        """Returns [0, 1] as 0 .. 255, rounded half up."""
        scaled = jnp.floor(x.astype(jnp.float32) * 255.0 + 0.5)
        return jnp.clip(scaled, 0, 255).astype(jnp.uint8)

    # --- its networks -----------------------------------------------------------------------

    def _revived(self, encoder: Tree, dead: Array, points: Array) -> Tree:
        table = self.model.quantizer.revived(encoder["quantizer"], dead, points)
        return {**encoder, "quantizer": table}

    @cached_property
    def _lpips(self) -> tuple[Any, dict[str, Tree]]:
        return open_lpips(self.lpips)

    def _perceptual(self, frozen: Mapping[str, Tree], x: Array, y: Array) -> Array:
        return self._lpips[0].apply(frozen["lpips"], 2.0 * x - 1.0, 2.0 * y - 1.0)
