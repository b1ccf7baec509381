"""Noise processes, what networks predict of them, and how training draws times and noise."""

from genjax.core.registry import Registry
from genjax.process.augment import AUGMENTS, Augment
from genjax.process.cosine_vp import CosineVP
from genjax.process.coupling import COUPLINGS, Coupling, Independent, Paired
from genjax.process.denoiser import Denoiser, Output
from genjax.process.gaussian import EDM, VE, VP, Cosine, Process, RectifiedFlow, SubVP
from genjax.process.precond import PRECONDS, Precond
from genjax.process.table import Table
from genjax.process.times import TIMES, TimeDist

PROCESSES = Registry(
    "process",
    {
        "ve": VE,
        "vp": VP,
        "subvp": SubVP,
        "edm": EDM,
        "flow": RectifiedFlow,
        "cosine": Cosine,
        "cosine_vp": CosineVP,
        "table": Table,
    },
)

__all__ = [
    "AUGMENTS",
    "COUPLINGS",
    "EDM",
    "PRECONDS",
    "PROCESSES",
    "TIMES",
    "VE",
    "VP",
    "Augment",
    "Cosine",
    "CosineVP",
    "Coupling",
    "Denoiser",
    "Independent",
    "Output",
    "Paired",
    "Precond",
    "Process",
    "RectifiedFlow",
    "SubVP",
    "Table",
    "TimeDist",
]
