"""What the tests of meshes share: a step's loss and gradients against those of one device."""

import jax
import numpy as np

from genjax.core.tree import flatten
from genjax.parallel import Rules, batch_sharding, state_shardings, using

RULES = Rules(replicate_below=0)


def on_one_device(loss, params, batch):
    """Returns (parameters, batch, (loss, gradients), FLOPs) of loss(params, batch)."""
    compiled = jax.jit(jax.value_and_grad(loss)).lower(params, batch).compile()
    return params, batch, compiled(params, batch), compiled.cost_analysis()["flops"]


def assert_equal_and_split(
    problem, loss, initialise, mesh, *, least, tolerance=2e-5, share=1.5, zero=None
):
    """Asserts that the mesh gives the problem's loss and gradients, and splits the work.

    `least`: every gradient is larger somewhere, but those of paths that end with `zero`, which are
    0; `tolerance`: of a gradient's largest entry; `share`: FLOPs of a device over an even share.
    """
    params, batch, (want_loss, want), flops = problem
    shardings = state_shardings(jax.eval_shape(initialise), mesh, RULES)

    def step(params, batch):
        with using(mesh, RULES):
            return jax.value_and_grad(loss)(params, batch)

    args = jax.device_put(params, shardings), jax.device_put(batch, batch_sharding(mesh))
    compiled = jax.jit(step, out_shardings=(None, shardings)).lower(*args).compile()
    found_loss, found = compiled(*args)
    np.testing.assert_allclose(found_loss, want_loss, rtol=1e-6)
    for (path, a), b in zip(flatten(found).items(), jax.tree.leaves(want), strict=True):
        if zero is not None and path.endswith(zero):
            assert not np.any(a) and not np.any(b)
            continue
        scale = np.abs(b).max()
        assert scale > least, f"{path}: a gradient of nothing proves nothing"
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=path)
    # The work is split too: had a constraint been lost, every device would do all of it.
    assert compiled.cost_analysis()["flops"] / flops < share / mesh.size
