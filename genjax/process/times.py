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
from genjax.process.gaussian import Process
from genjax.process.table import Table


class TimeDist(abc.ABC):
    """The law of t; subclasses are frozen dataclasses."""

    @abc.abstractmethod
    def sample(self, key: Array, b: int, progress: Progress, process: Process) -> Times:
        """Returns b independent times, t [b] float32. A curriculum reads `progress`."""


@dataclasses.dataclass(frozen=True)
class _Range(TimeDist):
    """A law on [lo, hi], given by the quantile function of its image on [0, 1]."""

    lo: float | None = option(None, "smallest t; None: the process's t_min")
    hi: float | None = option(None, "largest t; None: the process's t_max")

    def __post_init__(self):
        if self.lo is not None and self.hi is not None and not self.lo < self.hi:
            raise ValueError(f"lo must be below hi, got {self.lo} and {self.hi}")

    @abc.abstractmethod
    def unit(self, key: Array, b: int) -> Array:
        """Returns b draws in [0, 1]."""

    def sample(self, key, b, progress, process):
        lo = process.t_min if self.lo is None else self.lo
        hi = process.t_max if self.hi is None else self.hi
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
        "lognormal": LogNormal,
        "logit_normal": LogitNormal,
        "u_shaped": UShaped,
    },
)
