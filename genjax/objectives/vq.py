"""The losses of an image tokenizer (ViT-VQGAN, section 3.3), and what its codes do."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from genjax.core import keys
from genjax.core.arrays import Array, Tree, per_sample_mean
from genjax.core.registry import option
from genjax.core.types import Aux, Progress, View
from genjax.objectives.gan import generator_loss

ENCODER = "encoder"  # the network that owns the codes
_LOGIT_EPS = 1e-4  # x = 0 and x = 1 have no logit


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the objectives are given by the task; images are [b, h, w, c] in [0, 1].

    `pixels(stream)`: the images of a stream; `reconstruct(networks, x)`: an object with `image`
    (unclipped), `quantized` (z_q, index, losses, point) and `raw`; `distribution(raw)`: the (mu,
    ln b) of a logit-Laplace head, None for others; `target(x)`: what that head models;
    `discriminate(networks, x)`: logits [b], None without a discriminator; `perceptual(frozen, x,
    y)`: distances [b], None without weights; `size`: number of codes.
    """

    pixels: Callable[[Mapping[str, Array]], Array]
    reconstruct: Callable[[Mapping[str, Tree], Array], Any]
    target: Callable[[Array], Array]
    size: int
    distribution: Callable[[Array], tuple[Array, Array]] | None = None
    discriminate: Callable[[Mapping[str, Tree], Array], Array] | None = None
    perceptual: Callable[[Mapping[str, Tree], Array, Array], Array] | None = None


@dataclasses.dataclass(frozen=True)
class VQGANLoss:
    """vq L_vq + l2 L_2 + logit_laplace L_ll + perceptual L_p + adversarial L_adv.

    L_vq is the sum of the quantiser's losses; L_2 the mean over pixels and channels of (y - x)^2,
    x in [0, 1]; L_ll the mean negative log-likelihood; L_p and L_adv are defined by the networks
    that the task has. A term whose network, head or weights are absent is left out.
    """

    vq: float = option(1.0, "weight of the quantiser's losses")
    l2: float = option(1.0, "weight of the squared error")
    logit_laplace: float = option(0.1, "weight of the likelihood, for models with that head")
    perceptual: float = option(0.1, "weight of LPIPS, where weights are given")
    adversarial: float = option(0.1, "weight of -log D(y), where there is a discriminator")
    dead_after: int = option(100, "updates without use after which a code counts as dead")
    revive: bool = option(False, "put dead codes on random vectors of the batch")

    def __post_init__(self):
        weights = (self.vq, self.l2, self.logit_laplace, self.perceptual, self.adversarial)
        if min(weights) < 0:
            raise ValueError("weights of losses must not be negative")
        if self.dead_after < 1:
            raise ValueError("dead_after must be at least 1")

    def state(self, size: int, dim: int) -> dict[str, Array]:
        """Returns what is remembered of the codes between updates: "idle" [size], int32.

        And, to revive codes, "points" [size, dim], vectors of the last batch.
        """
        idle = {"idle": jnp.zeros((size,), jnp.int32)}
        return idle | ({"points": jnp.zeros((size, dim), jnp.float32)} if self.revive else {})

    def __call__(
        self,
        parts: Parts,
        trained: dict[str, Tree],
        view: View,
        batch: Mapping,
        key: Array,
        progress: Progress,
        *,
        train: bool = True,
    ) -> tuple[Array, Aux]:
        """Returns (scalar float32 loss, `Aux`) over the images of the stream "main".

        Metrics: every term unweighted, "l1", "psnr" (dB, mean over images), and of the batch's
        codes "usage" (share of all codes that occur), "perplexity" and, in training, "dead".
        """
        del progress
        x = parts.pixels(batch["main"])
        networks = {**view.params, **trained}
        coded = parts.reconstruct(networks, x)
        y, quantized = coded.image.astype(jnp.float32), coded.quantized
        terms = picture_terms(
            x,
            y,
            networks,
            view.frozen,
            parts.discriminate if self.adversarial else None,
            parts.perceptual if self.perceptual else None,
        )
        if quantized.losses:
            terms["vq"] = per_sample_mean(sum(quantized.losses.values(), jnp.zeros(())))
        if parts.distribution is not None:
            mu, log_b = parts.distribution(coded.raw)
            terms["logit_laplace"] = per_sample_mean(logit_laplace_nll(parts.target(x), mu, log_b))
        each = sum(getattr(self, name) * value for name, value in terms.items())
        counts = histogram(quantized.index, parts.size)
        found = {
            **terms,
            **{k: per_sample_mean(v) for k, v in quantized.losses.items()},
            "l1": per_sample_mean(jnp.abs(y - x)),
            "psnr": psnr(jnp.clip(y, 0, 1), x),
        }
        one = jnp.ones(())
        metrics = {k: (jnp.sum(v), jnp.float32(len(x))) for k, v in found.items()}
        metrics["loss"] = (jnp.sum(each), jnp.float32(len(x)))
        metrics["usage"] = (jnp.mean(counts > 0, dtype=jnp.float32), one)
        metrics["perplexity"] = (perplexity(counts), one)
        mutable = {}
        if train and "codes" in view.mutable.get(ENCODER, {}):
            state = self._observed(view.mutable[ENCODER]["codes"], counts, quantized.point, key)
            metrics["dead"] = (jnp.sum(state["idle"] >= self.dead_after, dtype=jnp.float32), one)
            mutable = {ENCODER: {**view.mutable[ENCODER], "codes": state}}
        return jnp.mean(each), Aux(metrics, mutable)

    def _observed(
        self, state: Mapping[str, Array], counts: Array, point: Array, key: Array
    ) -> dict[str, Array]:
        """Returns the state after a batch that used the codes `counts` times."""
        new = {"idle": jnp.where(counts > 0, 0, state["idle"] + 1)}
        if "points" in state:
            flat = jax.lax.stop_gradient(point).reshape(-1, point.shape[-1])
            size = len(counts)
            rows = jax.random.randint(keys.fold(key, "revive"), (size,), 0, len(flat))
            new["points"] = jnp.take(flat, rows, axis=0)
        return new

    def revised(
        self,
        revived: Callable[[Tree, Array, Array], Tree],
        trained: dict[str, Tree],
        mutable: Mapping[str, Tree],
    ) -> tuple[dict[str, Tree], dict[str, Tree]]:
        """Returns parameters and collections after an update, with dead codes revived.

        `revived(encoder's parameters, dead [size], points)` replaces rows of the quantiser's table.
        """
        state = mutable[ENCODER]["codes"]
        dead = state["idle"] >= self.dead_after
        encoder = revived(trained[ENCODER], dead, state["points"])
        codes = {**state, "idle": jnp.where(dead, 0, state["idle"])}
        new = {**mutable[ENCODER], "codes": codes}
        return {**trained, ENCODER: encoder}, {**mutable, ENCODER: new}


