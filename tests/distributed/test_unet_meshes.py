"""A U-Net's loss and gradients are the same on every mesh, and really split."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.models import MODELS
from genjax.parallel import MeshSpec
from tests.distributed.one_device import assert_equal_and_split, on_one_device

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
    return on_one_device(loss, params, batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_loss_and_gradients_equal_those_of_one_device(problem, name):
    mesh = MESHES[name].build()
    assert_equal_and_split(
        problem, loss, initialise, mesh, least=1e-7, tolerance=5e-5, share=2, zero="frequencies"
    )
