"""Tasks: networks, process, objective, players and sampler of one family, assembled."""

from genjax.core.registry import Registry
from genjax.tasks.classifier import Classifier
from genjax.tasks.diffusion import Diffusion

TASKS = Registry("task", {"diffusion": Diffusion, "classifier": Classifier})

__all__ = ["TASKS", "Classifier", "Diffusion"]
