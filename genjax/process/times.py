"""Laws of the training time: `sample(key, b, progress, process) -> Times`, stateless."""

import abc
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array
from genjax.core.errors import UserError
from genjax.core.registry import Registry, option
from genjax.core.types import Progress, Times
from genjax.process.gaussian import VE, Process
from genjax.process.table import Table


class TimeDist(abc.ABC):
    """The law of t; subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def sample(self, key: Array, b: int, progress: Progress, process: Process) -> Times:
        """Returns b independent times, t [b] float32. A curriculum reads `progress`."""


def _ends(lo: float | None, hi: float | None, process: Process) -> tuple[float, float]:
    """Returns the range [lo, hi], None being the process's."""
    return process.t_min if lo is None else lo, process.t_max if hi is None else hi


def _check_ends(lo: float | None, hi: float | None) -> None:
    if lo is not None and hi is not None and not lo < hi:
        raise ValueError(f"lo must be below hi, got {lo} and {hi}")


@dataclasses.dataclass(frozen=True)
class _Range(TimeDist):
    """A law on [lo, hi], given by the quantile function of its image on [0, 1]."""

    lo: float | None = option(None, "smallest t; None: the process's t_min")
    hi: float | None = option(None, "largest t; None: the process's t_max")

    def __post_init__(self):
        _check_ends(self.lo, self.hi)

    @abc.abstractmethod
    def unit(self, key: Array, b: int) -> Array:
        """Returns b draws in [0, 1]."""

    def sample(self, key, b, progress, process):
        lo, hi = _ends(self.lo, self.hi, process)
        return Times(lo + (hi - lo) * self.unit(key, b))


@dataclasses.dataclass(frozen=True)
class Uniform(_Range):
    """t uniform on [lo, hi) (Score SDE, flow matching, SiT)."""

    def unit(self, key, b):
        return jax.random.uniform(key, (b,))


@dataclasses.dataclass(frozen=True)
class LogitNormal(_Range):
    """t = lo + (hi - lo) sigmoid(n), n ~ N(mean, std^2) (Stable Diffusion 3)."""

    mean: float = option(0.0, "mean of logit t; positive means more noise")
    std: float = option(1.0, "standard deviation of logit t")

    def unit(self, key, b):
        return jax.nn.sigmoid(self.mean + self.std * jax.random.normal(key, (b,)))


@dataclasses.dataclass(frozen=True)
class UShaped(_Range):
    """Density a cosh(a (t - 1/2))/(2 sinh(a/2)) on [0, 1], mapped to [lo, hi] (rectified flow++).

    This is what the authors' code draws; the formula that the paper prints is not U-shaped.
    """

    a: float = option(4.0, "how strongly the ends are preferred")

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.a <= 80:
            raise ValueError(f"a must lie in (0, 80], got {self.a}")

    def unit(self, key, b):
        u = jax.random.uniform(key, (b,))
        return jnp.clip(0.5 + jnp.arcsinh((2 * u - 1) * np.sinh(self.a / 2)) / self.a, 0, 1)


@dataclasses.dataclass(frozen=True)
class Index(TimeDist):
    """t uniform on the integers 1..N of a table: DDPM's uniform index i = t - 1."""

    def sample(self, key, b, progress, process):
        if not isinstance(process, Table):
            raise UserError(
                f"times.name: index needs a table process, but the process is "
                f'{type(process).__name__}; use "uniform"'
            )
        return Times(jax.random.randint(key, (b,), 1, process.n + 1).astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class Discrete(TimeDist):
    """t uniform on i/(n - 1), i = 0..n-1: the n geometric noise levels of SMLD on the VE process.

    Score SDE's discrete VE. Its label, n - 1 - i, is precond.time "reverse" with
    time_scale n - 1.
    """

    n: int = option(1000, "number of noise levels")

    def __post_init__(self):
        if self.n < 2:
            raise ValueError(f"n must be at least 2, got {self.n}")

    def sample(self, key, b, progress, process):
        if not isinstance(process, VE):
            raise UserError(
                "times.name: discrete are the noise levels of the process ve, not of "
                f'{type(process).__name__}; discrete VP is process.name "table" with times.name '
                '"index", and sub-VP has no discrete form: use "uniform"'
            )
        return Times(jax.random.randint(key, (b,), 0, self.n).astype(jnp.float32) / (self.n - 1))


@dataclasses.dataclass(frozen=True)
class LogLam(TimeDist):
    """log(sigma/alpha) uniform between its values at `lo` and `hi`, for any process.

    Its density in t is proportional to g^2/sigma^2 = 2 d log(lam)/dt, which makes the likelihood
    weighting of the score's error an even one of the noise's (Song et al., arXiv 2101.09258):
    importance sampling. `weight` = (density of uniform t)/(this density), so that the expectation
    of a loss stays that of t uniform on [lo, hi].
    """

    lo: float | None = option(None, "smallest t; None: the process's t_min")
    hi: float | None = option(None, "largest t; None: the process's t_max")
    unbiased: bool = option(True, "weigh the draws, so that the loss stays that of uniform t")

    def __post_init__(self):
        _check_ends(self.lo, self.hi)

    def sample(self, key, b, progress, process):
        lo, hi = _ends(self.lo, self.hi, process)
        low, high = (-process.logsnr_half(np.float64(t)) for t in (lo, hi))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise UserError(
                f"times: log_lam needs 0 < sigma/alpha < inf at both ends, but on [{lo:g}, {hi:g}]"
                f" log(sigma/alpha) goes from {low:g} to {high:g}; set lo or hi inside"
            )
        log_lam = low + (high - low) * jax.random.uniform(key, (b,))
        t = jnp.clip(process.t_of_lam(jnp.exp(log_lam)), lo, hi)
        if not self.unbiased:
            return Times(t)
        rate = process.dsigma(t) / process.sigma(t) - process.dalpha(t) / process.alpha(t)
        return Times(t, None, (high - low) / ((hi - lo) * rate))


@dataclasses.dataclass(frozen=True)
class LogNormal(TimeDist):
    """log(sigma/alpha) ~ N(mean, std^2) (EDM). The law is not cut to the process's range."""

    mean: float = option(-1.2, "mean of log(sigma/alpha), EDM's P_mean")
    std: float = option(1.2, "its standard deviation, EDM's P_std")

    def sample(self, key, b, progress, process):
        lam = jnp.exp(self.mean + self.std * jax.random.normal(key, (b,)))
        return Times(process.t_of_lam(lam))


TIMES = Registry(
    "time distribution",
    {
        "uniform": Uniform,
        "index": Index,
        "discrete": Discrete,
        "log_lam": LogLam,
        "lognormal": LogNormal,
        "logit_normal": LogitNormal,
        "u_shaped": UShaped,
    },
)
