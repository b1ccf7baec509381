"""The reverse SDE of SiT with a free diffusion coefficient (Ma et al., arXiv 2401.08740)."""

import dataclasses

import numpy as np

from genjax.core.arrays import namespace
from genjax.core.registry import option
from genjax.solvers.base import Solver, slope

_W = ("sigma", "kl", "constant", "sin2")


@dataclasses.dataclass(frozen=True)
class SiTSDE(Solver):
    """Euler-Maruyama on dx = (v - w s) dt + sqrt(2 w) dW, dt < 0, for any w(t) >= 0.

    v is the velocity, s = (alpha D - x)/sigma^2 the score: both follow from *one* evaluation, so
    NFE is n (the released code evaluates the network twice). The last step moves to the mean,
    without noise. SiT's published grid is `uniform` with last = 0.04.

    w is in the units of the released code, which are half the paper's (there the drift has w/2 and
    the noise sqrt(w)): the paper's w = sigma is `w="sigma", scale=0.5`, and its w^KL = g^2 is
    `w="kl", scale=1`, where w = g^2/2 = sigma sigma' - sigma^2 alpha'/alpha (the code's "SBDM";
    scale 1 is Anderson's reversal of the process). "kl" is infinite where alpha = 0: start a
    flow's grid below 1. "sigma" is sigma(t), the code's default; "sin2" is sin^2(pi t).
    """

    w: str = option("sigma", 'diffusion w(t): "sigma", "kl" (half of g^2), "constant" or "sin2"')
    scale: float = option(1.0, "factor on w (0: the deterministic Euler in t)")

    def __post_init__(self):
        if self.w not in _W:
            raise ValueError(f"w must be one of {', '.join(_W)}; got {self.w!r}")
        if self.scale < 0:
            raise ValueError(f"scale must be >= 0, got {self.scale}")

    def coefficients(self, t, t_next):
        process, xp = self.process, namespace(t, t_next)
        h, w = t_next - t, self._diffusion(t)
        p, q = slope(process, t)
        # v - w s = (p x + q D) - w (alpha D - x)/sigma^2
        variance = process.sigma(t) ** 2
        return {
            "a": 1 + h * (p + w / variance),
            "c": h * (q - w * process.alpha(t) / variance),
            "s": xp.sqrt(2 * w * -h),
        }

    def finish(self, rows):
        s = rows["s"].copy()
        s[-1] = 0.0
        return {**rows, "s": s}

    def _diffusion(self, t):
        xp = namespace(t)
        if self.w == "sigma":
            return self.scale * self.process.sigma(t)
        if self.w == "kl":
            return self.scale * self.process.diffusion2(t) / 2
        if self.w == "sin2":
            return self.scale * xp.sin(np.pi * t) ** 2
        return self.scale * xp.ones_like(t)
