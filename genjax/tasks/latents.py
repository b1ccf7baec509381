"""Images as latents of the probability-flow ODE, and their likelihood (Score SDE, D.2 to D.5).

Every function takes a `Diffusion` task, the parameters of its network, the frozen networks and
arrays, is pure and may be jitted (`task` and `ode` are static). The ODE runs between the process's
first and last time, unguided, and every image has step sizes of its own.
"""

import jax
import jax.numpy as jnp
import numpy as np

from genjax.core import keys as keys_lib
from genjax.core.arrays import Array, Tree, bcast
from genjax.core.errors import UserError
from genjax.solvers.likelihood import (
    DEFAULT,
    ODE,
    ONE_PROBE,
    Likelihood,
    Solved,
    Trace,
    dequantise,
    log_likelihood,
    transport,
)
from genjax.tasks.codec import Identity
from genjax.tasks.diffusion import Diffusion


def encode(
    task: Diffusion, params: Tree, frozen: dict, x: Array, cond=None, ode: ODE = DEFAULT
) -> Solved:
    """Returns the latents of images: `Solved(x [b, *task.shape], nfe [b], ok [b])`.

    `x` [b, h, w, c] float32 in the task's `data_range` (`task.from_pixels` makes it of stored grey
    values); a codec encodes it first, to its mean. `cond`: {"label": int32 [b]} or None. The
    latents of VP-like processes are nearly standard normal, those of VE and EDM have the standard
    deviation sigma_max.
    """
    z = task.codec.encode(frozen.get("codec"), jnp.asarray(x, jnp.float32))
    lo, hi = ode.span(task.process)
    return transport(task.process, denoiser(task, params, cond), z, lo, hi, ode)


def decode(
    task: Diffusion, params: Tree, frozen: dict, z: Array, cond=None, ode: ODE = DEFAULT
) -> Solved:
    """Returns the images of latents [b, *task.shape]: `Solved(x [b, h, w, c], nfe, ok)`.

    The images are float32 in the task's `data_range`, unclipped (`task.to_uint8` makes pixels).
    `decode(encode(x).x).x` is x up to the tolerances of `ode`.
    """
    lo, hi = ode.span(task.process)
    solved = transport(task.process, denoiser(task, params, cond), z, hi, lo, ode)
    return Solved(task.codec.decode(frozen.get("codec"), solved.x), solved.nfe, solved.ok)


def slerp(a: Array, b: Array, w) -> Array:
    """Returns the spherical interpolation of latents a and b [n, ...], `w` a scalar or [n].

    sin((1 - w) angle)/sin(angle) a + sin(w angle)/sin(angle) b with the angle between image i's two
    latents; w = 0 is a, w = 1 is b. Where they lie on one line it is linear.
    """
    axes = tuple(range(1, a.ndim))
    w = bcast(jnp.broadcast_to(jnp.asarray(w, a.dtype), a.shape[:1]), a)
    u, v = (x / jnp.sqrt(jnp.sum(x * x, axes, keepdims=True)) for x in (a, b))
    # The angle by its half chord: arccos of the product would lose half of the digits near 0.
    half = 0.5 * jnp.sqrt(jnp.sum((u - v) ** 2, axes, keepdims=True))
    angle = 2 * jnp.arcsin(jnp.clip(half, 0, 1))
    line = jnp.sin(angle) < 1e-4
    sine = jnp.where(line, 1.0, jnp.sin(angle))
    left = jnp.where(line, 1 - w, jnp.sin((1 - w) * angle) / sine)
    right = jnp.where(line, w, jnp.sin(w * angle) / sine)
    return left * a + right * b


def temper(z: Array, temperature: float) -> Array:
    """Returns latents with their norm multiplied by `temperature`; below 1 images get smoother."""
    return temperature * z


def bits_per_dim(
    task: Diffusion,
    params: Tree,
    images: Array | np.ndarray,
    sample_keys: Array,
    cond=None,
    ode: ODE = DEFAULT,
    trace: Trace = ONE_PROBE,
) -> tuple[Array, Likelihood]:
    """Returns (bits/dim [b], the likelihood behind it) of stored images [b, h, w, c].

    `images` hold grey values 0 .. levels-1, dequantised uniformly here: image i by
    `sample_keys[i]`, which its probes depend on too. The expectation over the dequantisation is an
    upper bound of the bits that the model needs. `UserError` where the process noises a codec's
    latents, whose density says nothing about pixels.
    """
    if not isinstance(task.codec, Identity) or task.latents:
        raise UserError(
            "bits/dim: this model is of a codec's latents, whose density is none of pixels; it is "
            'defined for task.codec.name "identity" alone'
        )
    x = dequantise(images, sample_keys, task.levels, task.data_range)
    probes = jax.vmap(lambda k: keys_lib.fold(k, "probe"))(sample_keys)
    found = log_likelihood(task.process, denoiser(task, params, cond), x, probes, ode, trace)
    return found.bits_per_dim(task.levels, task.data_range), found


def denoiser(task: Diffusion, params: Tree, cond=None):
    """Returns D(x, t) of the task's network under one condition (None: the null label's)."""
    if cond is None and task.num_classes:
        return lambda x, t: task.denoiser(params, x, t, null_label(task, x)).x0
    return lambda x, t: task.denoiser(params, x, t, cond).x0


def null_label(task: Diffusion, x: Array) -> dict[str, Array]:
    """Returns the condition that stands for none, for each image of `x` [b, ...].

    Raises `UserError` where the network has classes and no label that stands for none.
    """
    return task.null({"label": jnp.zeros(x.shape[:1], jnp.int32)})
