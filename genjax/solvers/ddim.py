"""DDIM (Song, Meng, Ermon; arXiv 2010.02502), written for any process."""

import dataclasses

from genjax.core.arrays import namespace
from genjax.core.registry import option
from genjax.solvers.base import Solver, clip_positive, lam_ratio


@dataclasses.dataclass(frozen=True)
class DDIM(Solver):
    """x' = alpha' D + sqrt(sigma'^2 - kappa^2) eps + kappa z, eps = (x - alpha D)/sigma.

    kappa = eta sigma' sqrt(1 - (lam'/lam)^2), which for variance-preserving processes is the
    paper's eq. 16. eta = 0 is the exponential-integrator Euler step of the probability-flow ODE
    (DPM-Solver-1), the same as `Euler` in lam; eta = 1 is DDPM with the small variance. Starts
    where alpha = 0 (flow at t = 1) and ends at sigma = 0 without special rows. NFE n.
    """

    eta: float = option(0.0, "share of the ancestral noise put back after each step, 0 to 1")

    def __post_init__(self):
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")

    def coefficients(self, t, t_next):
        process, xp = self.process, namespace(t, t_next)
        alpha, sigma = process.alpha(t_next), process.sigma(t_next)
        kappa = 0.0
        noise = {}
        if self.eta > 0:
            gap = clip_positive(1 - lam_ratio(process, t, t_next) ** 2)
            kappa = self.eta * sigma * xp.sqrt(gap)
            noise = {"s": kappa}
        a = xp.sqrt(clip_positive(sigma**2 - kappa**2)) / process.sigma(t)
        return {"a": a, "c": alpha - a * process.alpha(t), **noise}
