"""Time grids: `times(process, n)` returns float64 [n + 1], from noise down to the end, n >= 1.

Grids that count the steps of a table of N betas put the table's index i at time t = i + 1, as the
process does, and end at t = 0. All arithmetic is float64 on the host.
"""

import dataclasses
from typing import Protocol

import numpy as np

from genjax.core.errors import UserError
from genjax.core.registry import Registry, option, required
from genjax.process.gaussian import Process
from genjax.process.table import Table


class Grid(Protocol):
    """A named rule that makes a grid."""

    def times(self, process: Process, n: int) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Uniform:
    """n equal steps in t from `start` to `end`.

    `last` > 0 makes the last step that long and the others equal: SiT's SDE goes uniformly from 1
    to 0.04 and from there to 0 (n = 250, last = 0.04). `shift` = s moves lam to s lam, flow
    matching's t -> s t/(1 + (s - 1) t) (Esser et al., arXiv 2403.03206).
    """

    start: float | None = option(None, "first time (None: the process's t_max)")
    end: float = option(0.0, "last time")
    last: float = option(0.0, "length of the last step, others equal (0: all equal)")
    shift: float = option(1.0, "factor on sigma/alpha of every time (1: none)")

    def __post_init__(self):
        if self.shift <= 0:
            raise ValueError(f"shift must be positive, got {self.shift}")
        if self.last < 0:
            raise ValueError(f"last must be >= 0, got {self.last}")

    def times(self, process: Process, n: int) -> np.ndarray:
        _positive(n)
        start = process.t_max if self.start is None else self.start
        if not self.end + self.last < start:
            raise UserError(
                f"sampler.grid: start {start:g} must lie above end + last"
                f" = {self.end + self.last:g}"
            )
        if self.last:
            t = np.append(np.linspace(start, self.end + self.last, n), self.end)
        else:
            t = np.linspace(start, self.end, n + 1)
        return t if self.shift == 1 else self._shifted(process, t, start)

    def _shifted(self, process: Process, t: np.ndarray, start: float) -> np.ndarray:
        finite = (process.alpha(t) > 0) & (process.sigma(t) > 0)  # lam = 0 and infinity stay
        t[finite] = process.t_of_lam(self.shift * process.lam(t[finite]))
        if t[0] > process.t_max * (1 + 1e-9):
            raise UserError(
                f"sampler.grid.shift: {self.shift:g} moves the start {start:g} above the process's"
                f" last time {process.t_max:g}; lower the start"
            )
        return t


@dataclasses.dataclass(frozen=True)
class Trailing:
    """t_k = round(N - k N/n): a table's last step is always visited, its spacing is even."""

    def times(self, process: Process, n: int) -> np.ndarray:
        size = _table_size(process, n)
        return np.append(np.round(size - np.arange(n) * size / n), 0.0)


