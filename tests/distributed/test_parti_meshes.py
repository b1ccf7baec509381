"""One training step's loss and gradients of Parti are the same on every mesh, and really split."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.models.parti import Parti
from genjax.objectives.codes import cross_entropy
from genjax.parallel import MeshSpec
from tests.distributed.one_device import assert_equal_and_split, on_one_device

MODEL = Parti(
    codes=64,
    grid=(4, 4),
    vocab=32,
    text_length=8,
    encoder_depth=1,
    depth=2,
    width=32,
    hidden=128,
    heads=8,
    kernel=3,
    dropout=0.0,
)
BATCH = 8
MESHES = {
    "data": MeshSpec(),
    "fsdp": MeshSpec(data=1, fsdp=8),
    "tensor": MeshSpec(data=2, tensor=4),
    "data+fsdp+tensor": MeshSpec(data=2, fsdp=2, tensor=2),
}


def initialise():
    codes, text = jnp.zeros((1, 16), jnp.int32), jnp.ones((1, 8), jnp.int32)
    return MODEL.init(jax.random.key(0), codes, {"tokens": text})["params"]


def loss(params, batch):
    logits = MODEL.apply({"params": params}, batch["codes"], {"tokens": batch["tokens"]})
    return jnp.mean(cross_entropy(logits, batch["codes"])[0])


@pytest.fixture(scope="module")
def problem():
    """Random parameters, a batch, and what one device says."""
    rng = np.random.default_rng(0)
    shapes = nn.unbox(jax.eval_shape(initialise))
    params = jax.tree.map(lambda p: rng.normal(0, 0.1, p.shape).astype(np.float32), shapes)
    tokens = rng.integers(2, 32, (BATCH, 8), dtype=np.int32)
    tokens[:, 5:] = np.array([1, 0, 0])
    batch = {"codes": rng.integers(0, 64, (BATCH, 16), dtype=np.int32), "tokens": tokens}
    return on_one_device(loss, params, batch)


@pytest.mark.parametrize("name", MESHES)
def test_loss_and_gradients_equal_those_of_one_device(problem, name):
    mesh = MESHES[name].build()
    assert_equal_and_split(problem, loss, initialise, mesh, least=1e-8)
