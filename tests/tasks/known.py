"""A whole task whose network is the best denoiser of Gaussian pixels."""

import dataclasses

import jax.numpy as jnp

from genjax.tasks import Diffusion
from tests.solvers.solver_toys import gaussian
from tests.tasks.tiny import task

STD = 0.4
PARAMS = {"shift": jnp.float32(0.1)}


@dataclasses.dataclass(frozen=True)
class Known(Diffusion):
    """The best denoiser of pixels N(shift + label/10, STD^2)."""

    def _apply(self, params, x, time, cond, **kwargs):
        mean = 0.0 if cond is None else cond["label"][:, None, None, None] / 10
        return gaussian(self.process, params["shift"] + mean, STD)(x, time)


def known(process="vp", classes=0, model=None, **fields) -> Diffusion:
    """Returns the task on 2x2 grey images with 17 levels, unless `fields` say otherwise."""
    base = {"image": (2, 2, 1), "levels": 17}
    return task(
        Known,
        {"num_classes": classes, **(model or {})},
        process={"name": process},
        precond={"name": "x0", "time": "t"},
        **{**base, **fields},
    )
