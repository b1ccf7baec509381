"""Data whose best denoiser is known, and the exact action of a solver on Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core import keys as keys_lib
from genjax.core.arrays import bcast
from genjax.core.types import Prediction
from genjax.solvers import SOLVERS, sample


def bound(name, process, **fields):
    """Returns the solver as a config would give it."""
    return SOLVERS.build({"name": name, **fields}).bind(process)


def gaussian(process, mean, std):
    """Returns D(x, t) of data N(mean, std^2): affine in x; t is a scalar or [b]."""

    def denoise(x, t):
        alpha, sigma = bcast(process.alpha(t), x), bcast(process.sigma(t), x)
        return mean + alpha * std**2 * (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    return denoise


def mixture(process, weights, means, stds):
    """Returns D(x, t) of a one-dimensional Gaussian mixture; x is [b, 1], t a scalar or [b]."""
    weights, means, stds = (np.array(v) for v in (weights, means, stds))

    def denoise(x, t):
        alpha, sigma = bcast(process.alpha(t), x), bcast(process.sigma(t), x)
        variance = (alpha * stds) ** 2 + sigma**2
        away = x - alpha * means
        logits = jnp.log(weights) - 0.5 * jnp.log(variance) - away**2 / (2 * variance)
        parts = means + alpha * stds**2 / variance * away
        return jnp.sum(jax.nn.softmax(logits) * parts, axis=-1, keepdims=True)

    return denoise


def predictor(denoise, variance=None):
    """Returns `predict` for D(x, t); `variance` is a constant v of a learned-range network."""

    def predict(x, row, memory):
        v = None if variance is None else jnp.full_like(x, variance)
        return Prediction(denoise(x, row["t"]), variance=v), memory

    return predict


def keys(n):
    return keys_lib.per_sample(jax.random.key(0), jnp.arange(n))


def run(solver, grid, denoise, starts):
    """Returns what the compiled sampler makes of the 1-D `starts`, in float64."""
    with jax.enable_x64(True):
        x = jnp.asarray(np.reshape(starts, (-1, 1)), jnp.float64)
        rows = solver.rows(grid)
        out = jax.jit(lambda r, x, k: sample(solver, predictor(denoise), r, x, k))(
            rows, x, keys(len(x))
        )
        return np.asarray(out)[:, 0]


def affine_map(solver, grid, denoise):
    """Returns (offset, slope) of the deterministic map from noise to data."""
    at_zero, at_one = run(solver, grid, denoise, [0.0, 1.0])
    return at_zero, at_one - at_zero


def moments(monkeypatch, solver, grid, denoise, mean, variance, *, v=None):
    """Returns mean and variance of x after all steps if they were `mean`, `variance` before.

    Every step is applied to x = 0, 1, 0 with noise 0, 0, 1: that gives its affine map without a
    random number, through the solver's own code.
    """
    probe = jnp.array([0.0, 0.0, 1.0]).reshape(3, 1)
    monkeypatch.setattr(keys_lib, "normal", lambda k, shape, dtype: probe.astype(dtype))
    with jax.enable_x64(True):
        x = jnp.array([0.0, 1.0, 0.0], jnp.float64).reshape(3, 1)
        predict = predictor(denoise, v)
        rows = jax.tree.map(jnp.asarray, solver.rows(grid))
        out = jax.vmap(lambda row: solver.step(predict, solver.init(x, ()), row, keys(3)).x)(rows)
    monkeypatch.undo()
    for base, one, noise in np.asarray(out)[..., 0]:
        mean = base + (one - base) * mean
        variance = (one - base) ** 2 * variance + (noise - base) ** 2
    return mean, variance
