"""What scaled skips do to a network: Skip-Tuning's diagnostics (Ma et al., arXiv 2402.15170).

All at one noise level for a batch of data; `rho` [k] holds a factor for each skip, in the order of
the encoder (ones: the network as it was trained).
"""

from collections.abc import Callable

import jax.numpy as jnp

from genjax.core.arrays import Array, Tree
from genjax.core.errors import UserError
from genjax.solvers.base import standard_normal
from genjax.tasks.diffusion import Diffusion


def norm_ratios(
    task: Diffusion, params: Tree, x0: Array, t: Array, keys: Array, cond=None, rho=None
) -> Array:
    """Returns prop [k]: |d_i|/|u_i| of each skip d_i and what it is joined to, u_i.

    Averaged over the images x0 [b, ...] noised to the time t; bottom first, as the paper counts.
    The paper finds it smaller in networks distilled to few steps. Raises `UserError` for a network
    that has no such skips to show.
    """
    k = getattr(task.model, "num_skips", 0)
    if not k or not hasattr(task.model, "skip_scales"):
        raise UserError(f"a {type(task.model).__name__} has no long skips to measure; take a unet")
    names = [f"{kind}_{i}" for kind in ("skip", "backbone") for i in range(k)]
    x = _noised(task, x0, t, keys)
    found = task.denoiser(params, x, t, cond, inputs=_inputs(rho), features=names).features
    assert found is not None  # they were asked for
    ratios = [_norm(found[f"skip_{i}"]) / _norm(found[f"backbone_{i}"]) for i in range(k)]
    return jnp.stack([jnp.mean(ratio) for ratio in ratios])[::-1]


def denoising_errors(
    task: Diffusion,
    params: Tree,
    x0: Array,
    t: Array,
    keys: Array,
    cond=None,
    rho=None,
    features: Callable[[Array], Array] | None = None,
) -> tuple[Array, Array | None]:
    """Returns E|D(x_t) - x0|^2 per pixel, and of `features` per feature (None without them).

    `features` maps images [b, h, w, c] in the data range to [b, n]: a fixed discriminative network.
    The paper's finding: below rho = 1 the first rises and, at intermediate noise, the second falls.
    """
    x = _noised(task, x0, t, keys)
    d = task.denoiser(params, x, t, cond, inputs=_inputs(rho)).x0
    pixel = jnp.mean(jnp.square(d - x0))
    if features is None:
        return pixel, None
    return pixel, jnp.mean(jnp.square(features(d) - features(x0)))


def _noised(task: Diffusion, x0: Array, t, keys: Array) -> Array:
    process = task.process
    return process.alpha(t) * x0 + process.sigma(t) * standard_normal(keys, x0)


def _inputs(rho) -> dict[str, Array] | None:
    return None if rho is None else {"skip_scale": jnp.asarray(rho, jnp.float32)}


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32).reshape(x.shape[0], -1)), axis=1))
