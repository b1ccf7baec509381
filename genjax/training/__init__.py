"""The one loop, its step, optimisers, averages of the weights, hooks and writers.

Configuration is here; the loop itself is `genjax.training.loop` (it imports orbax).
"""

from genjax.training.ema import EMAS
from genjax.training.optimizers import OPTIMIZERS
from genjax.training.settings import (
    CheckpointSettings,
    EvaluationSettings,
    HeldoutSettings,
    LogSettings,
    SampleSettings,
    TrainSettings,
)

__all__ = [
    "EMAS",
    "OPTIMIZERS",
    "CheckpointSettings",
    "EvaluationSettings",
    "HeldoutSettings",
    "LogSettings",
    "SampleSettings",
    "TrainSettings",
]
