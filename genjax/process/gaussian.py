"""Gaussian noise processes: x_t = alpha(t) x_0 + sigma(t) eps, for every model of the library.

Time grows with noise and t = 0 is data, also for papers that run it the other way. A process gives
alpha, sigma and their derivatives in closed form; drift, diffusion, score and velocity follow once
for all. With lam = sigma/alpha the probability-flow ODE of every process is the same one,
d(x/alpha)/dlam = (x/alpha - D)/lam.

Every function of time takes a scalar or an array. NumPy or Python times are computed in float64
(the solvers' tables), JAX times in their own float type (training, per-image times), by one
formula.
"""

import abc
import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import bcast, namespace
from genjax.core.registry import option


def as_time(t) -> tuple[Any, Any]:
    """Returns (namespace, t): float64 NumPy on the host; JAX keeps its float type (or float32)."""
    xp = namespace(t)
    if xp is np:
        return np, np.asarray(t, np.float64)
    return jnp, t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(jnp.float32)


class Process(abc.ABC):
    """A Gaussian noise process. Subclasses are frozen, hashable dataclasses.

    `t_min`, `t_max`: the range that a model is trained on; alpha and sigma are finite on all of
    [0, t_max]. `prior_std`: the standard deviation that sampling starts from at `t_max`.
    """

    @property
    def t_min(self) -> float:
        return 0.0

    @property
    def t_max(self) -> float:
        return 1.0

    @property
    def prior_std(self) -> float:
        return 1.0

    def start_std(self, t) -> Any:
        """Returns the standard deviation that sampling starts from where its grid begins at t.

        Where x_t grows with its noise (VE, EDM) that is sigma(t), else `prior_std`.
        """
        return self.prior_std

    @abc.abstractmethod
    def alpha(self, t) -> Any:
        """Returns the factor of the data in x_t."""

    @abc.abstractmethod
    def sigma(self, t) -> Any:
        """Returns the standard deviation of the noise in x_t."""

    @abc.abstractmethod
    def dalpha(self, t) -> Any:
        """Returns d alpha/dt."""

    @abc.abstractmethod
    def dsigma(self, t) -> Any:
        """Returns d sigma/dt."""

    @abc.abstractmethod
    def t_of_lam(self, lam) -> Any:
        """Returns the time at which sigma/alpha = `lam`. It is not cut to [t_min, t_max]."""

    def lam(self, t):
        """Returns sigma/alpha, the noise level of x_t/alpha; inf where alpha = 0."""
        with np.errstate(divide="ignore"):
            return self.sigma(t) / self.alpha(t)

    def logsnr_half(self, t):
        """Returns log(alpha/sigma); -inf where alpha = 0, inf where sigma = 0."""
        xp, t = as_time(t)
        with np.errstate(divide="ignore"):
            return xp.log(self.alpha(t)) - xp.log(self.sigma(t))

    def drift(self, t):
        """Returns f of dx = f x dt + g dW: alpha'/alpha; -inf where alpha = 0."""
        with np.errstate(divide="ignore"):
            return self.dalpha(t) / self.alpha(t)

    def diffusion2(self, t):
        """Returns g^2 = d(sigma^2)/dt - 2 f sigma^2 = 2 alpha^2 lam lam'."""
        sigma = self.sigma(t)
        return 2 * sigma * (self.dsigma(t) - self.drift(t) * sigma)

    def perturb(self, x0, eps, t):
        """Returns x_t = alpha x0 + sigma eps; x0 and eps [b, ...], t a scalar or [b]."""
        return bcast(self.alpha(t), x0) * x0 + bcast(self.sigma(t), x0) * eps

    def eps(self, x, t, x0):
        """Returns the noise that x [b, ...] holds if its data are `x0`; needs sigma > 0."""
        return (x - bcast(self.alpha(t), x) * x0) / bcast(self.sigma(t), x)

    def score(self, x, t, x0):
        """Returns (alpha x0 - x)/sigma^2: Tweedie's score of p_t if x0 is E[x_0 | x_t = x]."""
        return (bcast(self.alpha(t), x) * x0 - x) / bcast(self.sigma(t), x) ** 2

    def velocity(self, x, t, x0):
        """Returns alpha' x0 + sigma' eps: dx/dt of the probability flow if x0 is E[x_0 | x]."""
        return bcast(self.dalpha(t), x) * x0 + bcast(self.dsigma(t), x) * self.eps(x, t, x0)


