"""Guidance: how conditional and null predictions become the one that a solver sees.

`wrap(denoise, cond, null, other)` returns `predict` and what it remembers from step to step
(`memory`, or a function that makes it from x); `denoise(x, t, cond, inputs)` returns an output with
x0, variance and features (the denoiser's), and so does `other`, a second network, where a rule asks
for one. The weight of each evaluation is a value of the row, so another weight or interval never
compiles again.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array, Tree, bcast
from genjax.core.errors import UserError
from genjax.core.registry import option
from genjax.core.types import Prediction
from genjax.process.gaussian import Process
from genjax.solvers.base import Predict, Row, check_interval, inside, stage_times

Denoise = Callable[[Array, Array, Any, Any], Any]
_THRESHOLD = "quantile of |x0| that bounds each image, 0 to 1 (None: no bound)"


@dataclasses.dataclass(frozen=True)
class Unguided:
    """The conditional prediction as it is: one evaluation of the batch, no null branch.

    `threshold`: see `ClassifierFree`.
    """

    renoises: ClassVar[bool] = False
    two_networks: ClassVar[bool] = False

    threshold: float | None = option(None, _THRESHOLD)

    def __post_init__(self):
        check_threshold(self.threshold)

    def rows(self, process: Process, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the rows unchanged."""
        return dict(rows)

    def wrap(
        self, denoise: Denoise, cond: Tree, null: Tree, other: Denoise | None = None
    ) -> tuple[Predict, Tree]:
        """Returns `predict` and no memory."""
        return thresholded(_plain(denoise, cond), self.threshold), ()


