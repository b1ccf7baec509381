"""One training step's loss and gradients of Parti are the same on every mesh, and really split."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.tree import flatten
from genjax.models.parti import Parti
from genjax.objectives.codes import cross_entropy
from genjax.parallel import MeshSpec, Rules, batch_sharding, state_shardings, using

RULES = Rules(replicate_below=0)
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
        assert scale > 1e-8, f"{path}: a gradient of nothing proves nothing"
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * scale, err_msg=path)
    # The work is split too: had a constraint been lost, every device would do all of it.
    assert compiled.cost_analysis()["flops"] / flops < 1.5 / mesh.size