@dataclasses.dataclass(frozen=True)
class VE(Process):
    """Variance exploding (Score SDE): alpha = 1, sigma = sigma_min (sigma_max/sigma_min)^t."""

    sigma_min: float = option(0.01, "noise level at t = 0, in units of the data range")
    sigma_max: float = option(50.0, "noise level at t = 1")

    def __post_init__(self):
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError("sigma_min and sigma_max must satisfy 0 < sigma_min < sigma_max")

    @property
    def t_min(self) -> float:
        return 1e-5

    @property
    def prior_std(self) -> float:
        return self.sigma_max

    def start_std(self, t) -> Any:
        return self.sigma(t)

    @property
    def _rate(self) -> float:
        return float(np.log(self.sigma_max / self.sigma_min))

    def alpha(self, t):
        xp, t = as_time(t)
        return xp.ones_like(t)

    def sigma(self, t):
        xp, t = as_time(t)
        return self.sigma_min * xp.exp(self._rate * t)

    def dalpha(self, t):
        xp, t = as_time(t)
        return xp.zeros_like(t)

    def dsigma(self, t):
        return self._rate * self.sigma(t)

    def t_of_lam(self, lam):
        xp, lam = as_time(lam)
        return xp.log(lam / self.sigma_min) / self._rate


@dataclasses.dataclass(frozen=True)
class VP(Process):
    """Variance preserving (Score SDE): beta(t) rises linearly, alpha = exp(-B(t)/2).

    B(t) is the integral of beta from 0 to t; sigma^2 = 1 - alpha^2 is formed by expm1, since at
    t = 1e-5 the subtraction would keep one digit in float32.
    """

    beta_min: float = option(0.1, "beta at t = 0")
    beta_max: float = option(20.0, "beta at t = 1")

    def __post_init__(self):
        if not 0 < self.beta_min < self.beta_max:
            raise ValueError("beta_min and beta_max must satisfy 0 < beta_min < beta_max")

    @property
    def t_min(self) -> float:
        return 1e-5

    def beta(self, t):
        """Returns beta(t), the rate at which data are forgotten."""
        _, t = as_time(t)
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def integral(self, t):
        """Returns B(t), the integral of beta from 0 to t."""
        _, t = as_time(t)
        return t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def time_of_integral(self, integral):
        """Returns the t with B(t) = `integral`: a quadratic's root, without cancellation."""
        xp, integral = as_time(integral)
        slope = self.beta_max - self.beta_min
        return 2 * integral / (xp.sqrt(self.beta_min**2 + 2 * slope * integral) + self.beta_min)

    def alpha(self, t):
        xp, t = as_time(t)
        return xp.exp(-0.5 * self.integral(t))

    def sigma(self, t):
        xp, t = as_time(t)
        return xp.sqrt(-xp.expm1(-self.integral(t)))

    def dalpha(self, t):
        return -0.5 * self.beta(t) * self.alpha(t)

    def dsigma(self, t):
        with np.errstate(divide="ignore"):  # infinite at t = 0, where sigma grows like sqrt(t)
            return 0.5 * self.beta(t) * self.alpha(t) ** 2 / self.sigma(t)

    def t_of_lam(self, lam):
        xp, lam = as_time(lam)
        return self.time_of_integral(xp.log1p(lam * lam))


@dataclasses.dataclass(frozen=True)
class SubVP(VP):
    """Score SDE's sub-VP: alpha as VP, sigma = 1 - alpha^2 (VP's variance, not its root)."""

    def sigma(self, t):
        xp, t = as_time(t)
        return -xp.expm1(-self.integral(t))

    def dsigma(self, t):
        return self.beta(t) * self.alpha(t) ** 2

    def t_of_lam(self, lam):
        xp, lam = as_time(lam)
        return self.time_of_integral(2 * xp.arcsinh(0.5 * lam))  # lam = 2 sinh(B/2)


