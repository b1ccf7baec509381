"""Autoregressive decoding as a solver: a row is a position, the state holds codes and cache.

The protocol is that of `genjax.solvers.sample`: `predict(codes, row, cache)` returns the guided
logits as `Prediction.x0` [b, K] and the cache with the code before row["t"] in it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array, Tree
from genjax.core.registry import Registry, option
from genjax.core.types import Prediction, pytree
from genjax.solvers.base import Predict, Row

SCHEDULES = ("constant", "linear", "cosine")
# (previous codes [b], position, cache) -> (logits [b, K], cache)
NextLogits = Callable[[Array, Array, Tree], tuple[Array, Tree]]


@pytree
class Decoding:
    """`codes` int32 [b, l]: those made, those given, and -1 where nothing is known yet."""

    codes: Array
    memory: Tree


@dataclasses.dataclass(frozen=True)
class CodeGuidance:
    """Classifier-free guidance on logits: null + w (conditional - null); w = 1 is none.

    w rises over the share `ramp` of the positions from 1 to `weight` (linear or cosine), and is 1
    after the share `stop`.
    """

    weight: float = option(1.0, "guidance weight; 1: none")
    schedule: str = option("constant", "of the weight over positions: constant, linear or cosine")
    ramp: float = option(1.0, "share of the positions over which linear and cosine rise")
    stop: float = option(1.0, "share of the positions after which there is no guidance")

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule: {self.schedule!r} is none of {', '.join(SCHEDULES)}")
        if not (0 < self.ramp <= 1 and 0 <= self.stop <= 1):
            raise ValueError("ramp must lie in (0, 1] and stop in [0, 1]")

    def weights(self, length: int) -> np.ndarray:
        """Returns the weight at every position, float64 [length]."""
        share = np.arange(length) / length
        rise = np.minimum(share / self.ramp, 1.0)
        if self.schedule == "constant":
            rise = np.ones(length)
        elif self.schedule == "cosine":
            rise = (1.0 - np.cos(np.pi * rise)) / 2.0
        return np.where(share < self.stop, 1.0 + (self.weight - 1.0) * rise, 1.0)

    def wrap(self, logits: NextLogits, *, doubled: bool) -> Predict:
        """Returns `predict` of a network; `doubled`: its batch holds each image twice.

        Then rows 2i and 2i + 1 are image i with its condition and with none: pairs stay on one
        device, however the batch is split. Both are told the same code.
        """

        def predict(codes: Array, row: Row, cache: Tree) -> tuple[Prediction, Tree]:
            position = row["t"]
            previous = jnp.maximum(codes[:, jnp.maximum(position - 1, 0)], 0)
            if not doubled:
                found, cache = logits(previous, position, cache)
                return Prediction(found), cache
            found, cache = logits(jnp.repeat(previous, 2), position, cache)
            yes, no = found[0::2], found[1::2]
            w = row["w"]
            # Where w = 1 this is the conditional prediction to the last bit.
            return Prediction(jnp.where(w == 1.0, yes, no + w * (yes - no)), no), cache

        return predict


@dataclasses.dataclass(frozen=True)
class Categorical:
    """Draws each code from softmax(logits/temperature), cut to top_k codes and to mass top_p.

    Order: guidance, temperature, top_k, top_p, draw. Temperature 0 takes the likeliest code.
    """

    temperature: float = option(1.0, "divides the logits; 0: greedy")
    top_k: int = option(0, "codes that may be drawn, the likeliest; 0: all")
    top_p: float = option(1.0, "the likeliest codes that together have this probability; 1: all")

    adaptive = False

    def __post_init__(self):
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError("temperature and top_k are at least 0, top_p lies in (0, 1]")

    def rows(self, length: int, first: int = 0) -> dict[str, Any]:
        """Returns the rows of the positions first .. length - 1: "t" and "temperature"."""
        at = np.arange(first, length, dtype=np.int32)
        return {"t": at, "temperature": np.full(len(at), self.temperature)}

    def init(self, x: Array, memory: Tree) -> Decoding:
        """Returns the state before the first step; `x` int32 [b, l]: codes given, -1 elsewhere."""
        return Decoding(x, memory)

    def step(self, predict: Predict, state: Decoding, row: Row, keys: Array) -> Decoding:
        """Returns the state with the code at row["t"]: the given one, or one drawn by `keys`."""
        out, memory = predict(state.codes, row, state.memory)
        drawn = self.draw(out.x0, row["temperature"], keys)
        given = state.codes[:, row["t"]]
        code = jnp.where(given >= 0, given, drawn)
        return Decoding(state.codes.at[:, row["t"]].set(code), memory)

    def output(self, state: Decoding) -> Array:
        """Returns the codes int32 [b, l]."""
        return state.codes

    def measures(self, state: Decoding) -> dict[str, Array]:
        """Returns {}: every sample takes the same number of steps."""
        del state
        return {}

    def nfe(self, n: int) -> int:
        """Returns how often n steps call `predict`."""
        return n

    def draw(self, logits: Array, temperature: Array | float, keys: Array) -> Array:
        """Returns codes int32 [b] of logits [b, K]; image i depends on `keys[i]` alone.

        The maximum of logits + temperature x Gumbel noise has the law softmax(logits/temperature).
        """
        allowed = self.allowed(logits, temperature)
        gumbel = jax.vmap(lambda k: jax.random.gumbel(k, logits.shape[1:]))(keys)
        noisy = jnp.where(allowed, logits + temperature * gumbel, -jnp.inf)
        return jnp.argmax(noisy, axis=-1).astype(jnp.int32)

    def allowed(self, logits: Array, temperature: Array | float) -> Array:
        """Returns which codes may be drawn, bool [b, K]; the likeliest always, ties all."""
        size = logits.shape[-1]
        kept = min(self.top_k or size, size)
        if kept == size and self.top_p == 1.0:
            return jnp.ones_like(logits, bool)
        best, _ = jax.lax.top_k(logits, kept)
        least = best[:, -1:]
        if self.top_p < 1.0:
            p = jax.nn.softmax(best / jnp.maximum(temperature, 1e-6), axis=-1)
            before = jnp.cumsum(p, axis=-1) - p
            inside = (before < self.top_p).at[:, 0].set(True)
            least = jnp.min(jnp.where(inside, best, jnp.inf), axis=-1, keepdims=True)
        return logits >= least


DECODERS = Registry("decoder", {"categorical": Categorical})
