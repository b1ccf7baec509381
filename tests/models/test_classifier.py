"""The classifier: shapes, sizes, axes, independence of samples, and its work counted twice."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core import tree
from genjax.core.errors import UserError
from genjax.models import MODELS
from genjax.models.classifier import ConvClassifier


def made(shape, **fields):
    module = ConvClassifier(**fields)
    x = jax.random.uniform(jax.random.key(1), (3, *shape), minval=-1, maxval=1)
    return module, nn.unbox(jax.jit(module.init)(jax.random.key(0), x)["params"]), x


@pytest.mark.parametrize(
    "fields, shape, params",
    [
        ({"width": 32, "stages": 2}, (8, 8, 1), 70_186),
        ({"width": 24, "stages": 3, "stem": 2}, (28, 28, 1), 168_786),
    ],
)
def test_sizes_of_the_configs_and_axes_of_the_parameters(fields, shape, params):
    module = MODELS.build({"name": "classifier"} | fields)
    boxed = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    assert tree.size(nn.unbox(boxed)) == params
    assert boxed["stage0_down"]["kernel"].names == (None, None, None, "channels")
    boxes = jax.tree.leaves(boxed, is_leaf=lambda b: isinstance(b, nn.LogicallyPartitioned))
    assert all(isinstance(b, nn.LogicallyPartitioned) for b in boxes)


@pytest.mark.parametrize("shape", [(8, 8, 1), (12, 20, 3)])
def test_outputs(shape):
    module, params, x = made(shape, num_classes=7, width=8, features=12)
    apply = jax.jit(lambda x: module.apply({"params": params}, x))
    out = apply(x)
    assert out["features"].shape == (3, 12) and out["logits"].shape == (3, 7)
    assert out["features"].dtype == out["logits"].dtype == jnp.float32
    head = params["head"]
    logits = np.asarray(out["features"]) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(out["logits"], logits, rtol=1e-5, atol=1e-6)
    others = apply(jnp.stack([x[2], x[1], x[2]]))  # a sample does not see its batch
    np.testing.assert_allclose(others["features"][1], out["features"][1], rtol=1e-5, atol=1e-6)


def test_bfloat16_computes_in_it_and_answers_in_float32():
    module, params, x = made((8, 8, 1), width=8)
    features = {}
    for dtype in ("float32", "bfloat16"):
        network = module.clone(dtype=dtype)
        features[dtype] = jax.jit(network.apply)({"params": params}, x)["features"]
    assert features["bfloat16"].dtype == jnp.float32
    error = jnp.abs(features["bfloat16"] - features["float32"]).max()
    assert 1e-5 < float(error / jnp.abs(features["float32"]).max()) < 0.05


def test_flops_are_those_that_the_compiler_counts():
    # XLA leaves out products with the padding and adds norms and activations: near, not equal.
    module, params, _ = made((32, 32, 1), width=32, stages=2, stem=2)
    apply = jax.jit(lambda p, x: module.apply({"params": p}, x)["logits"])
    cost = apply.lower(params, jnp.zeros((1, 32, 32, 1))).compile().cost_analysis()
    assert module.forward_flops((32, 32, 1)) == pytest.approx(cost["flops"], rel=0.1)


def test_wrong_fields_are_named():
    for fields, message in (
        ({"width": 12}, "width 12 must be a multiple of groups 8"),
        ({"stages": 0}, "at least 1"),
        ({"layers": 3}, "config.model.layers: unknown key"),
    ):
        with pytest.raises(UserError, match=message):
            MODELS.build({"name": "classifier"} | fields, "config.model")
