"""Grids, solvers as `lax.scan` steps, guidance, and the one sampling function."""

from genjax.core.registry import Registry
from genjax.solvers.ancestral import DDPM
from genjax.solvers.base import Solver
from genjax.solvers.ddim import DDIM
from genjax.solvers.dopri5 import RK45
from genjax.solvers.edm import EDMSampler
from genjax.solvers.euler import Euler, Heun
from genjax.solvers.grid import GRIDS
from genjax.solvers.guidance import GUIDANCES
from genjax.solvers.predictor_corrector import PC
from genjax.solvers.sample import noise, pad, sample, solve
from genjax.solvers.sde import SiTSDE

SOLVERS = Registry(
    "solver",
    {
        "ddpm": DDPM,
        "ddim": DDIM,
        "euler": Euler,
        "heun": Heun,
        "edm": EDMSampler,
        "sit_sde": SiTSDE,
        "pc": PC,
        "rk45": RK45,
    },
)

__all__ = ["GRIDS", "GUIDANCES", "SOLVERS", "Solver", "noise", "pad", "sample", "solve"]
