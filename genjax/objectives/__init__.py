"""Pure losses: `(trained, view, batch, key, progress) -> (loss, Aux)`; no model is imported."""

from genjax.core.registry import Registry
from genjax.objectives.diffusion import Denoising, Flow, Hybrid, Parts

OBJECTIVES = Registry("objective", {"denoising": Denoising, "hybrid": Hybrid, "flow": Flow})

__all__ = ["OBJECTIVES", "Denoising", "Flow", "Hybrid", "Parts"]
