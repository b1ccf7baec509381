"""Exponential moving averages of parameters: how fast each forgets, and the update.

An average is a float32 tree beside the parameters (in bfloat16 one with decay 0.9999 would never
move). It is updated once per optimiser step with

    ema <- decay ema + (1 - decay) params.

A law gives the decay of a step from the images seen before and after it, so that lengths in
images survive a change of the batch size. Everything here may be traced.
"""

import dataclasses

import jax
import jax.numpy as jnp

from genjax.core.arrays import Array, Tree
from genjax.core.registry import Registry, option
from genjax.training.posthoc import Profile, gamma_of, profile


def update(ema: Tree, params: Tree, decay) -> Tree:
    """Returns decay ema + (1 - decay) params, in float32; exactly `params` where decay is 0."""
    decay = jnp.asarray(decay, jnp.float32)
    return jax.tree.map(lambda e, p: decay * e + (1.0 - decay) * p.astype(jnp.float32), ema, params)


def _float(images) -> Array:
    return jnp.asarray(images, jnp.float32)


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same decay in every step, from the initial parameters on."""

    decay: float = option(0.9999, "weight of the old average in each step")

    def __post_init__(self):
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay must lie in [0, 1), not {self.decay}")

    def __call__(self, before, after) -> Array:
        """Returns the decay (float32 scalar) of the step from `before` to `after` images."""
        return jnp.float32(self.decay)


@dataclasses.dataclass(frozen=True)
class Warmup(Constant):
    """min(decay, (1 + n) / (10 + n)) after n steps: short runs do not average noise."""

    def __call__(self, before, after) -> Array:
        """Returns the decay (float32 scalar) of the step from `before` to `after` images."""
        n = _float(before) / _float(after - before)
        return jnp.minimum(self.decay, (1.0 + n) / (10.0 + n))


@dataclasses.dataclass(frozen=True)
class HalfLife:
    """0.5^(batch / H), H = min(half-life, ramp x images before): EDM's; its first step copies."""

    images: float = option(500_000.0, "images after which a parameter's weight has halved")
    ramp: float | None = option(0.05, "largest half-life as a share of the images; null: any")

    def __post_init__(self):
        if self.images <= 0 or (self.ramp is not None and self.ramp <= 0):
            raise ValueError("images and ramp must be positive")

    def __call__(self, before, after) -> Array:
        """Returns the decay (float32 scalar) of the step from `before` to `after` images."""
        length = _float(self.images)
        if self.ramp is not None:
            length = jnp.minimum(length, self.ramp * _float(before))
        return jnp.exp2(-_float(after - before) / length)


@dataclasses.dataclass(frozen=True)
class Power:
    """(before / after)^(gamma + 1): EDM2's, of width sigma_rel; its first step copies.

    Snapshots of two widths give any other after training (`genjax.training.posthoc`).
    """

    sigma_rel: float = option(0.10, "standard deviation of the profile as a share of training")

    def __post_init__(self):
        gamma_of(self.sigma_rel)

    def __call__(self, before, after) -> Array:
        """Returns the decay (float32 scalar) of the step from `before` to `after` images."""
        share = _float(after - before) / _float(after)  # (1 - share) alone would round
        return jnp.exp((gamma_of(self.sigma_rel) + 1.0) * jnp.log1p(-share))

    def profile(self, images: float) -> Profile:
        """Returns what describes a snapshot of this average, taken after `images`."""
        return profile(self.sigma_rel, images)


EMAS = Registry(
    "average of the weights",
    {"constant": Constant, "warmup": Warmup, "half_life": HalfLife, "power": Power},
)
