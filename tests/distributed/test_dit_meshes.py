"""One training step's loss and gradients of a DiT are the same on every mesh, and really split."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.models.dit import DiT
from genjax.parallel import MeshSpec
from tests.distributed.one_device import assert_equal_and_split, on_one_device

MODEL = DiT(patch=2, width=40, depth=2, heads=4, num_classes=10, qk_norm=True)
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
    return on_one_device(loss, params, batch)


@pytest.mark.parametrize("name", MESHES)
def test_loss_and_gradients_equal_those_of_one_device(problem, name):
    mesh = MESHES[name].build()
    rows = BATCH // (mesh.shape["data"] * mesh.shape["fsdp"])
    # The modulation of a block, and of the end, comes together over the tensor axis.
    also = [rows * n * MODEL.width for n in (6, 2)]
    assert_equal_and_split(problem, loss, initialise, mesh, least=1e-6, also=also)
