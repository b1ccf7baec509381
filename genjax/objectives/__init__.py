"""Pure losses: `(trained, view, batch, key, progress) -> (loss, Aux)`; no model is imported."""

from genjax.core.registry import Registry
from genjax.objectives.diffusion import Denoising, Flow, Hybrid, Parts
from genjax.objectives.edm2 import Uncertainty

OBJECTIVES = Registry(
    "objective",
    {"denoising": Denoising, "hybrid": Hybrid, "flow": Flow, "edm2": Uncertainty},
)

__all__ = ["OBJECTIVES", "Denoising", "Flow", "Hybrid", "Parts", "Uncertainty"]
