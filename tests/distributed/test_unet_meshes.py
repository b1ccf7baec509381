"""A U-Net's loss and gradients are the same on every mesh, and really split."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.tree import flatten
from genjax.models import MODELS
from genjax.parallel import MeshSpec, Rules, batch_sharding, state_shardings, using

RULES = Rules(replicate_below=0)
# FIR filters, a residual pyramid, labels, attention (at the bottom) and scanned blocks.
MODEL = MODELS.build(
    {
        "name": "unet",
        "variant": "edm-ncsnpp",
        "channels": 16,
        "channel_mult": (1, 1),
        "blocks": 1,
        "attention": (),
        "num_classes": 10,
    }
)
BATCH, SHAPE = 8, (8, 8, 3)
MESHES = {
    "fsdp": MeshSpec(data=1, fsdp=8),
    "data+tensor": MeshSpec(data=2, tensor=4),
    "data+fsdp+tensor": MeshSpec(data=2, fsdp=2, tensor=2),
}


def initialise():
    return MODEL.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), jnp.zeros(1))["params"]


def loss(params, batch):
    cond = {"label": batch["label"], "augment": batch["augment"]}
    out = MODEL.apply({"params": params}, batch["x"], batch["t"], cond)
    return jnp.mean((out - batch["target"]) ** 2)


@pytest.fixture(scope="module")
def problem():
    """Random parameters (a new network's branches are nearly 0), a batch, one device's answer."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(lambda p: 0.1 * normal(*p.shape), nn.unbox(jax.eval_shape(initialise)))
    batch = {
        "x": normal(BATCH, *SHAPE),
        "t": np.linspace(-2.0, 1.0, BATCH, dtype=np.float32),
        "label": np.arange(BATCH, dtype=np.int32) % 11,
        "augment": normal(BATCH, 9),
        "target": normal(BATCH, *SHAPE),
    }
    compiled = jax.jit(jax.value_and_grad(loss)).lower(params, batch).compile()
    return params, batch, compiled(params, batch), compiled.cost_analysis()["flops"]


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_loss_and_gradients_equal_those_of_one_device(problem, name):
    params, batch, (want_loss, want), flops = problem
    mesh = MESHES[name].build()
    shardings = state_shardings(jax.eval_shape(initialise), mesh, RULES)

    def step(params, batch):
        with using(mesh, RULES):
            return jax.value_and_grad(loss)(params, batch)

    args = jax.device_put(params, shardings), jax.device_put(batch, batch_sharding(mesh))
    compiled = jax.jit(step, out_shardings=(None, shardings)).lower(*args).compile()
    found_loss, found = compiled(*args)
    np.testing.assert_allclose(found_loss, want_loss, rtol=1e-6)
    for (path, a), b in zip(flatten(found).items(), jax.tree.leaves(want), strict=True):
        if path.endswith("frequencies"):
            assert not np.any(a) and not np.any(b)
            continue
        scale = np.abs(b).max()
        assert scale > 1e-7, f"{path}: a gradient of nothing proves nothing"
        np.testing.assert_allclose(a, b, rtol=0, atol=5e-5 * scale, err_msg=path)
    # The work is split too: had a constraint been lost, every device would do all of it.
    share = compiled.cost_analysis()["flops"] / flops
    assert share < 2 / mesh.size
