"""The wide residual network: sizes by formula, shapes, standardised inputs, the noise it sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta

from genjax.core.errors import UserError
from genjax.models import MODELS
from genjax.models.wide_resnet import VARIANTS, standardise


def build(**fields):
    return MODELS.build({"name": "wide_resnet", **fields})


def shapes(model, told=True, image=(8, 8, 1)):
    args = (jnp.zeros((1, *image)), *((jnp.zeros(1),) if told else ()))
    return meta.unbox(jax.eval_shape(model.init, jax.random.key(0), *args)["params"])


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def formula(depth, widen, channels, classes, told):
    """Convolutions without bias, norms of two numbers a channel, the embedding, the head."""
    total, before = 9 * channels * 16, 16
    for width in (16 * widen, 32 * widen, 64 * widen):
        for _ in range((depth - 4) // 6):
            total += 2 * before + 9 * before * width + 2 * width + 9 * width * width
            total += (512 + 1) * width if told else 0
            before = width
    total += 2 * before + (before + 1) * classes
    return total + (128 + 257 * 512 + 513 * 512 if told else 0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("told", [True, False])
def test_parameters(variant, told):
    v = VARIANTS[variant]
    found = count(shapes(build(variant=variant), told, (32, 32, 3)))
    assert found == formula(v["depth"], v["widen"], 3, 10, told)
    if variant == "28-10" and not told:
        # WRN-28-10 is known as 36.5 M: ours has no shortcut convolutions (0.3 M).
        assert found == 36_479_194 - 16 * 160 - 160 * 320 - 320 * 640


def test_outputs_and_the_noise_that_it_is_told():
    model = build(depth=10, widen=1)
    x = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
    params = meta.unbox(model.init(jax.random.key(0), x, jnp.zeros(3)))
    run = jax.jit(model.apply)
    out = run(params, x, jnp.zeros(3))
    assert out["logits"].shape == (3, 10) and out["features"].shape == (3, 64)
    assert out["logits"].dtype == out["features"].dtype == jnp.float32
    other = run(params, x, jnp.ones(3))["logits"]
    assert float(jnp.abs(other - out["logits"]).max()) > 1e-3
    # Scale and offset of an image do not matter.
    np.testing.assert_allclose(
        run(params, 3 * x + 2, jnp.zeros(3))["logits"], out["logits"], rtol=1e-3, atol=1e-4
    )
    head = params["params"]["head"]["kernel"]
    assert 0.28 < float(jnp.abs(head).max()) <= 10**-0.5


def test_standardisation():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3)) * 5 + 1
    out = np.asarray(standardise(x))
    np.testing.assert_allclose(out.mean((1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(out.std((1, 2, 3)), 1, rtol=1e-5)
    flat = jax.grad(lambda x: standardise(x).sum())(jnp.ones((1, 4, 4, 3)))
    assert np.isfinite(flat).all()  # guidance differentiates even constant images
    np.testing.assert_allclose(standardise(jnp.ones((1, 4, 4, 3))), 0)


def test_forward_flops_are_those_of_xla_by_and_large():
    model = build(depth=10, widen=2)
    x = jnp.zeros((1, 8, 8, 1))
    params = shapes(model)
    cost = jax.jit(model.apply).lower({"params": params}, x, jnp.zeros(1)).compile()
    flops = cost.cost_analysis()["flops"]
    assert 0.7 < model.forward_flops((8, 8, 1)) / flops < 1.2


@pytest.mark.parametrize("fields", [{"depth": 11}, {"depth": 4}, {"widen": 0}, {"variant": "40-4"}])
def test_sizes_that_are_refused(fields):
    with pytest.raises(UserError):
        build(**fields)
