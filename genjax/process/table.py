"""The noise process of DDPM: a table of N betas, and times between its entries.

Time t = i + 1 is the table's entry i = 0..N-1; alpha(0) = 1 and sigma(0) = 0 are the data. For
t >= 1, log(sigma/alpha) is interpolated linearly between entries (the rule of k-diffusion and of
diffusers, not DPM-Solver's, which interpolates log alpha); from 0 to 1, sigma/alpha itself is.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from genjax.core.registry import option
from genjax.process.gaussian import Process, as_time

_ENDS = {"linear": (1e-4, 2e-2), "scaled_linear": (0.00085, 0.012)}
_KINDS = (*_ENDS, "cosine", "given")


class Nodes(NamedTuple):
    """float64 [N+1], at t = 0..N. `step[t]`: log lam(t) - log lam(t-1), and 0 for t < 2."""

    abar: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    log_lam: np.ndarray
    step: np.ndarray


@dataclasses.dataclass(frozen=True)
class Table(Process):
    """Tabulated betas; abar_i = prod (1 - beta_j), alpha = sqrt(abar), sigma = sqrt(1 - abar).

    Derivatives are those of the interpolation, at an entry those of the segment below it: that is
    the segment which a sampler coming from more noise crosses next. So the velocity is defined
    everywhere, and a step in t uses the slope of its own segment.
    """

    betas: str = option("linear", "linear, scaled_linear (linear in sqrt beta), cosine or given")
    n: int = option(1000, "number of noise levels N")
    lo: float | None = option(
        None, "first beta of a table of 1000, scaled by 1000/n for another n; None: the usual one"
    )
    hi: float | None = option(
        None, "last beta of a table of 1000, scaled by 1000/n for another n; None: the usual one"
    )
    values: tuple[float, ...] = option((), "the betas themselves, for betas = given")

    def __post_init__(self):
        if self.betas not in _KINDS:
            raise ValueError(f"betas: {self.betas!r} is unknown; choose one of {list(_KINDS)}")
        if self.n < 2:
            raise ValueError(f"n must be at least 2, got {self.n}")
        if self.betas not in _ENDS and (self.lo is not None or self.hi is not None):
            raise ValueError(f"lo and hi belong to {list(_ENDS)}, not to betas = {self.betas!r}")
        if len(self.values) != (self.n if self.betas == "given" else 0):
            raise ValueError(f"values must hold n = {self.n} betas for betas = given, else none")
        beta = self.beta_values()
        if not np.all((beta > 0) & (beta < 1)):
            raise ValueError(
                f"every beta must lie strictly between 0 and 1, got {beta.min():g} to "
                f"{beta.max():g} (at 1 no data are left and sigma/alpha is undefined)"
            )

    def beta_values(self) -> np.ndarray:
        """Returns the betas, float64 [N], entry i for t = i + 1."""
        if self.betas == "given":
            return np.asarray(self.values, np.float64)
        if self.betas == "cosine":
            level = np.cos((np.arange(self.n + 1) / self.n + 0.008) / 1.008 * np.pi / 2) ** 2
            return np.minimum(1 - level[1:] / level[:-1], 0.999)
        lo, hi = _ENDS[self.betas]
        lo = (lo if self.lo is None else self.lo) * 1000 / self.n
        hi = (hi if self.hi is None else self.hi) * 1000 / self.n
        if min(lo, hi) < 0:
            raise ValueError(f"lo and hi must be positive, got {self.lo} and {self.hi}")
        if self.betas == "linear":
            return np.linspace(lo, hi, self.n)
        return np.linspace(np.sqrt(lo), np.sqrt(hi), self.n) ** 2

    @property
    def nodes(self) -> Nodes:
        """The table at t = 0..N, float64 on the host."""
        return _nodes(self)

    @property
    def t_min(self) -> float:
        return 1.0

    @property
    def t_max(self) -> float:
        return float(self.n)

    def _pair(self, t):
        """Returns (alpha, sigma, lam') at t: exactly the table's numbers where t is an integer."""
        xp, t = as_time(t)
        k = xp.clip(xp.ceil(t), 0, self.n).astype(np.int32)  # the entry at or above t
        nodes = self.nodes
        alpha, sigma, step = (
            xp.asarray(a, t.dtype)[k] for a in (nodes.alpha, nodes.sigma, nodes.step)
        )
        r = xp.where(k <= 1, t, xp.exp((t - k) * step))  # lam(t)/lam(k)
        norm = xp.where(r == 1, 1, xp.sqrt(alpha**2 + sigma**2 * r**2))
        first = float(np.exp(self.nodes.log_lam[1]))
        slope = xp.where(k <= 1, first, step * r * sigma / alpha)
        return alpha / norm, sigma * r / norm, slope

    def alpha(self, t):
        return self._pair(t)[0]

    def sigma(self, t):
        return self._pair(t)[1]

    def dalpha(self, t):
        alpha, sigma, slope = self._pair(t)
        return -(alpha**2) * sigma * slope

    def dsigma(self, t):
        alpha, _, slope = self._pair(t)
        return alpha**3 * slope

    def t_of_lam(self, lam):
        xp, lam = as_time(lam)
        log_lam = self.nodes.log_lam[1:]
        first = float(np.exp(log_lam[0]))
        above = 1 + xp.interp(xp.log(xp.maximum(lam, first)), log_lam, np.arange(self.n))
        return xp.where(lam < first, lam / first, above)

    def nearest(self, t):
        """Returns the entry 1..N whose sigma/alpha is nearest to that of `t`, shaped like `t`.

        Networks that were trained on the table's levels alone see this one (EDM's iDDPM column).
        """
        xp, t = as_time(t)
        low = xp.clip(xp.floor(t), 1, self.n)
        high = xp.clip(xp.ceil(t), 1, self.n)
        lam = self.lam(t)
        return xp.where(self.lam(high) - lam < lam - self.lam(low), high, low)


@functools.lru_cache(maxsize=16)
def _nodes(table: Table) -> Nodes:
    log_abar = np.concatenate([[0.0], np.cumsum(np.log1p(-table.beta_values()))])
    alpha, sigma = np.exp(0.5 * log_abar), np.sqrt(-np.expm1(log_abar))
    with np.errstate(divide="ignore"):
        log_lam = np.log(sigma) - 0.5 * log_abar
    step = np.concatenate([[0.0, 0.0], np.diff(log_lam[1:])])
    return Nodes(np.exp(log_abar), alpha, sigma, log_lam, step)
