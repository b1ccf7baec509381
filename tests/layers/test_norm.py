"""Norms in float32, without the cancelling variance."""

import jax
import jax.numpy as jnp
import numpy as np

from genjax.layers.norm import LayerNorm, RMSNorm, adaptive_layer_norm, layer_norm


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
