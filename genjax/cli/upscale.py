"""A trained enlarger as a function of pictures: super-resolution of what a model of codes drew."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from genjax.cli.trained import default_ema, open_run, read_params
from genjax.core.errors import UserError
from genjax.tasks import Enlarger


def open_enlarger(path: str, image: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns uint8 images [n, *image] -> uint8 images at the enlarger's multiple of the size.

    `path`: a workdir of `genjax train`; the weights are the first average of its config. Raises
    `UserError` where there is no enlarger, or one of other images.
    """
    run = open_run(path, "--enlarge", Enlarger, "the workdir of a trained enlarger")
    if run.task.codec.image != tuple(image):
        raise UserError(
            f"--enlarge: {path} was trained on images {run.task.codec.image}, but the model draws "
            f"{tuple(image)}; give another"
        )
    params, _ = read_params(path, run, default_ema(run.ema))

    @jax.jit
    def one(x):
        y = run.task.enlarge(params, x[None].astype(jnp.float32) / 255.0)
        return run.task.to_uint8(y)[0]

    return lambda images: np.stack([np.asarray(one(x)) for x in images])
