"""The non-saturating GAN with logistic losses: generator, discriminator, its two regularisers."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from genjax.core.arrays import Array, Tree
from genjax.core.registry import option
from genjax.core.types import Aux, Progress, View

DISCRIMINATOR = "discriminator"

# (networks, images [b, h, w, c]) -> logits [b]
Discriminate = Callable[[Mapping[str, Tree], Array], Array]


@dataclasses.dataclass(frozen=True)
class Adversary:
    """The discriminator's loss 1/2 E[softplus(-D(x)) + softplus(D(y))], and its regularisers.

    R1 (Mescheder et al. 2018): gamma/2 E |grad_x D(x)|^2, the sum over pixels, as a player of its
    own every `r1_every` steps, then that many times as heavy. LeCam (Tseng et al. 2021, eq. 3): E
    (D(x) - m_y)^2 + E (D(y) - m_x)^2 with running means m of D on real (x) and made (y) images.
    """

    r1: float = option(10.0, "gamma of R1; 0: none")
    r1_every: int = option(16, "steps between two updates of R1")
    lecam: float = option(0.0, "weight of LeCam's term; 0: none")
    lecam_decay: float = option(0.999, "of LeCam's running means")

    def __post_init__(self):
        if min(self.r1, self.lecam) < 0 or self.r1_every < 1:
            raise ValueError("r1 and lecam must not be negative, r1_every at least 1")
        if not 0 <= self.lecam_decay < 1:
            raise ValueError(f"lecam_decay must lie in [0, 1), not {self.lecam_decay}")

    def state(self) -> dict[str, Any]:
        """Returns the mutable collections of the discriminator: LeCam's means, or nothing."""
        zero = jnp.zeros((), jnp.float32)
        return {"lecam": {"real": zero, "fake": zero}} if self.lecam else {}

    def loss(
        self,
        pixels: Callable[[Mapping[str, Array]], Array],
        made: Callable[[View, Array], Array],
        discriminate: Discriminate,
        trained: dict[str, Tree],
        view: View,
        batch: Mapping,
        key: Array,
        progress: Progress,
    ) -> tuple[Array, Aux]:
        """Returns the discriminator's (scalar loss, `Aux`) on the stream "main".

        `made(view, x)`: the generator's images of x; no gradient goes there. Metrics: "loss",
        "real" and "fake" (mean logits), "right" (share of both judged rightly), "lecam".
        """
        del key, progress
        x = pixels(batch["main"])
        y = jax.lax.stop_gradient(made(view, x))
        real, fake = discriminate(trained, x), discriminate(trained, y)
        each = 0.5 * (jax.nn.softplus(-real) + jax.nn.softplus(fake))
        found = {"real": real, "fake": fake, "right": 0.5 * (1.0 * (real > 0) + (fake < 0))}
        mutable = {}
        if self.lecam:
            means = view.mutable[DISCRIMINATOR]["lecam"]
            found["lecam"] = lecam(real, fake, means["real"], means["fake"])
            each = each + self.lecam * found["lecam"]
            new = {
                name: self.lecam_decay * means[name] + (1 - self.lecam_decay) * jnp.mean(logits)
                for name, logits in (("real", real), ("fake", fake))
            }
            new = jax.lax.stop_gradient(new)
            mutable = {DISCRIMINATOR: {**view.mutable[DISCRIMINATOR], "lecam": new}}
        count = jnp.float32(len(x))
        metrics = {k: (jnp.sum(v), count) for k, v in (found | {"loss": each}).items()}
        return jnp.mean(each), Aux(metrics, mutable)

    def penalty(
        self,
        pixels: Callable[[Mapping[str, Array]], Array],
        discriminate: Discriminate,
        trained: dict[str, Tree],
        view: View,
        batch: Mapping,
        key: Array,
        progress: Progress,
    ) -> tuple[Array, Aux]:
        """Returns (r1_every gamma/2 E |grad D|^2, `Aux`: the "loss" and the bare "gradient")."""
        del view, key, progress
        x = pixels(batch["main"])
        squared = squared_gradient(lambda x: discriminate(trained, x), x)
        each = self.r1_every * (self.r1 / 2) * squared
        count = jnp.float32(len(x))
        metrics = {"loss": (jnp.sum(each), count), "gradient": (jnp.sum(squared), count)}
        return jnp.mean(each), Aux(metrics)


def generator_loss(fake: Array) -> Array:
    """Returns softplus(-D(y)) of the logits of made images, elementwise."""
    return jax.nn.softplus(-fake)


def squared_gradient(discriminate: Callable[[Array], Array], x: Array) -> Array:
    """Returns |grad_x D(x)|^2 of every image of x [b, ...], the sum over its numbers: [b]."""
    gradient = jax.grad(lambda x: jnp.sum(discriminate(x)))(x).astype(jnp.float32)
    return jnp.sum(jnp.square(gradient).reshape(len(x), -1), axis=1)


def lecam(real: Array, fake: Array, mean_real: Array, mean_fake: Array) -> Array:
    """Returns LeCam's (D(x) - m_y)^2 + (D(y) - m_x)^2 [b]."""
    return jnp.square(real - mean_fake) + jnp.square(fake - mean_real)
