"""Ancestral sampling of DDPM (Ho et al., arXiv 2006.11239; Nichol and Dhariwal, 2102.09672)."""

import dataclasses

import jax.numpy as jnp

from genjax.core.arrays import Array, bcast, namespace
from genjax.core.errors import UserError
from genjax.core.registry import option
from genjax.solvers.base import Predict, Row, Solver, State, affine, standard_normal

_TINY = 1e-37  # float32's normal range; stands for a variance of zero inside a logarithm


@dataclasses.dataclass(frozen=True)
class DDPM(Solver):
    """Draws x' from the Gaussian that approximates q(x' | x, x0 = D).

    For a step t -> t' with r = alpha(t)/alpha(t') and beta = sigma(t)^2 - r^2 sigma(t')^2:
    mean (alpha' beta/sigma^2) D + (r sigma'^2/sigma^2) x; variance between
    btilde = beta sigma'^2/sigma^2 and beta. On a variance-preserving process beta is
    1 - abar(t)/abar(t'), so any sub-grid of a table is *re-spaced* exactly as the papers do, in
    float64. The last step adds no noise; log btilde, -inf there, takes the neighbouring value.
    NFE n.
    """

    variance: str = option(
        "small", 'reverse variance: "small" (btilde), "large" (beta), "learned" (the network\'s v)'
    )

    def __post_init__(self):
        if self.variance not in ("small", "large", "learned"):
            raise ValueError(
                f'variance must be "small", "large" or "learned", got {self.variance!r}'
            )

    def coefficients(self, t, t_next):
        process, xp = self.process, namespace(t, t_next)
        variance, variance_next = process.sigma(t) ** 2, process.sigma(t_next) ** 2
        r = process.alpha(t) / process.alpha(t_next)
        beta = xp.maximum(variance - r**2 * variance_next, _TINY)
        return {
            "a": r * variance_next / variance,
            "c": process.alpha(t_next) * beta / variance,
            "log_small": xp.log(xp.maximum(beta * variance_next / variance, _TINY)),
            "log_large": xp.log(beta),
            "noise": xp.where(variance_next > 0, 1.0, 0.0),
        }

    def finish(self, rows):
        small, noise = rows["log_small"].copy(), rows["noise"].copy()
        if small.size > 1:
            small[-1] = small[-2]
        noise[-1] = 0.0
        return {**rows, "log_small": small, "noise": noise}

    def step(self, predict: Predict, state: State, row: Row, keys: Array) -> State:
        out, memory = predict(state.x, row, state.memory)
        x = state.x
        log_variance = self._log_variance(row, out.variance, x)
        std = bcast(row["noise"], x) * jnp.exp(0.5 * log_variance)
        x = affine(row, x, out.x0) + std * standard_normal(keys, x)
        return dataclasses.replace(state, x=x, memory=memory)

    def _log_variance(self, row: Row, v: Array | None, x: Array):
        """Returns w log beta + (1 - w) log btilde, w = (v + 1)/2 for learned variances."""
        small, large = bcast(row["log_small"], x), bcast(row["log_large"], x)
        if self.variance == "learned":
            if v is None:
                raise UserError(
                    'sampler.solver.variance: "learned" needs a network that also predicts the'
                    ' variance (twice the channels); choose "small" or "large"'
                )
            return small + (v + 1) / 2 * (large - small)
        return small if self.variance == "small" else large
