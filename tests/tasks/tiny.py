"""A diffusion task of one small block, and parameters with which all its inputs matter."""

import jax
import numpy as np
from flax.linen import meta

from genjax.core.registry import construct, expand
from genjax.tasks import Diffusion

MODEL = {
    "name": "dit",
    "patch": 4,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "num_classes": 10,
    "learn_sigma": False,
}


def task(cls=Diffusion, model=None, **fields) -> Diffusion:
    """Returns a task on 8x8 grey images with 17 levels; `fields` as a config gives them."""
    base = {"image": (8, 8, 1), "levels": 17, "precond": {"name": "velocity", "time_scale": 1e3}}
    chosen = {**base, "model": {**MODEL, **(model or {})}, **fields}
    return construct(cls, expand(cls, chosen, "task"), "task")


def parameters(task: Diffusion, seed: int = 0) -> dict:
    """Returns {"model": parameters}: normal values, for DiT's own initial output is zero."""
    rng = np.random.default_rng(seed)
    shapes = meta.unbox(jax.eval_shape(task.init, jax.random.key(0))["params"])
    return jax.tree.map(lambda p: rng.normal(0, 0.25, p.shape).astype(np.float32), shapes)
