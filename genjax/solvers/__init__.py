"""Grids, solvers as `lax.scan` steps, guidance, and the one sampling function."""

from genjax.core.registry import Registry
from genjax.solvers.ancestral import DDPM
from genjax.solvers.base import Solver
from genjax.solvers.ddim import DDIM
from genjax.solvers.euler import Euler, Heun
from genjax.solvers.grid import GRIDS
from genjax.solvers.guidance import GUIDANCES
from genjax.solvers.sample import noise, pad, sample
from genjax.solvers.sde import SiTSDE

SOLVERS = Registry(
    "solver", {"ddpm": DDPM, "ddim": DDIM, "euler": Euler, "heun": Heun, "sit_sde": SiTSDE}
)

__all__ = ["GRIDS", "GUIDANCES", "SOLVERS", "Solver", "noise", "pad", "sample"]