@dataclasses.dataclass(frozen=True)
class ClassifierFree:
    """D = D_null + w (D_cond - D_null) (Ho and Salimans, arXiv 2207.12598, whose w is this w - 1).

    Both branches run as one batch of 2b. The variance and the features are the conditional
    branch's. With an `interval` (lo, hi] of lam = sigma/alpha (Kynkaanniemi et al., 2404.07724)
    w = 1 outside, where the null branch is not evaluated; `x0_null` is then not reported.
    `channels` = k guides the first k channels only (3: how DiT's and SiT's numbers were made).
    `threshold` = p bounds each estimate x0 by the p-quantile of its absolute values, where that is
    above 1, and divides by it (Imagen's dynamic thresholding, for data in [-1, 1]); the noise that
    a solver computes belongs to the bounded x0.
    A weight of exactly 1 is no guidance: the null branch is never evaluated.

    Other rules (genjax.solvers.guidance_rules) are subclasses with another `combine`, or other
    `branches`.
    """

    renoises: ClassVar[bool] = False  # whether the solver puts back another estimate's noise
    two_networks: ClassVar[bool] = False  # whether `wrap` needs `other`

    weight: float = option(1.5, "guidance weight w; 1 is unguided, 0 the null model")
    interval: tuple[float, float] | None = option(
        None, "guide only where lo < sigma/alpha <= hi (None: everywhere)"
    )
    channels: int | None = option(None, "guide only the first channels (None: all)")
    threshold: float | None = option(None, _THRESHOLD)

    def __post_init__(self):
        check_threshold(self.threshold)
        check_interval(self.interval)
        if self.channels is not None and self.channels < 1:
            raise ValueError(f"channels must be at least 1, got {self.channels}")

    @property
    def off(self) -> bool:
        """Whether this is no guidance at all."""
        return self.weight == 1

    def start(self, x: Array) -> Tree:
        """Returns what is remembered before the first step of the samples x."""
        del x
        return ()

    def combine(
        self, w: Array, yes: Array, no: Array, memory: Tree
    ) -> tuple[Array, Array | None, Tree]:
        """Returns the guided estimate, the one whose noise is put back (None: the same), memory.

        `w`: the weight, shaped to broadcast; `yes`, `no`: conditional and null estimates of x0.
        """
        return no + w * (yes - no), None, memory

    def rows(self, process: Process, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the rows with a weight "w" for every time "t" (and "w_2" for "t_2", ...).

        With an interval also "on", "on_2", ...: whether the time lies in it.
        """
        if self.off:
            return dict(rows)
        rows = dict(rows)
        for suffix, t in stage_times(rows).items():
            on = inside(process, t, self.interval)
            rows["w" + suffix] = np.where(on, self.weight, 1.0)
            if self.interval is not None:
                rows["on" + suffix] = on
        return rows

    def branches(
        self, denoise: Denoise, cond: Tree, null: Tree, other: Denoise | None
    ) -> Callable[[Array, Row], tuple[Array, Array, Any]]:
        """Returns fn(x, row) -> (estimate to go to, estimate to go from, output of the first).

        Raises `UserError` if there is nothing to drop.
        """
        del other
        if cond is None or null is None:
            raise UserError(
                "sampler.guidance: classifier-free guidance needs a conditional network;"
                ' choose {"name": "none"} or weight 1'
            )
        both = jax.tree.map(_interleave, cond, null)

        def evaluate(x, row):
            t = row["t"]
            out = denoise(
                _interleave(x, x), _interleave(t, t) if jnp.ndim(t) else t, both, row.get("inputs")
            )
            yes, no = _separate(out.x0)
            variance, features = jax.tree.map(
                lambda a: _separate(a)[0], (out.variance, out.features or None)
            )
            return yes, no, Prediction(yes, variance=variance, features=features)

        return evaluate

    def wrap(
        self, denoise: Denoise, cond: Tree, null: Tree, other: Denoise | None = None
    ) -> tuple[Predict, Tree]:
        """Returns `predict` and `start`. Raises `UserError` if a branch is missing."""
        plain = _plain(denoise, cond, self.renoises)
        if self.off:
            return thresholded(plain, self.threshold), ()
        evaluate = self.branches(denoise, cond, null, other)

        def guided(x, row, memory):
            yes, no, out = evaluate(x, row)
            x0, noise, memory = self.combine(bcast(row["w"], x), yes, no, memory)
            if self.channels is not None:
                first = jnp.arange(x0.shape[-1]) < self.channels
                x0 = jnp.where(first, x0, yes)
                noise = None if noise is None else jnp.where(first, noise, yes)
            if "on" in row and jnp.ndim(row["on"]):  # images with times of their own
                on = bcast(row["on"], x)
                x0 = jnp.where(on, x0, yes)
                noise = None if noise is None else jnp.where(on, noise, yes)
            null_estimate = no if self.interval is None and not self.two_networks else None
            return Prediction(x0, null_estimate, noise, out.variance, out.features), memory

        if self.interval is None:
            return thresholded(guided, self.threshold), self.start

        def predict(x, row, memory):
            on = jnp.any(row["on"])
            return jax.lax.cond(on, lambda m: guided(x, row, m), lambda m: plain(x, row, m), memory)

        return thresholded(predict, self.threshold), self.start


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


def _plain(denoise: Denoise, cond: Tree, renoises: bool = False) -> Predict:
    def predict(x, row, memory):
        out = denoise(x, row["t"], cond, row.get("inputs"))
        noise = out.x0 if renoises else None
        return Prediction(out.x0, None, noise, out.variance, out.features or None), memory

    return predict


def check_threshold(quantile: float | None) -> None:
    """Raises ValueError unless it is None or lies in (0, 1]."""
    if quantile is not None and not 0 < quantile <= 1:
        raise ValueError(f"threshold must lie in (0, 1], got {quantile}")


def thresholded(predict: Predict, quantile: float | None) -> Predict:
    """Returns `predict` with each x0 within its own quantile s >= 1 of |x0|, divided by s."""
    if quantile is None:
        return predict

    def bounded(x, row, memory):
        out, memory = predict(x, row, memory)
        size = jnp.abs(out.x0).reshape(x.shape[0], -1)
        s = bcast(jnp.maximum(jnp.quantile(size, quantile, axis=1), 1.0), x)
        return dataclasses.replace(out, x0=jnp.clip(out.x0, -s, s) / s), memory

    return bounded


def _interleave(a: Array, b: Array) -> Array:
    """Returns [a0, b0, a1, b1, ...]: twice the batch, and nothing moves between its shards."""
    return jnp.stack([a, b], axis=1).reshape(2 * a.shape[0], *a.shape[1:])


def _separate(x: Array) -> tuple[Array, Array]:
    """Returns the two halves of an interleaved batch."""
    pairs = x.reshape(x.shape[0] // 2, 2, *x.shape[1:])
    return pairs[:, 0], pairs[:, 1]