def picture_terms(
    x: Array,
    y: Array,
    networks: Mapping[str, Tree],
    frozen: Mapping[str, Tree],
    discriminate: Callable[[Mapping[str, Tree], Array], Array] | None,
    perceptual: Callable[[Mapping[str, Tree], Array, Array], Array] | None,
) -> dict[str, Array]:
    """Returns the losses [b] of made images y against x: "l2", "perceptual", "adversarial".

    The latter two where there are networks for them.
    """
    terms = {"l2": per_sample_mean(jnp.square(y - x))}
    if perceptual is not None:
        terms["perceptual"] = perceptual(frozen, x, y)
    if discriminate is not None:
        terms["adversarial"] = generator_loss(discriminate(networks, y))
    return terms


def logit_laplace_nll(x: Array, mu: Array, log_b: Array) -> Array:
    """Returns -ln f(x|mu, b) elementwise, in nats; x in [0, 1] is kept 1e-4 off both ends.

    f(x|mu, b) = exp(-|logit x - mu| / b) / (2 b x (1 - x)), DALL-E's density (its appendix A.3).
    """
    x = jnp.clip(x.astype(jnp.float32), _LOGIT_EPS, 1 - _LOGIT_EPS)
    log_x, log_rest = jnp.log(x), jnp.log1p(-x)
    distance = jnp.abs(log_x - log_rest - mu)
    return distance * jnp.exp(-log_b) + log_b + math.log(2.0) + log_x + log_rest


def psnr(y: Array, x: Array) -> Array:
    """Returns -10 log10 of each image's mean squared error [b], in dB; values in [0, 1]."""
    return -10.0 * jnp.log10(jnp.maximum(per_sample_mean(jnp.square(y - x)), 1e-12))


def histogram(index: Array, size: int) -> Array:
    """Returns how often each of `size` codes occurs: int32 [size]."""
    return jnp.zeros((size,), jnp.int32).at[index.reshape(-1)].add(1)


def perplexity(counts: Array) -> Array:
    """Returns exp of the entropy of the codes: 1 (one code) to their number (all alike)."""
    p = counts / jnp.maximum(jnp.sum(counts), 1)
    return jnp.exp(-jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0)))
