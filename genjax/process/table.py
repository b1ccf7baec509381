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

_ENDS = {"linear": (1e-4, 2e-2), "scaled_linear": (0.00085, 0.012), "sigmoid": (1e-4, 2e-2)}
_KINDS = (*_ENDS, "cosine", "given")


class Nodes(NamedTuple):
    """float64 [N+1], at t = 0..N. `step[t]`: log lam(t) - log lam(t-1), and 0 for t < 2.

    Where lam(t) is infinite, `step` is 0 too.
    """

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

    `zero_snr` rescales the table to zero terminal SNR (Lin et al., arXiv 2305.08891): with
    a = sqrt(abar), a <- (a - a_T) a_1/(a_1 - a_T), so that no data are left at t = N; from N - 1
    to N, alpha/sigma is interpolated. Needs a network that predicts v or x0.
    """

    betas: str = option(
        "linear",
        "linear, scaled_linear (linear in sqrt beta), sigmoid (between -6 and 6), cosine or given",
    )
    n: int = option(1000, "number of noise levels N")
    lo: float | None = option(
        None, "first beta of a table of 1000, scaled by 1000/n for another n; None: the usual one"
    )
    hi: float | None = option(
        None, "last beta of a table of 1000, scaled by 1000/n for another n; None: the usual one"
    )
    values: tuple[float, ...] = option((), "the betas themselves, for betas = given")
    zero_snr: bool = option(False, "rescale so that no data are left at the last level")

    def __post_init__(self):
        if self.betas not in _KINDS:
            raise ValueError(f"betas: {self.betas!r} is unknown; choose one of {list(_KINDS)}")
        if self.n < 2:
            raise ValueError(f"n must be at least 2, got {self.n}")
        if self.betas not in _ENDS and (self.lo is not None or self.hi is not None):
            raise ValueError(f"lo and hi belong to {list(_ENDS)}, not to betas = {self.betas!r}")
        if len(self.values) != (self.n if self.betas == "given" else 0):
            raise ValueError(f"values must hold n = {self.n} betas for betas = given, else none")
        beta = self._plain_betas()
        if not np.all((beta > 0) & (beta < 1)):
            raise ValueError(
                f"every beta must lie strictly between 0 and 1, got {beta.min():g} to "
                f"{beta.max():g} (at 1 no data are left and sigma/alpha is undefined)"
            )

    def beta_values(self) -> np.ndarray:
        """Returns the betas, float64 [N], entry i for t = i + 1; the last is 1 with `zero_snr`."""
        if not self.zero_snr:
            return self._plain_betas()
        return 1 - self.nodes.abar[1:] / self.nodes.abar[:-1]

    def _plain_betas(self) -> np.ndarray:
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
        if self.betas == "sigmoid":
            return lo + (hi - lo) / (1 + np.exp(-np.linspace(-6, 6, self.n)))
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
        """Returns (alpha, sigma, alpha^2 lam') at t: the table's own where t is an integer."""
        xp, t = as_time(t)
        k = xp.clip(xp.ceil(t), 0, self.n).astype(np.int32)  # the entry at or above t
        nodes = self.nodes
        alpha, sigma, step = (
            xp.asarray(a, t.dtype)[k] for a in (nodes.alpha, nodes.sigma, nodes.step)
        )
        r = xp.where(k <= 1, t, xp.exp((t - k) * step))  # lam(t)/lam(k)
        norm = xp.where(r == 1, 1, xp.sqrt(alpha**2 + sigma**2 * r**2))
        first = float(np.exp(nodes.log_lam[1]))
        # alpha^2 lam' = (alpha/norm)^2 step r sigma/alpha, without a division by alpha
        turn = xp.where(k <= 1, first * (alpha / norm) ** 2, step * r * sigma * alpha / norm**2)
        alpha, sigma = alpha / norm, sigma * r / norm
        if not self.zero_snr:
            return alpha, sigma, turn
        slope = float(np.exp(-nodes.log_lam[-2]))  # of alpha/sigma, from N down to N - 1
        left = slope * (self.n - t)
        norm, last = xp.sqrt(1 + left**2), t > self.n - 1
        return (
            xp.where(last, left / norm, alpha),
            xp.where(last, 1 / norm, sigma),
            xp.where(last, slope / norm**2, turn),
        )

    def alpha(self, t):
        return self._pair(t)[0]

    def sigma(self, t):
        return self._pair(t)[1]

    def dalpha(self, t):
        _, sigma, turn = self._pair(t)
        return -sigma * turn

    def dsigma(self, t):
        alpha, _, turn = self._pair(t)
        return alpha * turn

    def t_of_lam(self, lam):
        xp, lam = as_time(lam)
        log_lam = self.nodes.log_lam[1 : self.n + 1 - self.zero_snr]
        first, last = float(np.exp(log_lam[0])), float(np.exp(log_lam[-1]))
        above = 1 + xp.interp(xp.log(xp.maximum(lam, first)), log_lam, np.arange(log_lam.size))
        if self.zero_snr:
            above = xp.where(lam > last, self.n - last / xp.maximum(lam, last), above)
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
    log_abar = np.concatenate([[0.0], np.cumsum(np.log1p(-table._plain_betas()))])
    if table.zero_snr:
        root = np.exp(0.5 * log_abar[1:])
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        with np.errstate(divide="ignore"):
            log_abar[1:] = 2 * np.log(root)
    alpha, sigma = np.exp(0.5 * log_abar), np.sqrt(-np.expm1(log_abar))
    with np.errstate(divide="ignore"):
        log_lam = np.log(sigma) - 0.5 * log_abar
    step = np.concatenate([[0.0, 0.0], np.diff(log_lam[1:])])
    step[~np.isfinite(step)] = 0.0  # before an infinite lam another rule holds
    return Nodes(np.exp(log_abar), alpha, sigma, log_lam, step)
