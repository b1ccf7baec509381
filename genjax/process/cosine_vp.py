"""The cosine schedule of improved DDPM in continuous time, as DPM-Solver writes it."""

import dataclasses

import numpy as np

from genjax.core.registry import option
from genjax.process.gaussian import Process, as_time


@dataclasses.dataclass(frozen=True)
class CosineVP(Process):
    """The cosine schedule with offset, alpha = cos(theta(t))/cos(theta(0)), variance preserving.

    theta(t) = (pi/2)(t + s)/(1 + s): DPM-Solver's continuous form of improved DDPM's table. The
    model's times end at `t_end`, where alpha is still positive (0.9946 in DPM-Solver, from memory).
    """

    s: float = option(0.008, "offset, which keeps sigma from growing at once")
    t_end: float = option(0.9946, "last time of the model, below 1")

    def __post_init__(self):
        if self.s <= 0 or not 0 < self.t_end <= 1:
            raise ValueError("s must be positive and t_end lie in (0, 1]")

    @property
    def t_min(self) -> float:
        return 1e-5

    @property
    def t_max(self) -> float:
        return self.t_end

    @property
    def _rate(self) -> float:
        return 0.5 * np.pi / (1 + self.s)

    @property
    def _start(self) -> float:
        return self._rate * self.s

    def alpha(self, t):
        xp, t = as_time(t)
        return xp.sin(self._rate * (1 - t)) / np.cos(self._start)  # cos(theta), 0 at t = 1

    def sigma(self, t):
        """Returns sqrt(1 - alpha^2) = sqrt(sin(theta - theta_0) sin(theta + theta_0))/cos theta_0.

        The product does not cancel at small t.
        """
        xp, t = as_time(t)
        angle = self._rate * t
        return xp.sqrt(xp.sin(angle) * xp.sin(angle + 2 * self._start)) / np.cos(self._start)

    def dalpha(self, t):
        xp, t = as_time(t)
        return -self._rate * xp.sin(self._rate * t + self._start) / np.cos(self._start)

    def dsigma(self, t):
        with np.errstate(divide="ignore"):  # infinite at t = 0, where sigma grows like sqrt(t)
            return -self.alpha(t) * self.dalpha(t) / self.sigma(t)

    def t_of_lam(self, lam):
        """Uses tan(theta)^2 = (sin(theta_0)^2 + lam^2)/cos(theta_0)^2, from alpha's definition."""
        xp, lam = as_time(lam)
        sin, cos = np.sin(self._start), np.cos(self._start)
        return (xp.arctan(xp.sqrt(sin**2 + lam**2) / cos) - self._start) / self._rate
