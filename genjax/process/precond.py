"""What a network predicts: D(x, t) = c_skip x + c_out F(c_in x, c_noise), one row a kind.

F is the raw network, D its estimate of the data. A loss in one row is a weighted loss in any other,
|F - F*|^2 = |D - x0|^2 / c_out^2, F* being what `target` returns.

The published columns, in the noise levels lam = sigma/alpha of EDM's table 1 (x/alpha is its x):
EDM: "edm". VP: "eps", time t, time_scale 999, on VP. VE: "eps" with `negative`, time
log_half_sigma, on VE (0.02, 100); Score SDE's own units and label: log_sigma on VE (0.01, 50).
iDDPM: "eps", time nearest_index, on the table "cosine", whose entry t = i + 1 is the paper's u_j,
j = N - 1 - i, with its C1 = 0.001 and C2 = 0.008.

Rows with a factor 1/alpha ("eps", "score") are undefined where alpha = 0 (the end of "flow" and
"cosine"): their training times and grids must end below it. The other rows are finite there.
"""

import abc
import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from genjax.core.arrays import Array, bcast, namespace
from genjax.core.errors import UserError
from genjax.core.registry import Registry, option
from genjax.process.gaussian import EDM, Process, as_time
from genjax.process.table import Table

_LOGS = ("log_sigma", "log_half_sigma", "quarter_log_sigma")
_TIMES = ("auto", "t", "reverse", "index", "nearest_index", "sigma", *_LOGS)
_TABLES = ("index", "nearest_index")  # times that count the entries of a table
_TIME_DOC = (
    "what the network's time embedding sees: t; reverse (t_max - t); index (table: t - 1) or "
    "nearest_index (of the entry of nearest sigma/alpha); sigma, log_sigma, log_half_sigma or "
    "quarter_log_sigma of sigma/alpha; auto: index for a table, else t"
)
_SCALE_DOC = "factor on that time (Score SDE's VP and discrete VE: 999; flow models: 1 or 1000)"
_ROUNDINGS = ("none", "nearest", "floor")
_ROUND_DOC = "integer labels of discrete models: the scaled time's none, nearest or floor"
_LOG_LIMIT = 20.0  # beyond every float32 time but the ends, where the logarithm is infinite


def c_noise(process: Process, t, time: str, scale: float, rounding: str = "none") -> Array:
    """Returns the network's time input, float32, shaped like `t`.

    Logarithms of sigma/alpha are kept within +-20, so that they are finite at both ends.
    """
    t = jnp.asarray(t, jnp.float32)
    if time == "auto":
        time = "index" if isinstance(process, Table) else "t"
    seen = _seen(process, t, time) * scale
    if rounding != "none":
        seen = jnp.round(seen) if rounding == "nearest" else jnp.floor(seen)
    return jnp.asarray(seen, jnp.float32)


def _seen(process: Process, t: Array, time: str) -> Array:
    if time == "t":
        return t
    if time == "reverse":
        return process.t_max - t
    if time in _TABLES:
        if time == "nearest_index" and isinstance(process, Table):
            t = process.nearest(t)
        return t - 1
    if time == "sigma":
        return process.lam(t)
    log = jnp.clip(-process.logsnr_half(t), -_LOG_LIMIT, _LOG_LIMIT)
    if time == "log_half_sigma":
        return log - np.log(2.0)
    return log / 4 if time == "quarter_log_sigma" else log


@dataclasses.dataclass(frozen=True)
class Precond(abc.ABC):
    """One row of the table. Coefficients take a scalar or [b] time and return the same shape."""

    time: str = option("auto", _TIME_DOC)
    time_scale: float = option(1.0, _SCALE_DOC)
    time_round: str = option("none", _ROUND_DOC)

    def __post_init__(self):
        if self.time not in _TIMES:
            raise ValueError(f"time: {self.time!r} is unknown; choose one of {list(_TIMES)}")
        if self.time_round not in _ROUNDINGS:
            raise ValueError(
                f"time_round: {self.time_round!r} is unknown; choose one of {list(_ROUNDINGS)}"
            )

    @abc.abstractmethod
    def c_skip(self, process: Process, t) -> Any: ...

    @abc.abstractmethod
    def c_out(self, process: Process, t) -> Any: ...

    def c_in(self, process: Process, t) -> Any:
        xp, t = as_time(t)
        return xp.ones_like(t)

    def c_noise(self, process: Process, t) -> Array:
        return c_noise(process, t, self.time, self.time_scale, self.time_round)

    @abc.abstractmethod
    def target(self, process: Process, t, x0, eps) -> Any:
        """Returns F*, what F should predict, for x0 and eps [b, ...]."""

    def check(self, process: Process) -> None:
        """Raises `UserError` if this row has no meaning for `process`."""
        if self.time in _TABLES and not isinstance(process, Table):
            raise UserError(
                f'precond.time: "{self.time}" counts the entries of a table, but the process is '
                f'{type(process).__name__}; use "t" or "auto"'
            )
        if isinstance(self, Eps | Score) and isinstance(process, Table) and process.zero_snr:
            raise UserError(
                "process.zero_snr: at the last level the noise says nothing of the data, so the"
                ' network must predict v or x0; set precond.name to "v" or "x0"'
            )


def _mix(a, x, b, y):
    """Returns a x + b y with per-sample a and b."""
    return bcast(a, x) * x + bcast(b, y) * y


@dataclasses.dataclass(frozen=True)
class Eps(Precond):
    """F predicts the noise (DDPM, DiT), or minus it (`negative`: Score SDE's VE networks)."""

    negative: bool = option(False, "the network predicts minus the noise")

    def c_skip(self, process, t):
        return 1 / process.alpha(t)

    def c_out(self, process, t):
        ratio = process.sigma(t) / process.alpha(t)
        return ratio if self.negative else -ratio

    def target(self, process, t, x0, eps):
        return -eps if self.negative else eps


