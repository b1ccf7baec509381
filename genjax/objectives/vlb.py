"""One term of the variational bound of a tabulated process, with a learned-range variance.

p(x_s | x_t), s = t - 1, is a Gaussian whose mean is the posterior's at the estimated data and whose
log variance interpolates, by the network's v, between log beta_t (v = 1) and log btilde_t (v = -1).
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array, bcast, per_sample_mean
from genjax.process.table import Table

_EDGE = 0.999  # data beyond it lie in the outermost bins, which reach to infinity
_FLOOR = 1e-12  # of a bin's probability, before its logarithm


class Posterior(NamedTuple):
    """q(x_{t-1} | x_t, x0) = N(c1 x0 + c2 x_t, btilde) at t = 0..N, float64 [N+1]; entry 0 unused.

    `log_btilde` at t = 1, where btilde is 0, is that of t = 2.
    """

    c1: np.ndarray
    c2: np.ndarray
    log_beta: np.ndarray
    log_btilde: np.ndarray


@functools.lru_cache(maxsize=16)
def posterior(table: Table) -> Posterior:
    """Returns the reverse step's coefficients, computed in float64 on the host."""
    beta = table.beta_values()
    alpha, variance = table.nodes.alpha, table.nodes.sigma**2
    ratio = variance[:-1] / variance[1:]
    with np.errstate(divide="ignore"):
        log_btilde = np.log(beta) + np.log(ratio)
    log_btilde[0] = log_btilde[1]
    whole = (
        beta * alpha[:-1] / variance[1:],
        ratio * np.sqrt(1 - beta),
        np.log(beta),
        log_btilde,
    )
    return Posterior(*(np.concatenate([[0.0], a]) for a in whole))


def log_variance(table: Table, t: Array, v: Array) -> Array:
    """Returns the log variance [b, ...] for the network's v (nominally in [-1, 1]) at integer t."""
    at = posterior(table)
    index = jnp.asarray(t).astype(jnp.int32)
    upper = bcast(jnp.asarray(at.log_beta, jnp.float32)[index], v)
    lower = bcast(jnp.asarray(at.log_btilde, jnp.float32)[index], v)
    share = 0.5 * (v + 1)
    return share * upper + (1 - share) * lower


def _cdf(z: Array) -> Array:
    """Returns the tanh approximation of the standard normal distribution function."""
    return 0.5 * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))


def discretised_nll(x: Array, mean: Array, log_var: Array, levels: int) -> Array:
    """Returns -log of the probability of x's bin, one of `levels` equal ones on [-1, 1], in nats.

    The bin's half width is 1/(levels - 1); the first and last bin reach to infinity.
    """
    inverse = jnp.exp(-0.5 * log_var)
    half = 1 / (levels - 1)
    upper = _cdf((x - mean + half) * inverse)
    lower = _cdf((x - mean - half) * inverse)
    inside = jnp.where(x > _EDGE, 1 - lower, upper - lower)
    return -jnp.log(jnp.maximum(jnp.where(x < -_EDGE, upper, inside), _FLOOR))


def vlb_bits(table: Table, t: Array, x0: Array, error: Array, v: Array, levels: int) -> Array:
    """Returns the bound's term for the step from t to t - 1, in bits per element, [b].

    `t` [b]: integers 1..N; `error` = D - x0 [b, ...], the data estimate's error; `v` as in
    `log_variance`. For t > 1 the KL divergence of the posterior from p; for t = 1 the negative log
    likelihood of x0 in bins (also on latents, where it means nothing but is what DiT trains).
    """
    at = posterior(table)
    index = jnp.asarray(t).astype(jnp.int32)
    gap = bcast(jnp.asarray(at.c1, jnp.float32)[index], x0) * error  # mean of p minus posterior's
    true = bcast(jnp.asarray(at.log_btilde, jnp.float32)[index], x0)
    log_var = log_variance(table, t, v)
    kl = 0.5 * (log_var - true - 1 + jnp.exp(true - log_var) + gap**2 * jnp.exp(-log_var))
    nll = discretised_nll(x0, x0 + gap, log_var, levels)  # the posterior's mean at t = 1 is x0
    first = bcast(index == 1, x0)
    return per_sample_mean(jnp.where(first, nll, kl)) / np.log(2)