@dataclasses.dataclass(frozen=True)
class EDM(Process):
    """alpha = 1 and sigma = t: the time is the noise level (EDM, consistency models)."""

    sigma_min: float = option(0.002, "smallest noise level that is sampled")
    sigma_max: float = option(80.0, "largest noise level, where sampling starts")

    def __post_init__(self):
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError("sigma_min and sigma_max must satisfy 0 < sigma_min < sigma_max")

    @property
    def t_min(self) -> float:
        return self.sigma_min

    @property
    def t_max(self) -> float:
        return self.sigma_max

    @property
    def prior_std(self) -> float:
        return self.sigma_max

    def start_std(self, t) -> Any:
        return self.sigma(t)

    def alpha(self, t):
        xp, t = as_time(t)
        return xp.ones_like(t)

    def sigma(self, t):
        return as_time(t)[1]

    def dalpha(self, t):
        xp, t = as_time(t)
        return xp.zeros_like(t)

    def dsigma(self, t):
        xp, t = as_time(t)
        return xp.ones_like(t)

    def t_of_lam(self, lam):
        return as_time(lam)[1]


@dataclasses.dataclass(frozen=True)
class RectifiedFlow(Process):
    """The straight path alpha = 1 - t, sigma = t (rectified flow, flow matching, SiT "Linear")."""

    def alpha(self, t):
        return 1 - as_time(t)[1]

    def sigma(self, t):
        return as_time(t)[1]

    def dalpha(self, t):
        xp, t = as_time(t)
        return -xp.ones_like(t)

    def dsigma(self, t):
        xp, t = as_time(t)
        return xp.ones_like(t)

    def t_of_lam(self, lam):
        _, lam = as_time(lam)
        with np.errstate(divide="ignore"):
            return 1 / (1 + 1 / lam)  # right at lam = 0 and at lam = inf too


@dataclasses.dataclass(frozen=True)
class Cosine(Process):
    """alpha = cos(pi t/2), sigma = sin(pi t/2): the cosine process, SiT's "GVP" path.

    `shift` is a factor on sigma/alpha, alpha^2 + sigma^2 staying 1: simple diffusion's shifted
    cosine, log(alpha^2/sigma^2) = -2 log tan(pi t/2) + 2 log(64/d), is shift = d/64 at d x d pixels
    (Hoogeboom et al., arXiv 2301.11093).
    """

    shift: float = option(1.0, "factor on sigma/alpha; d/64 for pictures of d x d (1: none)")

    def __post_init__(self):
        if self.shift <= 0:
            raise ValueError(f"shift must be positive, got {self.shift}")

    def _circle(self, t) -> tuple[Any, Any, Any]:
        """Returns (cos, shift sin, their norm) of pi t/2; the norm is 1 without shift."""
        xp, t = as_time(t)
        cos = xp.sin(0.5 * np.pi * (1 - t))  # exactly 0 at t = 1, where cos gives -4e-8
        sin = xp.sin(0.5 * np.pi * t)
        if self.shift == 1:
            return cos, sin, 1.0
        sin = self.shift * sin
        return cos, sin, xp.sqrt(cos**2 + sin**2)

    def alpha(self, t):
        cos, _, norm = self._circle(t)
        return cos / norm

    def sigma(self, t):
        _, sin, norm = self._circle(t)
        return sin / norm

    def dalpha(self, t):
        _, sin, norm = self._circle(t)
        return -0.5 * np.pi * self.shift * sin / norm**3

    def dsigma(self, t):
        cos, _, norm = self._circle(t)
        return 0.5 * np.pi * self.shift * cos / norm**3

    def t_of_lam(self, lam):
        xp, lam = as_time(lam)
        return xp.arctan(lam / self.shift) * (2 / np.pi)
