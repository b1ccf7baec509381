"""Tasks: networks, process, objective, players and sampler of one family, assembled."""

from genjax.core.registry import Registry
from genjax.tasks.autoregressive import Autoregressive
from genjax.tasks.classifier import Classifier
from genjax.tasks.coca import Captioner
from genjax.tasks.diffusion import Diffusion
from genjax.tasks.enlarger import Enlarger
from genjax.tasks.tokenizer import Tokenizer

TASKS = Registry(
    "task",
    {
        "diffusion": Diffusion,
        "classifier": Classifier,
        "tokenizer": Tokenizer,
        "enlarger": Enlarger,
        "autoregressive": Autoregressive,
        "coca": Captioner,
    },
)

__all__ = [
    "TASKS",
    "Autoregressive",
    "Captioner",
    "Classifier",
    "Diffusion",
    "Enlarger",
    "Tokenizer",
]
