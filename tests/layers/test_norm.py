"""Norms in float32, without the cancelling variance."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.layers.norm import GroupNorm, LayerNorm, RMSNorm, adaptive_layer_norm, layer_norm


def test_a_large_mean_does_not_cost_digits():
    x = 1000.0 + np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    exact = x.astype(np.float64)
    want = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-6)
    ulp = float(np.spacing(np.float32(1000)))  # the mean itself is rounded
    np.testing.assert_allclose(layer_norm(jnp.asarray(x)), want, atol=2 * ulp)
    one_pass = np.square(x).mean(-1) - np.square(x.mean(-1))
    assert np.abs(one_pass / exact.var(-1) - 1).max() > 0.01  # what is avoided


def test_half_precision_has_float32_statistics():
    x = jnp.asarray(100 + np.random.default_rng(0).standard_normal((2, 256)), jnp.bfloat16)
    assert layer_norm(x).dtype == jnp.float32
    np.testing.assert_allclose(layer_norm(x).std(-1), 1.0, atol=1e-4)
    for norm in (LayerNorm(), RMSNorm()):
        assert norm.apply(norm.init(jax.random.key(0), x), x).dtype == jnp.bfloat16


def test_adaptive_norm_shifts_and_scales_per_sample_and_has_the_right_gradient():
    x = jax.random.normal(jax.random.key(0), (2, 3, 8))
    shift, scale = jax.random.normal(jax.random.key(1), (2, 2, 8))
    plain = lambda *a: jnp.sum(jnp.sin(layer_norm(a[0]) * (1 + a[2][:, None]) + a[1][:, None]))  # noqa: E731
    kept = lambda *a: jnp.sum(jnp.sin(adaptive_layer_norm(*a)))  # noqa: E731
    for a, b in zip(
        jax.grad(kept, (0, 1, 2))(x, shift, scale), jax.grad(plain, (0, 1, 2))(x, shift, scale)
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_rms_norm():
    x = jnp.array([[3.0, 4.0]])
    norm = RMSNorm(eps=0.0)
    out = norm.apply({"params": {"scale": jnp.array([1.0, 2.0])}}, x)
    np.testing.assert_allclose(out, [[3 / 12.5**0.5, 8 / 12.5**0.5]], rtol=1e-6)


def test_group_norm_keeps_its_digits_at_a_large_mean_and_in_bfloat16():
    rng = np.random.default_rng(0)
    x = (1000 + rng.standard_normal((2, 4, 4, 6))).astype(np.float32)
    layer = GroupNorm(3, 1e-6)
    variables = layer.init(jax.random.key(0), x)
    groups = x.astype(np.float64).reshape(2, 16, 3, 2)
    want = groups - groups.mean((1, 3), keepdims=True)
    want = (want / np.sqrt((want**2).mean((1, 3), keepdims=True) + 1e-6)).reshape(x.shape)
    np.testing.assert_allclose(layer.apply(variables, x), want, atol=2e-4)
    flax = nn.GroupNorm(3, epsilon=1e-6, use_fast_variance=False)
    for shape in ((3, 4, 6), (2, 3, 4, 4, 6)):  # videos have one more axis
        y = rng.standard_normal(shape).astype(np.float32)
        own = {"params": {k: rng.standard_normal(6).astype(np.float32) for k in ("scale", "bias")}}
        np.testing.assert_allclose(layer.apply(own, y), flax.apply(own, y), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="4 groups do not divide 6 channels"):
        GroupNorm(4).init(jax.random.key(0), x)
    assert layer.apply(variables, x.astype(jnp.bfloat16)).dtype == jnp.float32
