"""Exact log-likelihoods by the instantaneous change of variables (Score SDE, appendix D.2).

Along the probability-flow ODE dx/dt = v(x, t) the log-density changes by -div v, so that
log p_eps(x) = log prior(x(T)) + the integral of div v from eps to T; both are solved as one ODE.
The divergence is e^T (dv/dx) e for probes e that stay fixed during a solve (Hutchinson), or the
sum over the unit vectors. No term stands for what happens below eps, as in the paper.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core import keys as keys_lib
from genjax.core.arrays import Array
from genjax.core.errors import UserError
from genjax.core.registry import option
from genjax.core.types import pytree
from genjax.process.gaussian import Process
from genjax.solvers.dopri5 import integrate

Data = Callable[[Array, Array], Array]  # D(x [b, ...], t [b]): the denoiser's estimate of the data


@dataclasses.dataclass(frozen=True)
class ODE:
    """Between which times, and how closely, the probability-flow ODE is solved."""

    rtol: float = option(1e-5, "relative tolerance")
    atol: float = option(1e-5, "absolute tolerance")
    eps: float | None = option(
        None, "first time (None: the process's t_min; where that is 0, 1e-5 of t_max)"
    )
    end: float | None = option(None, "last time (None: the process's t_max)")
    norm: str = option(
        "sample", 'error norm over each "sample" or, as published, over the whole "batch"'
    )
    max_steps: int = option(5000, "steps that may be tried before an image is given up")

    def __post_init__(self):
        if not (self.rtol > 0 and self.atol > 0):
            raise ValueError(f"rtol and atol must be positive, got {self.rtol} and {self.atol}")
        if self.norm not in ("sample", "batch"):
            raise ValueError(f'norm must be "sample" or "batch", got {self.norm!r}')
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {self.max_steps}")

    def span(self, process: Process) -> tuple[float, float]:
        """Returns (first, last) time; raises `UserError` unless 0 < first < last <= t_max."""
        last = process.t_max if self.end is None else self.end
        first = (process.t_min or 1e-5 * process.t_max) if self.eps is None else self.eps
        if not 0 < first < last <= process.t_max:
            raise UserError(
                f"eps: must be positive and below the end {last:g}, which is at most "
                f"{process.t_max:g}; got {first:g}"
            )
        return first, last


@dataclasses.dataclass(frozen=True)
class Trace:
    """How the divergence is estimated."""

    probe: str = option("rademacher", "rademacher or gaussian probes, or exact (a probe a number)")
    probes: int = option(1, "random probes per image; their mean is used")

    def __post_init__(self):
        if self.probe not in ("rademacher", "gaussian", "exact"):
            raise ValueError(f"probe must be rademacher, gaussian or exact; got {self.probe!r}")
        if self.probes < 1:
            raise ValueError(f"probes must be at least 1, got {self.probes}")

    def draw(self, keys: Array, x: Array) -> Array:
        """Returns probes [k, *x.shape] whose mean of e^T J e estimates (exact: sums to) the trace.

        Image i's depend on `keys[i]` alone.
        """
        shape = x.shape[1:]
        if self.probe == "exact":
            size = int(np.prod(shape))
            unit = np.sqrt(size) * np.eye(size).reshape(size, 1, *shape)
            return jnp.broadcast_to(jnp.asarray(unit, x.dtype), (size, *x.shape))
        of_law = jax.random.rademacher if self.probe == "rademacher" else jax.random.normal

        def one(key):
            return of_law(key, (self.probes, *shape), x.dtype)

        return jnp.moveaxis(jax.vmap(one)(keys), 1, 0)


DEFAULT, ONE_PROBE = ODE(), Trace()


@pytree
class Solved:
    """A solved ODE: x [b, ...], evaluations int32 [b], and whether its end was reached [b]."""

    x: Array
    nfe: Array
    ok: Array


@pytree
class Likelihood:
    """`logp` [b] in nats, its parts `prior` and `change`, the `latent`, evaluations and success."""

    logp: Array
    prior: Array
    change: Array
    latent: Array
    nfe: Array
    ok: Array

    def bits_per_dim(self, levels: int, data_range: tuple[float, float]) -> Array:
        """Returns bits/dim [b] of the dequantised images that `logp` is of."""
        size = int(np.prod(self.latent.shape[1:]))
        return bits_per_dim(self.logp, size, levels, data_range)


def transport(process: Process, data: Data, x: Array, t0, t1, ode: ODE) -> Solved:
    """Returns x carried along the probability-flow ODE from t0 to t1; `data` is D(x, t)."""

    def slope(t, x):
        return process.velocity(x, t, data(x, t))

    return Solved(*integrate(slope, x, t0, t1, ode.rtol, ode.atol, ode.norm, ode.max_steps))


def log_likelihood(
    process: Process,
    data: Data,
    x: Array,
    keys: Array,
    ode: ODE = DEFAULT,
    trace: Trace = ONE_PROBE,
) -> Likelihood:
    """Returns the log-density of x [b, ...] at the first time of `ode`, by the model `data`.

    `data` is D(x, t), whose row i depends on row i alone; `keys` [b] are the probes'. One
    reverse-mode pass a probe and evaluation, so a network needs no forward-mode rules.
    """
    first, last = ode.span(process)
    probes = trace.draw(keys, x)
    axes = tuple(range(2, probes.ndim))

    def slope(t, y):
        # Forward mode: nothing to keep, and on CPUs a loop runs gradients of convolutions slowly.
        v, push = jax.linearize(lambda x: process.velocity(x, t, data(x, t)), y[0])
        products = jax.vmap(push)(probes)
        return v, jnp.mean(jnp.sum(products * probes, axes), axis=0)

    y0 = (x, jnp.zeros(x.shape[:1], x.dtype))
    (z, change), nfe, ok = integrate(
        slope, y0, first, last, ode.rtol, ode.atol, ode.norm, ode.max_steps
    )
    prior = log_prior(z, float(process.start_std(np.float64(last))))
    return Likelihood(prior + change, prior, change, z, nfe, ok)


def log_prior(z: Array, std: float) -> Array:
    """Returns log N(z; 0, std^2 I), one number an image: [b, ...] -> [b]."""
    z = z.reshape(z.shape[0], -1)
    return -0.5 * jnp.sum((z / std) ** 2, axis=1) - z.shape[1] * (np.log(std) + _HALF_LOG_2PI)


_HALF_LOG_2PI = 0.5 * float(np.log(2 * np.pi))


def bits_per_dim(logp, size: int, levels: int, data_range: tuple[float, float]):
    """Returns -log2 of the probability of a cell of the grid of grey values, per dimension.

    `logp`: log-density in nats of images of `size` numbers in `data_range`, where one of the
    `levels` grey values is (high - low)/levels wide: the offset is log2 of levels per unit, 7 for
    256 levels in [-1, 1] and 8 in [0, 1].
    """
    low, high = data_range
    return -logp / (size * np.log(2)) + np.log2(levels / (high - low))


def dequantise(
    images: Array | np.ndarray, keys: Array, levels: int, data_range: tuple[float, float]
) -> Array:
    """Returns (u + U)/levels in `data_range`, float32, for grey values u [b, ...] in 0 .. levels-1.

    U is uniform on [0, 1), image i's of `keys[i]` alone.
    """
    low, high = data_range
    shape = images.shape[1:]
    u = jax.vmap(lambda k: jax.random.uniform(keys_lib.fold(k, "dequantise"), shape))(keys)
    return low + (high - low) * ((jnp.asarray(images, jnp.float32) + u) / levels)
