"""Guidance: how conditional and null predictions become the one that a solver sees.

`wrap(denoise, cond, null)` returns `predict` and what it remembers from step to step (`memory`, or
a function that makes it from x); `denoise(x, t, cond, inputs)` returns an output with x0, variance
and features (the denoiser's). The weight of each evaluation is a value of the row, so another
weight or interval never compiles again.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array, Tree, bcast
from genjax.core.errors import UserError
from genjax.core.registry import Registry, option
from genjax.core.types import Prediction
from genjax.process.gaussian import Process
from genjax.solvers.base import Predict

Denoise = Callable[[Array, Array, Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Unguided:
    """The conditional prediction as it is: one evaluation of the batch, no null branch."""

    def rows(self, process: Process, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the rows unchanged."""
        return dict(rows)

    def wrap(self, denoise: Denoise, cond: Tree, null: Tree) -> tuple[Predict, Tree]:
        """Returns `predict` and no memory."""
        return _plain(denoise, cond), ()


@dataclasses.dataclass(frozen=True)
class ClassifierFree:
    """D = D_null + w (D_cond - D_null) (Ho and Salimans, arXiv 2207.12598, whose w is this w - 1).

    Both branches run as one batch of 2b. The variance and the features are the conditional
    branch's. With an `interval` (lo, hi] of lam = sigma/alpha (Kynkaanniemi et al., 2404.07724)
    w = 1 outside, where the null branch is not evaluated; `x0_null` is then not reported.
    `channels` = k guides the first k channels only (3: how DiT's and SiT's numbers were made).
    A weight of exactly 1 is no guidance: the null branch is never evaluated.
    """

    weight: float = option(1.5, "guidance weight w; 1 is unguided, 0 the null model")
    interval: tuple[float, float] | None = option(
        None, "guide only where lo < sigma/alpha <= hi (None: everywhere)"
    )
    channels: int | None = option(None, "guide only the first channels (None: all)")

    def __post_init__(self):
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            raise ValueError(f"interval must be 0 <= lo < hi, got {self.interval}")
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"channels must be at least 1, got {self.channels}")

    def rows(self, process: Process, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the rows with a weight "w" for every time "t" (and "w_2" for "t_2", ...)."""
        if self.weight == 1:
            return dict(rows)
        times = {k: rows[k] for k in rows if k == "t" or k.startswith("t_")}
        return {**rows, **{"w" + k[1:]: self._weights(process, t) for k, t in times.items()}}

    def _weights(self, process: Process, t: np.ndarray) -> np.ndarray:
        if self.interval is None:
            return np.full(np.shape(t), self.weight, np.float64)
        lo, hi = self.interval
        alpha, sigma = process.alpha(t), process.sigma(t)  # lam itself is infinite at alpha = 0
        return np.where((lo * alpha < sigma) & (sigma <= hi * alpha), self.weight, 1.0)

    def wrap(self, denoise: Denoise, cond: Tree, null: Tree) -> tuple[Predict, Tree]:
        """Returns `predict` and no memory. Raises `UserError` if there is nothing to drop."""
        plain = _plain(denoise, cond)
        if self.weight == 1:
            return plain, ()
        if cond is None or null is None:
            raise UserError(
                "sampler.guidance: classifier-free guidance needs a conditional network;"
                ' choose {"name": "none"} or weight 1'
            )
        both = jax.tree.map(_interleave, cond, null)

        def guided(x, row, memory):
            t = row["t"]
            out = denoise(
                _interleave(x, x), _interleave(t, t) if jnp.ndim(t) else t, both, row.get("inputs")
            )
            yes, no = _separate(out.x0)
            x0 = no + bcast(row["w"], x) * (yes - no)
            if self.channels is not None:
                x0 = jnp.where(jnp.arange(x0.shape[-1]) < self.channels, x0, yes)
            variance, features = jax.tree.map(
                lambda a: _separate(a)[0], (out.variance, out.features or None)
            )
            return Prediction(x0, no if self.interval is None else None, variance, features), memory

        if self.interval is None:
            return guided, ()

        def predict(x, row, memory):
            on = jnp.any(row["w"] != 1)
            return jax.lax.cond(on, lambda m: guided(x, row, m), lambda m: plain(x, row, m), memory)

        return predict, ()


def with_classifier(
    predict: Predict,
    process: Process,
    log_likelihood: Callable[[Array, Array], Array],
    weight: float | Array,
) -> Predict:
    """Returns `predict` guided by a classifier: score + w grad_x log p_t(y|x), in terms of D.

    D' = D + w sigma^2/alpha grad_x log p_t(y|x) (Song et al., arXiv 2011.13456, appendix I).
    `log_likelihood(x, t) -> [b]`, each entry a function of its own image, is differentiated at the
    noisy x. Where alpha = 0, x tells nothing of y and D stays as it is.
    """

    def guided(x, row, memory):
        out, memory = predict(x, row, memory)
        t = jnp.broadcast_to(row["t"], x.shape[:1])
        gradient = jax.grad(lambda x: jnp.sum(log_likelihood(x, t)))(x)
        alpha, sigma = process.alpha(t), process.sigma(t)
        gain = jnp.where(alpha > 0, weight * sigma**2 / jnp.where(alpha > 0, alpha, 1.0), 0.0)
        return dataclasses.replace(out, x0=out.x0 + bcast(gain, x) * gradient), memory

    return guided


GUIDANCES = Registry("guidance", {"none": Unguided, "cfg": ClassifierFree})


def _plain(denoise: Denoise, cond: Tree) -> Predict:
    def predict(x, row, memory):
        out = denoise(x, row["t"], cond, row.get("inputs"))
        return Prediction(out.x0, None, out.variance, out.features or None), memory

    return predict


def _interleave(a: Array, b: Array) -> Array:
    """Returns [a0, b0, a1, b1, ...]: twice the batch, and nothing moves between its shards."""
    return jnp.stack([a, b], axis=1).reshape(2 * a.shape[0], *a.shape[1:])


def _separate(x: Array) -> tuple[Array, Array]:
    """Returns the two halves of an interleaved batch."""
    pairs = x.reshape(x.shape[0] // 2, 2, *x.shape[1:])
    return pairs[:, 0], pairs[:, 1]
