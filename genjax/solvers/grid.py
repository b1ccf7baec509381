"""Time grids: `times(process, n)` returns float64 [n + 1], from noise down to the end, n >= 1.

Grids that count the steps of a table of N betas put the table's index i at time t = i + 1, as the
process does, and end at t = 0. All arithmetic is float64 on the host.
"""

import dataclasses
import math
from typing import Protocol

import numpy as np

from genjax.core.errors import UserError
from genjax.core.registry import option, required
from genjax.process.gaussian import VP, Process
from genjax.process.table import Table


class Grid(Protocol):
    """A named rule that makes a grid."""

    def times(self, process: Process, n: int) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Uniform:
    """n equal steps in t from `start` to `end`.

    `last` > 0 makes the last step that long and the others equal: SiT's SDE goes uniformly from 1
    to 0.04 and from there to 0 (n = 250, last = 0.04). `shift` = s moves lam to s lam, flow
    matching's t -> s t/(1 + (s - 1) t) (Esser et al., arXiv 2403.03206). `tokens` chooses it by
    the size of the picture, s = e^mu with mu linear from 0.5 at 256 tokens to 1.15 at 4096
    (Flux; from memory).
    """

    start: float | None = option(None, "first time (None: the process's t_max)")
    end: float = option(0.0, "last time")
    last: float = option(0.0, "length of the last step, others equal (0: all equal)")
    shift: float = option(1.0, "factor on sigma/alpha of every time (1: none)")
    tokens: int | None = option(None, "tokens of a picture, to choose the shift by (None: shift)")

    def __post_init__(self):
        if self.shift <= 0:
            raise ValueError(f"shift must be positive, got {self.shift}")
        if self.tokens is not None and (self.tokens < 1 or self.shift != 1):
            raise ValueError("tokens must be at least 1, and shift is then chosen by them")
        if self.last < 0:
            raise ValueError(f"last must be >= 0, got {self.last}")

    def times(self, process: Process, n: int) -> np.ndarray:
        positive(n)
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
        return t if self.factor == 1 else self._shifted(process, t, start)

    @property
    def factor(self) -> float:
        """The factor on sigma/alpha."""
        if self.tokens is None:
            return self.shift
        return math.exp(0.5 + (1.15 - 0.5) * (self.tokens - 256) / (4096 - 256))

    def _shifted(self, process: Process, t: np.ndarray, start: float) -> np.ndarray:
        finite = (process.alpha(t) > 0) & (process.sigma(t) > 0)  # lam = 0 and infinity stay
        t[finite] = process.t_of_lam(self.factor * process.lam(t[finite]))
        if t[0] > process.t_max * (1 + 1e-9):
            raise UserError(
                f"sampler.grid.shift: {self.factor:g} moves the start {start:g} above the process's"
                f" last time {process.t_max:g}; lower the start"
            )
        return t


@dataclasses.dataclass(frozen=True)
class ScoreSDE:
    """linspace(start, eps, n), then `end`: the grid of Score SDE (arXiv 2011.13456).

    n times, each of which a network sees, and a last step that leaves eps. With eps = 0 on VE these
    are SMLD's levels, i/(n - 1) for i = n - 1 .. 0, of the discrete model too. 2n steps on a model
    of n levels (VE with eps = 0, or a table) are the paper's P2000 with linear interpolation of the
    labels, and its halved betas.
    """

    eps: float | None = option(
        None, "last time with noise (None: 1e-3 for VP and sub-VP, else the process's t_min)"
    )
    start: float | None = option(None, "first time (None: the process's t_max)")
    end: float = option(0.0, "where the last step ends")

    def times(self, process: Process, n: int) -> np.ndarray:
        positive(n)
        start = process.t_max if self.start is None else self.start
        eps = self.eps
        if eps is None:
            eps = 1e-3 if isinstance(process, VP) else process.t_min
        if not self.end <= eps < start:
            raise UserError(
                f"sampler.grid.eps: {eps:g} must lie between end = {self.end:g} and start ="
                f" {start:g}"
            )
        return np.append(np.linspace(start, eps, n), self.end)


