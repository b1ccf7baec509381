"""Grids given by noise levels lam = sigma/alpha, turned into the process's times."""

import dataclasses

import numpy as np

from genjax.core.errors import UserError
from genjax.core.registry import option, required
from genjax.process.gaussian import Process
from genjax.process.table import Table
from genjax.solvers.grid import level_range, positive

# Align Your Steps (Sabour, Fidler, Kreis; arXiv 2404.14507), 10 steps, the last to 0.
_AYS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034),
}
# The same as indices of Stable Diffusion's table of 1000 betas.
_AYS_INDICES = {
    "sd15": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24),
    "sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13),
}


@dataclasses.dataclass(frozen=True)
class Exponential:
    """n levels uniform in log(sigma/alpha) from sigma_max to sigma_min, then t = 0 (k-diffusion).

    The grid "logsnr" in levels instead of times.
    """

    sigma_min: float | None = option(None, "last noise level before 0 (None: at t_min)")
    sigma_max: float | None = option(None, "first noise level (None: at t_max)")

    def times(self, process: Process, n: int) -> np.ndarray:
        positive(n)
        hi, lo = level_range(process, self.sigma_max, self.sigma_min)
        return ending(process, np.exp(np.linspace(np.log(hi), np.log(lo), n)))


@dataclasses.dataclass(frozen=True)
class Levels:
    """The noise levels sigma/alpha as given; a last 0 is t = 0."""

    lam: tuple[float, ...] = required("all n + 1 levels sigma/alpha, falling, the end included")

    def __post_init__(self):
        if len(self.lam) < 2 or any(a < b for a, b in zip(self.lam, self.lam[1:])):
            raise ValueError(f"lam must hold at least two falling levels, got {self.lam}")
        if self.lam[-2] <= 0 or self.lam[-1] < 0:
            raise ValueError(f"lam must be positive but for a last 0, got {self.lam}")

    def times(self, process: Process, n: int) -> np.ndarray:
        if n != len(self.lam) - 1:
            raise UserError(
                f"sampler.steps: {n}, but sampler.grid.lam lists {len(self.lam) - 1} steps"
            )
        if self.lam[-1] == 0:
            return ending(process, np.array(self.lam[:-1]))
        return ending(process, np.array(self.lam))[:-1]


@dataclasses.dataclass(frozen=True)
class AlignYourSteps:
    """The published levels of 10 steps, or for another n their interpolation in log lam.

    The n levels before 0 are those of n even places along the 10 (Sabour et al., arXiv 2404.14507).
    On a table whose entries are the published ones (`indices`), the 10 steps are those entries.
    """

    model: str = option("sd15", "whose levels: sd15, sdxl or svd (Stable Video Diffusion)")
    indices: bool = option(
        False, "take the published indices of Stable Diffusion's 1000 betas (10 steps alone)"
    )

    def __post_init__(self):
        if self.model not in _AYS:
            raise ValueError(f"model must be one of {', '.join(_AYS)}; got {self.model!r}")
        if self.indices and self.model not in _AYS_INDICES:
            raise ValueError(f"model {self.model!r} has levels only; set indices to false")

    def times(self, process: Process, n: int) -> np.ndarray:
        positive(n)
        published = np.array(_AYS[self.model])
        if self.indices:
            if n != published.size or not isinstance(process, Table) or process.n != 1000:
                raise UserError(
                    "sampler.grid.indices: the published indices are 10 steps of a table of 1000"
                    " betas; set indices to false"
                )
            return np.append(np.array(_AYS_INDICES[self.model]) + 1.0, 0.0)
        places = np.linspace(0, published.size - 1, n)
        log_lam = np.interp(places, np.arange(published.size), np.log(published))
        return ending(process, np.exp(log_lam))


def ending(process: Process, lam: np.ndarray) -> np.ndarray:
    """Returns the times of the levels, and 0 behind them.

    Raises `UserError` where the process does not reach the first level.
    """
    t = process.t_of_lam(lam)
    if t[0] > process.t_max * (1 + 1e-3):
        top = float(process.lam(np.float64(process.t_max)))
        raise UserError(
            f"sampler.grid: the first level {lam[0]:g} lies above the process's last, {top:g};"
            " choose other levels or another process"
        )
    t[0] = min(t[0], process.t_max)
    return np.append(t, 0.0)
