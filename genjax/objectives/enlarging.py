"""The losses of a network that enlarges images: pixels, perception and an adversary."""

import dataclasses
from collections.abc import Callable, Mapping

import jax.numpy as jnp

from genjax.core.arrays import Array, Tree
from genjax.core.registry import option
from genjax.core.types import Aux, Progress, View
from genjax.objectives.vq import picture_terms, psnr


@dataclasses.dataclass(frozen=True)
class EnlargingParts:
    """What the objective is given by the task; images are [b, h, w, c] in [0, 1].

    `pixels(stream)`: the large images; `small(frozen, x)`: what is enlarged of them;
    `enlarge(networks, small)`: the images made, unclipped; `discriminate` and `perceptual` as in
    `genjax.objectives.vq.Parts`.
    """

    pixels: Callable[[Mapping[str, Array]], Array]
    small: Callable[[Mapping[str, Tree], Array], Array]
    enlarge: Callable[[Mapping[str, Tree], Array], Array]
    discriminate: Callable[[Mapping[str, Tree], Array], Array] | None = None
    perceptual: Callable[[Mapping[str, Tree], Array, Array], Array] | None = None


@dataclasses.dataclass(frozen=True)
class Enlarging:
    """l2 L_2 + perceptual L_p + adversarial L_adv, with ViT-VQGAN's weights (Parti, section 2)."""

    l2: float = option(1.0, "weight of the squared error")
    perceptual: float = option(0.1, "weight of LPIPS, where weights are given")
    adversarial: float = option(0.1, "weight of -log D(y), where there is a discriminator")

    def __post_init__(self):
        if min(self.l2, self.perceptual, self.adversarial) < 0:
            raise ValueError("weights of losses must not be negative")

    def __call__(
        self,
        parts: EnlargingParts,
        trained: dict[str, Tree],
        view: View,
        batch: Mapping,
        key: Array,
        progress: Progress,
    ) -> tuple[Array, Aux]:
        """Returns (scalar float32 loss, `Aux`: every term unweighted and "psnr"; sum, count)."""
        del key, progress
        networks = {**view.params, **trained}
        x = parts.pixels(batch["main"])
        y = parts.enlarge(networks, parts.small(view.frozen, x)).astype(jnp.float32)
        terms = picture_terms(
            x,
            y,
            networks,
            view.frozen,
            parts.discriminate if self.adversarial else None,
            parts.perceptual if self.perceptual else None,
        )
        each = sum(getattr(self, name) * value for name, value in terms.items())
        found = {**terms, "psnr": psnr(jnp.clip(y, 0, 1), x), "loss": each}
        count = jnp.float32(len(x))
        return jnp.mean(each), Aux({k: (jnp.sum(v), count) for k, v in found.items()})