@dataclasses.dataclass(frozen=True)
class Power:
    """linspace(start^(1/power), end^(1/power), n + 1)^power: DEIS's grid, quadratic in t."""

    start: float | None = option(None, "first time (None: the process's t_max)")
    end: float = option(1e-3, "last time")
    power: float = option(2.0, "exponent; larger puts more steps at low noise")

    def __post_init__(self):
        if self.power <= 0 or self.end < 0:
            raise ValueError("power must be positive and end >= 0")

    def times(self, process: Process, n: int) -> np.ndarray:
        positive(n)
        start = process.t_max if self.start is None else self.start
        if not self.end < start:
            raise UserError(f"sampler.grid.end: {self.end:g} must lie below start = {start:g}")
        roots = np.linspace(start ** (1 / self.power), self.end ** (1 / self.power), n + 1)
        t = roots**self.power
        t[0], t[-1] = start, self.end
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
class TSDPM:
    """The grid of the code released with Time-Shift: k floor(N/(n + 1)) + 1 for k = n - 1 .. 0.

    One of its "n + 1 steps", the noisiest, is left out, and the end is index 0, not the data.
    """

    def times(self, process: Process, n: int) -> np.ndarray:
        size = _table_size(process, n + 1)
        return np.append(np.arange(n - 1, -1, -1) * (size // (n + 1)) + 2.0, 1.0)


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
        positive(n)
        hi, lo = level_range(process, self.sigma_max, self.sigma_min)
        ramp = np.arange(n) / max(n - 1, 1)
        hi_root, lo_root = hi ** (1 / self.rho), lo ** (1 / self.rho)
        return np.append(process.t_of_lam((hi_root + ramp * (lo_root - hi_root)) ** self.rho), 0.0)


@dataclasses.dataclass(frozen=True)
class VPTimes:
    """EDM's VP column on any process: the levels of n even times from 1 to eps, then t = 0.

    The times are those of the VP process whose sigma/alpha is `sigma_max` at 1 and `sigma_min` at
    eps, its betas solved for that. Without bounds it is Score SDE's VP, 0.1 to 20: from 152.2 to
    0.0105. (EDM's VE column, geometric levels, is the grid "logsnr".)
    """

    sigma_min: float | None = option(None, "last noise level before 0 (None: Score SDE's at eps)")
    sigma_max: float | None = option(None, "first noise level (None: Score SDE's at 1)")
    eps: float = option(1e-3, "last VP time before 0")

    def __post_init__(self):
        if not 0 < self.eps < 1:
            raise ValueError(f"eps must lie in (0, 1), got {self.eps}")
        self.solved()

    def solved(self) -> VP:
        """Returns the VP process that reaches the two noise levels."""
        lo, hi = (
            float(VP().lam(t)) if level is None else level
            for level, t in ((self.sigma_min, self.eps), (self.sigma_max, 1.0))
        )
        low, high = np.log1p(lo**2), np.log1p(hi**2)  # B(t) at eps and at 1
        slope = 2 * (low / self.eps - high) / (self.eps - 1)
        return VP(high - slope / 2, high + slope / 2)

    def times(self, process: Process, n: int) -> np.ndarray:
        positive(n)
        lam = self.solved().lam(np.linspace(1, self.eps, n))
        return np.append(process.t_of_lam(lam), 0.0)


@dataclasses.dataclass(frozen=True)
class IDDPM:
    """EDM's iDDPM column on any process: n of the levels u_j of the cosine table of 1,000, then 0.

    u_0 is the largest. j = floor(j0 + (999 - j0) k/(n - 1) + 1/2), k < n, as in the paper; with
    `sigma_max` (or `sigma_min`) the same, rounded half to even, over the levels within the bounds,
    as in the authors' code. On a table the times are its nearest entries.
    """

    j0: int = option(8, "first level that is visited; 8: 80.2")
    sigma_min: float | None = option(None, "keep levels above this one instead of j0 (None: all)")
    sigma_max: float | None = option(None, "keep levels below this one instead of j0 (None: all)")

    def __post_init__(self):
        if not 0 <= self.j0 < 999:
            raise ValueError(f"j0 must lie in [0, 999), got {self.j0}")
        if not len(self._levels()):
            raise ValueError(f"no level lies in [{self.sigma_min}, {self.sigma_max}]")

    def _levels(self) -> np.ndarray:
        """Returns the levels to choose from, falling."""
        u = Table("cosine").lam(np.arange(1000, 0, -1.0))
        if self.sigma_min is None and self.sigma_max is None:
            return u[self.j0 :]
        low, high = self.sigma_min or 0.0, self.sigma_max or np.inf
        return u[(u >= low) & (u <= high)]

    def times(self, process: Process, n: int) -> np.ndarray:
        positive(n)
        u = self._levels()
        if n > len(u):
            raise UserError(f"sampler.steps: {n} is more than the grid's {len(u)} levels")
        place = np.arange(n) * (len(u) - 1) / max(n - 1, 1)
        legacy = self.sigma_min is not None or self.sigma_max is not None
        j = np.round(place) if legacy else np.floor(place + 0.5)
        t = process.t_of_lam(u[j.astype(int)])
        return np.append(process.nearest(t) if isinstance(process, Table) else t, 0.0)


@dataclasses.dataclass(frozen=True)
class LogSNR:
    """Uniform in log(sigma/alpha) from `start` to `end`; with `zero`, n - 1 such steps, then t = 0.

    Where alpha(start) = 0 (flow at 1) the first time must be given.
    """

    start: float | None = option(None, "first time (None: the process's t_max)")
    end: float | None = option(None, "last time with noise (None: the process's t_min)")
    zero: bool = option(True, "whether a last step goes to t = 0")

    def times(self, process: Process, n: int) -> np.ndarray:
        positive(n)
        start = process.t_max if self.start is None else self.start
        end = process.t_min if self.end is None else self.end
        hi, lo = noise_level(process, None, start, "start"), noise_level(process, None, end, "end")
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


def positive(n: int) -> None:
    """Raises `UserError` for a number of steps below 1."""
    if n < 1:
        raise UserError(f"sampler.steps: expected at least 1, got {n}")


def _table_size(process: Process, n: int) -> int:
    """Returns N of a table process; checks that n distinct steps fit."""
    positive(n)
    if not isinstance(process, Table):
        raise UserError(
            "sampler.grid: this grid counts the steps of a table of betas, but the process is"
            f" {type(process).__name__}; choose uniform, karras or logsnr"
        )
    if n > process.n:
        raise UserError(f"sampler.steps: {n} is more than the table's {process.n} steps")
    return process.n


def level_range(
    process: Process, sigma_max: float | None, sigma_min: float | None
) -> tuple[float, float]:
    """Returns the highest and the lowest level of a grid, those of t_max and t_min for None."""
    hi = noise_level(process, sigma_max, process.t_max, "sigma_max")
    lo = noise_level(process, sigma_min, process.t_min, "sigma_min")
    if lo >= hi:
        raise UserError(f"sampler.grid.sigma_min: {lo:g} must be below sigma_max = {hi:g}")
    return hi, lo


def noise_level(process: Process, level: float | None, t: float, field: str) -> float:
    """Returns the noise level sigma/alpha that a grid starts or ends at; finite and positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(process.lam(np.float64(t))) if level is None else level
    if not (np.isfinite(value) and value > 0):
        raise UserError(
            f"sampler.grid.{field}: sigma/alpha is {value:g} at t = {t:g}; give {field}"
        )
    return value
