"""EDM2's loss, whose weight over the noise level is learned (Karras et al. 2024, eq. 21)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from genjax.core import keys
from genjax.core.arrays import Array, Tree, per_sample_mean
from genjax.core.errors import UserError
from genjax.core.registry import choice, option
from genjax.core.types import Aux, Progress, View
from genjax.objectives.diffusion import Draw, Parts, binned, report
from genjax.objectives.weighting import WEIGHTINGS
from genjax.process.denoiser import Output

LOGVAR = "logvar"
_REDUCTIONS = ("mean", "sum")


@dataclasses.dataclass(frozen=True)
class Uncertainty:
    """E[lambda / exp(u) |D - x0|^2 + u], u(c_noise) learned with the network.

    u is the feature "logvar" of the network (EDM2's); its optimum is the logarithm of the weighted
    error at that noise level, which makes the levels' gradients equally large. The loss is then
    1 + u in the mean; it may be negative. "sum", as published, sums over a sample's elements, u as
    often; "mean" is that over their number.
    Metrics, means over elements: "mse", the network's own error; "weighted", lambda |D - x0|^2,
    which compares across runs; "logvar", u.

    EDM2 sets gradients that are not finite to 0. Here they stop the run with the name of the
    tensor, like every other loss: float32 parameters with bfloat16 products do not overflow.
    """

    weighting: Any = choice(WEIGHTINGS, {"name": "edm"}, "lambda, the weight before it is learned")
    reduction: str = option("sum", f"over a sample's elements: one of {', '.join(_REDUCTIONS)}")
    bins: int = option(
        0, 'bins of noise level with metrics "loss/bin_i", the mean "weighted" there (0: none)'
    )

    def __post_init__(self):
        if self.reduction not in _REDUCTIONS:
            raise ValueError(
                f"reduction: {self.reduction!r} is unknown; choose one of {list(_REDUCTIONS)}"
            )
        if self.bins < 0:
            raise ValueError(f"bins must be at least 0, got {self.bins}")

    def __call__(
        self,
        parts: Parts,
        trained: Mapping[str, Tree],
        view: View,
        batch: Mapping[str, Mapping[str, Array]],
        key: Array,
        progress: Progress,
        *,
        train: bool = True,
    ) -> tuple[Array, Aux]:
        """Returns the loss of network "model" on stream "main", and its parts.

        With `train=False` conditions are kept and the network runs without dropout. Raises
        `UserError` if the network has no learned log-variance.
        """
        process, precond = parts.denoiser.process, parts.denoiser.precond
        draw = parts.draw(view, batch["main"], key, progress, train)
        out, u = self._evaluate(parts, trained["model"], draw, key, train)
        error = out.raw - precond.target(process, draw.t, draw.x0, draw.eps)
        mse = per_sample_mean(error**2)
        weighted = mse * self.weighting.weight(process, precond, precond, draw.t)
        size = math.prod(draw.x.shape[1:]) if self.reduction == "sum" else 1
        loss = size * (weighted * jnp.exp(-u) + u)
        total, aux = report(draw.weight, loss=loss, mse=mse, weighted=weighted, logvar=u)
        if self.bins:
            bins = binned(process, self.bins, draw.t, draw.weight, weighted)
            aux = dataclasses.replace(aux, metrics=aux.metrics | bins)
        return total, aux

    def _evaluate(
        self, parts: Parts, params: Tree, draw: Draw, key: Array, train: bool
    ) -> tuple[Output, Array]:
        """Returns the denoiser's output and u, float32 [b]."""
        network_key = keys.fold(key, "network") if train else None
        try:
            out = parts.denoiser(
                params, draw.x, draw.t, draw.cond, key=network_key, train=train, features=(LOGVAR,)
            )
        except ValueError as error:
            if LOGVAR not in str(error):
                raise
            raise UserError(
                'objective.name: edm2 needs a network with a learned log-variance, such as "edm2"; '
                'choose another network, or the objective "denoising"'
            ) from error
        features = out.features or {}
        return out, features[LOGVAR].astype(jnp.float32)
