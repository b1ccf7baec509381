"""Euler-ancestral: Euler in lam = sigma/alpha to below the next level, and noise back to it."""

import dataclasses

from genjax.core.arrays import namespace
from genjax.core.registry import option
from genjax.solvers.base import Solver, clip_positive, lam_ratio


@dataclasses.dataclass(frozen=True)
class EulerAncestral(Solver):
    """lam_up = min(lam', eta lam' sqrt(1 - (lam'/lam)^2)), lam_down = sqrt(lam'^2 - lam_up^2).

    Euler goes from lam to lam_down, then S_noise lam_up z is added (k-diffusion). For eta <= 1 that
    is DDIM with the same eta, for every process; eta = 1 is DDPM with the small variance. Starts
    at alpha = 0, ends at sigma = 0. NFE n.
    """

    eta: float = option(1.0, "share of the ancestral noise (0: Euler in lam)")
    S_noise: float = option(1.0, "factor on the noise")

    def __post_init__(self):
        if self.eta < 0 or self.S_noise <= 0:
            raise ValueError("eta must be >= 0 and S_noise > 0")

    def coefficients(self, t, t_next):
        process, xp = self.process, namespace(t, t_next)
        ratio = lam_ratio(process, t, t_next)
        up = xp.minimum(1.0, self.eta * xp.sqrt(clip_positive(1 - ratio**2)))
        down = xp.sqrt(1 - up**2)
        sigma = process.sigma(t_next)
        row = {
            "a": down * sigma / process.sigma(t),
            "c": process.alpha(t_next) * (1 - ratio * down),
        }
        return row | {"s": self.S_noise * sigma * up} if self.eta > 0 else row
