"""Grids, solvers as `lax.scan` steps, guidance, and the one sampling function."""

from genjax.core.registry import Registry
from genjax.solvers.ancestral import DDPM
from genjax.solvers.base import Solver
from genjax.solvers.ddim import DDIM
from genjax.solvers.deis import DEIS
from genjax.solvers.dopri5 import RK45
from genjax.solvers.dpm_multistep import (
    DPMpp1,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp3M,
    DPMpp3MSDE,
    DPMSolverMultistep,
)
from genjax.solvers.dpm_solver import DPMpp2S, DPMpp2SAncestral, DPMppSDE, DPMSolver
from genjax.solvers.edm import EDMSampler
from genjax.solvers.euler import Euler, Heun
from genjax.solvers.euler_ancestral import EulerAncestral
from genjax.solvers.grid import (
    IDDPM,
    TSDPM,
    Karras,
    Leading,
    Listed,
    LogSNR,
    Power,
    Quadratic,
    Respaced,
    ScoreSDE,
    Trailing,
    Uniform,
    VPTimes,
)
from genjax.solvers.grid_levels import AlignYourSteps, Exponential, Levels
from genjax.solvers.guidance_rules import GUIDANCES
from genjax.solvers.lms import LMS
from genjax.solvers.pndm import IPNDM, PLMS, PNDM
from genjax.solvers.predictor_corrector import PC
from genjax.solvers.restart import Restart
from genjax.solvers.sample import noise, pad, sample, solve
from genjax.solvers.sde import SiTSDE
from genjax.solvers.unipc import UniPC

GRIDS = Registry(
    "grid",
    {
        "uniform": Uniform,
        "power": Power,
        "score_sde": ScoreSDE,
        "trailing": Trailing,
        "leading": Leading,
        "respaced": Respaced,
        "linspace": Respaced,
        "quadratic": Quadratic,
        "karras": Karras,
        "exponential": Exponential,
        "logsnr": LogSNR,
        "vp": VPTimes,
        "iddpm": IDDPM,
        "ays": AlignYourSteps,
        "ts_dpm": TSDPM,
        "listed": Listed,
        "levels": Levels,
    },
)

SOLVERS = Registry(
    "solver",
    {
        "ddpm": DDPM,
        "ddim": DDIM,
        "euler": Euler,
        "heun": Heun,
        "edm": EDMSampler,
        "restart": Restart,
        "euler_ancestral": EulerAncestral,
        "dpm_solver": DPMSolver,
        "dpm_solver_multistep": DPMSolverMultistep,
        "dpmpp_1": DPMpp1,
        "dpmpp_2s": DPMpp2S,
        "dpmpp_2m": DPMpp2M,
        "dpmpp_3m": DPMpp3M,
        "dpmpp_2s_ancestral": DPMpp2SAncestral,
        "dpmpp_sde": DPMppSDE,
        "dpmpp_2m_sde": DPMpp2MSDE,
        "dpmpp_3m_sde": DPMpp3MSDE,
        "unipc": UniPC,
        "deis": DEIS,
        "lms": LMS,
        "pndm": PNDM,
        "plms": PLMS,
        "ipndm": IPNDM,
        "sit_sde": SiTSDE,
        "pc": PC,
        "rk45": RK45,
    },
)

__all__ = ["GRIDS", "GUIDANCES", "SOLVERS", "Solver", "noise", "pad", "sample", "solve"]
