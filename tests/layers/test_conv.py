"""Convolutions, group normalisation and resampling against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np

from genjax.layers.conv import DOWN, conv, group_norm, upsample


def test_down_pads_bottom_and_right_only():
    # The kernel copies its top-left tap: input pixel (2i, 2j) if nothing pads top or left.
    layer = conv(1, stride=2, padding=DOWN, dtype="float32")
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0)
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    y = layer.apply({"params": {"kernel": kernel, "bias": jnp.zeros(1)}}, x)
    np.testing.assert_array_equal(y[0, :, :, 0], [[0, 2], [8, 10]])


def test_group_norm_keeps_its_digits_at_a_large_mean_and_in_bfloat16():
    rng = np.random.default_rng(0)
    x = (1000 + rng.standard_normal((2, 4, 4, 6))).astype(np.float32)
    layer = group_norm(3, epsilon=1e-6)
    variables = layer.init(jax.random.key(0), x)
    groups = x.astype(np.float64).reshape(2, 16, 3, 2)
    want = groups - groups.mean((1, 3), keepdims=True)
    want = (want / np.sqrt((want**2).mean((1, 3), keepdims=True) + 1e-6)).reshape(x.shape)
    np.testing.assert_allclose(layer.apply(variables, x), want, atol=2e-4)
    assert layer.apply(variables, x.astype(jnp.bfloat16)).dtype == jnp.float32


def test_upsample_repeats_pixels():
    x = jnp.arange(4.0).reshape(1, 1, 2, 2, 1)  # a leading axis more, as in videos
    want = [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    np.testing.assert_array_equal(upsample(x)[0, 0, :, :, 0], want)
