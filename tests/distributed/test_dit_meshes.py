"""One training step's loss and gradients of a DiT are the same on every mesh, and really split."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.tree import flatten
from genjax.models.dit import DiT
from genjax.parallel import MeshSpec, Rules, batch_sharding, state_shardings, using

RULES = Rules(replicate_below=0)
MODEL = DiT(patch=2, width=64, depth=2, heads=4, num_classes=10, qk_norm=True)
BATCH, SHAPE = 8, (8, 8, 4)
MESHES = {
    "data": MeshSpec(),
    "fsdp": MeshSpec(data=1, fsdp=8),
    "tensor": MeshSpec(data=2, tensor=4),
    "context": MeshSpec(data=1, context=8),
    "data+fsdp+tensor": MeshSpec(data=2, fsdp=2, tensor=2),
    "fsdp+tensor+context": MeshSpec(data=1, fsdp=2, tensor=2, context=2),
}


def initialise():
    x = jnp.zeros((1, *SHAPE))
    return MODEL.init(jax.random.key(0), x, jnp.zeros(1), jnp.zeros(1, jnp.int32))["params"]


def loss(params, batch):
    out = MODEL.apply({"params": params}, batch["x"], batch["t"], batch["label"])
    return jnp.mean((out - batch["target"]) ** 2)


@pytest.fixture(scope="module")
def problem():
    """Random parameters (a new DiT's gates are 0), a batch, and what one device says."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(lambda p: 0.1 * normal(*p.shape), nn.unbox(jax.eval_shape(initialise)))
    batch = {
        "x": normal(BATCH, *SHAPE),
        "t": np.linspace(0.0, 999.0, BATCH, dtype=np.float32),
        "label": np.arange(BATCH, dtype=np.int32) % 11,
        "target": normal(BATCH, *SHAPE[:2], 2 * SHAPE[2]),
    }
    compiled = jax.jit(jax.value_and_grad(loss)).lower(params, batch).compile()
    return params, batch, compiled(params, batch), compiled.cost_analysis()["flops"]


@pytest.mark.parametrize("name", MESHES)
def test_loss_and_gradients_equal_those_of_one_device(problem, name):
    params, batch, (want_loss, want), flops = problem
    mesh = MESHES[name].build()
    shardings = state_shardings(jax.eval_shape(initialise), mesh, RULES)

    def step(params, batch):
        with using(mesh, RULES):
            return jax.value_and_grad(loss)(params, batch)

    jitted = jax.jit(step, out_shardings=(None, shardings))
    args = jax.device_put(params, shardings), jax.device_put(batch, batch_sharding(mesh))
    compiled = jitted.lower(*args).compile()
    found_loss, found = compiled(*args)
    np.testing.assert_allclose(found_loss, want_loss, rtol=1e-6)
    for (path, a), b in zip(flatten(found).items(), jax.tree.leaves(want), strict=True):
        scale = np.abs(b).max()
        assert scale > 1e-6, f"{path}: a gradient of nothing proves nothing"
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * scale, err_msg=path)
    # The work is split too: had a constraint been lost, every device would do all of it.
    share = compiled.cost_analysis()["flops"] / flops
    assert share < 1.5 / mesh.size