@dataclasses.dataclass(frozen=True)
class Leading:
    """Indices k floor(N/n) + offset, from the largest down ("ddimN"; offset 1: Stable Diffusion).

    The table's last step is not visited although sampling starts from pure noise.
    """

    offset: int = option(0, "added to every index of the table")

    def times(self, process: Process, n: int) -> np.ndarray:
        size = _table_size(process, n)
        t = np.arange(n - 1, -1, -1) * (size // n) + self.offset + 1.0
        if t[0] > size or t[-1] < 1:
            raise UserError(f"sampler.grid.offset: {self.offset} leaves the table of {size} steps")
        return np.append(t, 0.0)


@dataclasses.dataclass(frozen=True)
class Respaced:
    """Indices round_half_even(k (N - 1)/(n - 1)): improved DDPM's and DiT's re-spacing.

    n = 250 of 1000: 0, 4, 8, ..., 991, 995, 999. n = 1 takes the last index (the noise end).
    """

    def times(self, process: Process, n: int) -> np.ndarray:
        size = _table_size(process, n)
        index = np.round(np.arange(n - 1, -1, -1) * (size - 1) / max(n - 1, 1))
        return np.append(index if n > 1 else np.array([size - 1.0]), -1.0) + 1.0


@dataclasses.dataclass(frozen=True)
class Quadratic:
    """Indices floor(linspace(0, sqrt(fraction N), n)^2): DDIM's grid for CIFAR-10.

    The first indices repeat when n^2 > fraction N; such steps have length 0 and change nothing, but
    evaluate the network, as published.
    """

    fraction: float = option(0.8, "share of the table that is visited")

    def __post_init__(self):
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {self.fraction}")

    def times(self, process: Process, n: int) -> np.ndarray:
        size = _table_size(process, n)
        top = np.sqrt(size * self.fraction)
        roots = np.linspace(0, top, n) if n > 1 else np.array([top])
        return np.append(np.minimum(np.floor(roots**2), size - 1)[::-1], -1.0) + 1.0


@dataclasses.dataclass(frozen=True)
class Karras:
    """sigma_k = (max^(1/rho) + k/(n - 1) (min^(1/rho) - max^(1/rho)))^rho, k < n, then t = 0.

    sigma is sigma/alpha, turned into the process's time (Karras et al., arXiv 2206.00364, eq. 5).
    n = 1 is the single step from sigma_max.
    """

    sigma_min: float | None = option(None, "last noise level before 0 (None: at t_min)")
    sigma_max: float | None = option(None, "first noise level (None: at t_max)")
    rho: float = option(7.0, "exponent; larger puts more steps at low noise")

    def __post_init__(self):
        if self.rho <= 0:
            raise ValueError(f"rho must be positive, got {self.rho}")

    def times(self, process: Process, n: int) -> np.ndarray:
        _positive(n)
        hi = _level(process, self.sigma_max, process.t_max, "sigma_max")
        lo = _level(process, self.sigma_min, process.t_min, "sigma_min")
        if lo >= hi:
            raise UserError(f"sampler.grid.sigma_min: {lo:g} must be below sigma_max = {hi:g}")
        ramp = np.arange(n) / max(n - 1, 1)
        hi_root, lo_root = hi ** (1 / self.rho), lo ** (1 / self.rho)
        return np.append(process.t_of_lam((hi_root + ramp * (lo_root - hi_root)) ** self.rho), 0.0)


@dataclasses.dataclass(frozen=True)
class LogSNR:
    """Uniform in log(sigma/alpha) from `start` to `end`; with `zero`, n - 1 such steps, then t = 0.

    Where alpha(start) = 0 (flow at 1) the first time must be given.
    """

    start: float | None = option(None, "first time (None: the process's t_max)")
    end: float | None = option(None, "last time with noise (None: the process's t_min)")
    zero: bool = option(True, "whether a last step goes to t = 0")

    def times(self, process: Process, n: int) -> np.ndarray:
        _positive(n)
        start = process.t_max if self.start is None else self.start
        end = process.t_min if self.end is None else self.end
        hi, lo = _level(process, None, start, "start"), _level(process, None, end, "end")
        if lo >= hi:
            raise UserError(f"sampler.grid.end: {end:g} must lie below start = {start:g}")
        points = n if self.zero else n + 1
        t = process.t_of_lam(np.exp(np.linspace(np.log(hi), np.log(lo), points)))
        t[0] = start
        if points > 1:
            t[-1] = end
        return np.append(t, 0.0) if self.zero else t


@dataclasses.dataclass(frozen=True)
class Listed:
    """The times as given: searched or published grids."""

    t: tuple[float, ...] = required("all n + 1 times, falling, the end included")

    def __post_init__(self):
        if len(self.t) < 2 or any(a < b for a, b in zip(self.t, self.t[1:])):
            raise ValueError(f"t must hold at least two falling times, got {self.t}")

    def times(self, process: Process, n: int) -> np.ndarray:
        if n != len(self.t) - 1:
            raise UserError(f"sampler.steps: {n}, but sampler.grid.t lists {len(self.t) - 1} steps")
        return np.array(self.t, np.float64)


GRIDS = Registry(
    "grid",
    {
        "uniform": Uniform,
        "trailing": Trailing,
        "leading": Leading,
        "respaced": Respaced,
        "quadratic": Quadratic,
        "karras": Karras,
        "logsnr": LogSNR,
        "listed": Listed,
    },
)


def _positive(n: int) -> None:
    if n < 1:
        raise UserError(f"sampler.steps: expected at least 1, got {n}")


def _table_size(process: Process, n: int) -> int:
    """Returns N of a table process; checks that n distinct steps fit."""
    _positive(n)
    if not isinstance(process, Table):
        raise UserError(
            "sampler.grid: this grid counts the steps of a table of betas, but the process is"
            f" {type(process).__name__}; choose uniform, karras or logsnr"
        )
    if n > process.n:
        raise UserError(f"sampler.steps: {n} is more than the table's {process.n} steps")
    return process.n


def _level(process: Process, level: float | None, t: float, field: str) -> float:
    """Returns the noise level sigma/alpha that a grid starts or ends at; finite and positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(process.lam(np.float64(t))) if level is None else level
    if not (np.isfinite(value) and value > 0):
        raise UserError(
            f"sampler.grid.{field}: sigma/alpha is {value:g} at t = {t:g}; give {field}"
        )
    return value
