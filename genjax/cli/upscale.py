"""A trained enlarger as a function of pictures: super-resolution of what a model of codes drew."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from genjax.checkpoint import Checkpoints, Workdir
from genjax.cli.schema import build_run, expand_run
from genjax.cli.workdir import read_config
from genjax.core.errors import UserError
from genjax.tasks import Enlarger


def open_enlarger(path: str, image: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns uint8 images [n, *image] -> uint8 images at the enlarger's multiple of the size.

    `path`: a workdir of `genjax train`; the weights are the first average of its config. Raises
    `UserError` where there is no enlarger, or one of other images.
    """
    config = read_config(Workdir(path))
    if config is None:
        raise UserError(f"--enlarge: {path} has no config.json; give a trained enlarger's workdir")
    run = build_run(expand_run(config))
    if not isinstance(run.task, Enlarger):
        raise UserError(f"--enlarge: {path} holds a {config['task']['name']}; give an enlarger's")
    if run.task.codec.image != tuple(image):
        raise UserError(
            f"--enlarge: {path} was trained on images {run.task.codec.image}, but the model draws "
            f"{tuple(image)}; give another"
        )
    params, _ = Checkpoints(path).restore_params(next(iter(run.ema), "raw"))

    @jax.jit
    def one(x):
        y = run.task.enlarge(params, x[None].astype(jnp.float32) / 255.0)
        return run.task.to_uint8(y)[0]

    return lambda images: np.stack([np.asarray(one(x)) for x in images])