@dataclasses.dataclass(frozen=True)
class X0(Precond):
    """F predicts the data."""

    def c_skip(self, process, t):
        return 0 * process.alpha(t)

    def c_out(self, process, t):
        xp, t = as_time(t)
        return xp.ones_like(t)

    def target(self, process, t, x0, eps):
        return x0


@dataclasses.dataclass(frozen=True)
class V(Precond):
    """F predicts v = alpha eps - sigma x0 (Salimans and Ho); any process, VP or not."""

    def c_skip(self, process, t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        return alpha / (alpha**2 + sigma**2)

    def c_out(self, process, t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        return -sigma / (alpha**2 + sigma**2)

    def target(self, process, t, x0, eps):
        return _mix(process.alpha(t), eps, -process.sigma(t), x0)


@dataclasses.dataclass(frozen=True)
class Velocity(Precond):
    """F predicts dx_t/dt = alpha' x0 + sigma' eps (flow matching, SiT).

    `reverse` is the convention of SiT's released weights, whose time runs from noise to data: the
    network is told t_max - t and predicts -dx_t/dt.
    """

    reverse: bool = option(False, "the network's time runs from noise to data, as in SiT's weights")

    def _det(self, process, t):
        return process.dalpha(t) * process.sigma(t) - process.dsigma(t) * process.alpha(t)

    def c_skip(self, process, t):
        return -process.dsigma(t) / self._det(process, t)

    def c_out(self, process, t):
        return self._sign * process.sigma(t) / self._det(process, t)

    def c_noise(self, process, t):
        if self.reverse:
            return c_noise(process, t, "reverse", self.time_scale, self.time_round)
        return super().c_noise(process, t)

    def target(self, process, t, x0, eps):
        return _mix(self._sign * process.dalpha(t), x0, self._sign * process.dsigma(t), eps)

    def check(self, process):
        super().check(process)
        if self.reverse and self.time not in ("auto", "t"):
            raise UserError(f'precond.reverse: needs precond.time "t", not {self.time!r}')

    @property
    def _sign(self) -> float:
        return -1.0 if self.reverse else 1.0


@dataclasses.dataclass(frozen=True)
class Score(Precond):
    """F predicts the score of p(x_t | x0), -eps/sigma (Score SDE)."""

    def c_skip(self, process, t):
        return 1 / process.alpha(t)

    def c_out(self, process, t):
        return process.sigma(t) ** 2 / process.alpha(t)

    def target(self, process, t, x0, eps):
        return -eps / bcast(process.sigma(t), eps)


@dataclasses.dataclass(frozen=True)
class EDMPrecond(Precond):
    """EDM's row for any process: unit variance into and out of F if the data have sigma_data.

    With q = sigma^2 + sd^2 alpha^2: c_skip = sd^2 alpha/q, c_out = sigma sd/sqrt(q),
    c_in = 1/sqrt(q), the form that stays finite where alpha = 0; for alpha = 1 it is the paper's
    table 1. sigma_data = 1 is v prediction, F = -v.
    """

    time: str = option("quarter_log_sigma", _TIME_DOC)
    sigma_data: float = option(0.5, "standard deviation of the data")

    def __post_init__(self):
        super().__post_init__()
        if not self.sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {self.sigma_data}")

    def _q(self, process, t):
        return process.sigma(t) ** 2 + self.sigma_data**2 * process.alpha(t) ** 2

    def c_skip(self, process, t):
        return self.sigma_data**2 * process.alpha(t) / self._q(process, t)

    def c_out(self, process, t):
        q = self._q(process, t)
        return process.sigma(t) * self.sigma_data / namespace(q).sqrt(q)

    def c_in(self, process, t):
        q = self._q(process, t)
        return 1 / namespace(q).sqrt(q)

    def target(self, process, t, x0, eps):
        # (x0 - c_skip x)/c_out with sigma cancelled, so that it is finite at sigma = 0
        q = self._q(process, t)
        whole = _mix(process.sigma(t), x0, -(self.sigma_data**2) * process.alpha(t), eps)
        return whole / bcast(self.sigma_data * namespace(q).sqrt(q), x0)


@dataclasses.dataclass(frozen=True)
class Consistency(EDMPrecond):
    """EDM's row shifted so that D(x, t_min) = x (consistency models); alpha = 1, sigma = t only.

    c_skip = sd^2/((t - t_min)^2 + sd^2), c_out = sd (t - t_min)/sqrt(t^2 + sd^2).
    """

    def c_skip(self, process, t):
        _, t = as_time(t)
        return self.sigma_data**2 / ((t - process.t_min) ** 2 + self.sigma_data**2)

    def c_out(self, process, t):
        xp, t = as_time(t)
        return self.sigma_data * (t - process.t_min) / xp.sqrt(t**2 + self.sigma_data**2)

    def target(self, process, t, x0, eps):
        """Returns (x0 - c_skip x)/c_out, undefined at t = t_min where D does not depend on F."""
        x = process.perturb(x0, eps, t)
        return (x0 - bcast(self.c_skip(process, t), x) * x) / bcast(self.c_out(process, t), x)

    def check(self, process):
        super().check(process)
        if not isinstance(process, EDM):
            raise UserError(
                "precond.name: consistency is defined for alpha = 1, sigma = t, but the process "
                f'is {type(process).__name__}; set process.name to "edm"'
            )


PRECONDS = Registry(
    "precond",
    {
        "eps": Eps,
        "x0": X0,
        "v": V,
        "velocity": Velocity,
        "score": Score,
        "edm": EDMPrecond,
        "consistency": Consistency,
    },
)
